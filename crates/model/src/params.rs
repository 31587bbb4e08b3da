//! The list of parameters: number, checkpoint name, shape and starting values. Knows neither slabs nor optimizers.

use std::ops::Range;

use farthing_base::random::Stream;
use farthing_kernels::{Device, ParamId, Part, Shape};
use rayon::prelude::*;

use crate::{GptConfig, Mlp, Result};

/// How a parameter starts.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Init {
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform between two bounds.
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// One value everywhere.
    Constant(f64),
    /// One value per element, linear from the first to the last.
    Linear {
        /// The first element.
        first: f64,
        /// The last element.
        last: f64,
    },
}

/// One parameter of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamSpec {
    /// Its number: its place in [`Gpt::params`](crate::Gpt::params).
    pub id: ParamId,
    /// Its name in checkpoints, nanochat's.
    pub name: String,
    /// (out, in) for matrices, (entries, channels) for tables, (n) for vectors.
    pub shape: Shape,
    /// How it starts.
    pub init: Init,
}

/// The numbers of one layer's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerIds {
    /// Queries, (H·D, C).
    pub c_q: ParamId,
    /// Keys, (K·D, C).
    pub c_k: ParamId,
    /// Values, (K·D, C).
    pub c_v: ParamId,
    /// Attention's output, (C, H·D).
    pub attn_proj: ParamId,
    /// SwiGLU's gate, (M, C) with M [`GptConfig::mlp_dim`].
    pub c_gate: Option<ParamId>,
    /// The MLP's matrix in, (M, C).
    pub c_fc: ParamId,
    /// The MLP's matrix out, (C, M).
    pub mlp_proj: ParamId,
    /// The value embedding's gate (K, G) and table (V, K·D), in layers that have one.
    pub value: Option<ValueIds>,
}

impl LayerIds {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = ParamId> + use<> {
        let Self { c_q, c_k, c_v, attn_proj, c_gate, c_fc, mlp_proj, value } = *self;
        let value = value.into_iter().flat_map(|ValueIds { gate, table }| [gate, table]);
        [c_q, c_k, c_v, attn_proj, c_fc, mlp_proj].into_iter().chain(c_gate).chain(value)
    }
}

/// The numbers of a value embedding's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValueIds {
    /// (K, G).
    pub gate: ParamId,
    /// (V, K·D).
    pub table: ParamId,
}

/// The numbers of smear's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmearIds {
    /// (1, G).
    pub gate: ParamId,
    /// (1).
    pub lambda: ParamId,
}

/// The numbers of all parameters, by what they do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParamIds {
    /// Token embeddings, (V, C).
    pub wte: ParamId,
    /// Per layer.
    pub layers: Vec<LayerIds>,
    /// The head, (V, C).
    pub lm_head: ParamId,
    /// Factors on the stream, (L).
    pub resid_lambdas: ParamId,
    /// Factors on the first stream, (L).
    pub x0_lambdas: ParamId,
    /// Smear, where the model has it.
    pub smear: Option<SmearIds>,
    /// The factor on the middle of the network, (1), where the model has it.
    pub backout_lambda: Option<ParamId>,
}

impl ParamIds {
    /// All that are neither a layer's nor the head's.
    pub fn around(&self) -> impl Iterator<Item = ParamId> + use<> {
        let &Self { wte, resid_lambdas, x0_lambdas, smear, backout_lambda, .. } = self;
        let smear = smear.into_iter().flat_map(|SmearIds { gate, lambda }| [gate, lambda]);
        [wte, resid_lambdas, x0_lambdas].into_iter().chain(smear).chain(backout_lambda)
    }
}

/// Builds the list and the numbers together, so that they cannot disagree.
pub(crate) fn list(config: &GptConfig) -> (Vec<ParamSpec>, ParamIds) {
    let mut specs = Vec::new();
    let mut add = |name: String, shape: Shape, init: Init| {
        let id = ParamId(specs.len());
        specs.push(ParamSpec { id, name, shape, init });
        id
    };
    let [c, v] = [config.model_dim, config.padded_vocab()];
    let [q_dim, kv_dim] = [config.heads, config.kv_heads].map(|heads| heads * config.head_dim);
    let bound = (3.0 / c as f64).sqrt();
    let uniform = |bound: f64| Init::Uniform { low: -bound, high: bound };
    let up_to = |high: f64| match high {
        0.0 => Init::Constant(0.0),
        _ => Init::Uniform { low: 0.0, high },
    };
    let linear = |[first, last]: [f64; 2]| Init::Linear { first, last };
    let zero = Init::Constant(0.0);

    let wte = add(
        "transformer.wte.weight".into(),
        [v, c].into(),
        Init::Normal { std: config.init_wte_std },
    );
    let mut layers = Vec::with_capacity(config.depth);
    for i in 0..config.depth {
        let mut matrix = |name: &str, shape: [usize; 2], init: Init| {
            add(format!("transformer.h.{i}.{name}.weight"), shape.into(), init)
        };
        let c_q = matrix("attn.c_q", [q_dim, c], uniform(bound));
        let c_k = matrix("attn.c_k", [kv_dim, c], uniform(bound));
        let c_v = matrix("attn.c_v", [kv_dim, c], uniform(bound));
        let attn_proj = matrix("attn.c_proj", [c, q_dim], zero.clone());
        let gate = config.has_value_embed(i).then(|| {
            let shape = [config.kv_heads, config.ve_gate_channels];
            matrix("attn.ve_gate", shape, up_to(config.init_ve_gate))
        });
        let (m, bound_in) = (config.mlp_dim(), bound * config.init_c_fc);
        let c_gate =
            (config.mlp == Mlp::Swiglu).then(|| matrix("mlp.c_gate", [m, c], uniform(bound_in)));
        let c_fc = matrix("mlp.c_fc", [m, c], uniform(bound_in));
        let mlp_proj = matrix("mlp.c_proj", [c, m], zero.clone());
        let value = gate.map(|gate| {
            let table = add(format!("value_embeds.{i}.weight"), [v, kv_dim].into(), uniform(bound));
            ValueIds { gate, table }
        });
        layers.push(LayerIds { c_q, c_k, c_v, attn_proj, c_gate, c_fc, mlp_proj, value });
    }
    let lm_head =
        add("lm_head.weight".into(), [v, c].into(), Init::Normal { std: config.init_lm_head_std });
    let per_layer = Shape::from([config.depth]);
    let resid_lambdas = add("resid_lambdas".into(), per_layer, linear(config.init_resid_lambda));
    let x0_lambdas = add("x0_lambdas".into(), per_layer, linear(config.init_x0_lambda));
    let smear = config.smear.then(|| {
        let shape = [1, config.smear_channels].into();
        let gate = add("smear_gate.weight".into(), shape, up_to(SMEAR_GATE_INIT));
        SmearIds { gate, lambda: add("smear_lambda".into(), [1].into(), zero.clone()) }
    });
    let backout_lambda = config.backout.then(|| {
        let init = Init::Constant(config.init_backout_lambda);
        add("backout_lambda".into(), [1].into(), init)
    });
    let ids = ParamIds { wte, layers, lm_head, resid_lambdas, x0_lambdas, smear, backout_lambda };
    (specs, ids)
}

/// `smear_gate` starts uniform in 0..this.
const SMEAR_GATE_INIT: f64 = 0.02;

/// Elements that are computed and written at a time, so that a large table needs no second copy on the host.
const CHUNK: usize = 1 << 20;

/// Elements below which handing work to another thread takes longer than the work.
const MIN_PER_THREAD: usize = 1 << 10;

/// Writes a part of a parameter's starting values: on the host in f64, on all cores, rounded by the device to its master type. Each value depends on its
/// index alone, so that weights are equal on every device and for any number of threads.
pub(crate) fn write_init(
    dev: &dyn Device,
    Part { range, master }: Part<'_>,
    spec: &ParamSpec,
    seed: u64,
) -> Result<()> {
    if let Init::Constant(value) = spec.init {
        return Ok(dev.fill(master, value)?);
    }
    let stream = Stream::new(seed, &spec.name);
    let n = spec.shape.elements();
    let mut rest = master;
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + CHUNK);
        let values = on_all_cores(start..end, |i| spec.init.value(&stream, i, n));
        let (chunk, tail) = rest.split_rows(end - start)?;
        dev.write_f64(chunk, &values)?;
        (rest, start) = (tail, end);
    }
    Ok(())
}

/// `f` of each number, in their order, computed by all threads of the pool.
fn on_all_cores(range: Range<usize>, f: impl Fn(usize) -> f64 + Send + Sync) -> Vec<f64> {
    range.into_par_iter().with_min_len(MIN_PER_THREAD).map(f).collect()
}

impl Init {
    /// Element `i` of `n`.
    fn value(&self, stream: &Stream, i: usize, n: usize) -> f64 {
        match *self {
            Init::Normal { std } => std * stream.normal(i as u64),
            Init::Uniform { low, high } => low + (high - low) * stream.uniform(i as u64),
            Init::Constant(value) => value,
            Init::Linear { first, last } => {
                first + (last - first) * i as f64 / (n - 1).max(1) as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    #[test]
    fn starting_values_are_computed_by_several_threads_at_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let (seen, another) = (Mutex::new(BTreeSet::new()), Condvar::new());
        let value = |i: usize| {
            let mut threads = seen.lock().unwrap();
            threads.insert(rayon::current_thread_index());
            another.notify_all();
            // The first number waits for a second thread to come by; where there is none it gives up.
            if i == 5 {
                let alone = |threads: &mut BTreeSet<_>| threads.len() < 2;
                drop(another.wait_timeout_while(threads, Duration::from_secs(20), alone).unwrap());
            }
            i as f64
        };
        let values = pool.install(|| on_all_cores(5..CHUNK + 5, value));
        assert!(seen.lock().unwrap().len() > 1, "one thread computed everything");
        assert!(values.iter().enumerate().all(|(i, &x)| x == (i + 5) as f64));
    }
}
