//! What the golden tests of several crates share: the cases that `tools/golden` ran in nanochat, their weights and tokens, and
//! the comparison with what came out. See `tools/golden/README.md`.
#![allow(dead_code, reason = "each crate's tests use a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the tables of errors are there to be read")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_base::tensors::{Dtype, TensorFile, TensorInfo, TensorWriter};
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, GptConfig, Init, ModelConfig, Preset};

pub(crate) mod exact;

use exact::{Numbers, WHOLE, norm, sketch};

/// Entries in use; tables have 256 rows.
pub(crate) const VOCAB: usize = 250;
/// T: January's short window is 256, July's 128.
pub(crate) const TOKENS: usize = 512;
/// Where whole tensors are written for `tools/golden/compare.py`, when it is set.
pub(crate) const DUMP: &str = "FARTHING_GOLDEN_DUMP";
/// A sketch's distance is off by 3.1% (one deviation): nearly ten of them.
const SKETCH_SLACK: f64 = 1.3;

/// Which weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Every gate, cap and mix bends; no tensor is zero.
    Lively,
    /// The recipe's initialisation with its zero tensors filled.
    Start,
    /// The recipe's initialisation.
    Real,
}

/// The setting that a case is named after.
pub(crate) fn preset(case: &str) -> Preset {
    if case.starts_with("january") { Preset::Nanochat202601 } else { Preset::Nanochat202607 }
}

/// `aspect` channels per layer of depth, heads of `head_dim`, all else the setting's.
pub(crate) fn model(case: &str, depth: usize, aspect: usize, head_dim: usize) -> ModelConfig {
    ModelConfig {
        aspect_ratio: Some(aspect),
        head_dim: Some(head_dim),
        ..ModelConfig::new(preset(case), depth)
    }
}

/// The models of the gradient cases.
pub(crate) fn gradient_case(case: &str) -> GptConfig {
    let depth = if case.ends_with("d2") { 2 } else { 4 };
    let kv_heads = (case == "july-d4").then_some(2);
    ModelConfig { kv_heads, ..model(case, depth, 64, 64) }.resolve(VOCAB, TOKENS).unwrap()
}

/// Writes a case's weights, numbers of f32 on every device.
pub(crate) fn fill(case: &str, style: Style, gpt: &Gpt, dev: &dyn Device, params: &mut Params) {
    for spec in gpt.params() {
        let n = spec.shape.elements();
        let numbers = Numbers::new(&format!("{case}/{}", spec.name));
        let channels = gpt.config().model_dim;
        let values: Vec<f64> = (0..n)
            .map(|i| match style {
                Style::Lively => lively(&spec.name, numbers, i, channels),
                Style::Start => {
                    start(&spec.name, numbers, i).unwrap_or_else(|| real(&spec.init, numbers, i, n))
                }
                Style::Real => real(&spec.init, numbers, i, n),
            })
            .map(|x| f64::from(x as f32))
            .collect();
        dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
    }
    params.refresh_compute(dev).unwrap();
}

/// The last part of a name, before `.weight`.
fn kind(name: &str) -> &str {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    name.rsplit('.').next().unwrap_or(name)
}

fn lively(name: &str, numbers: Numbers, i: usize, channels: usize) -> f64 {
    let (mean, std) = match kind(name) {
        "smear_lambda" => return 0.3,
        "backout_lambda" => return 0.2,
        "wte" => (0.0, 1.0),
        "lm_head" => (0.0, 0.2),
        "ve_gate" | "smear_gate" => (0.0, 0.3),
        "c_proj" => (0.0, 0.05),
        "resid_lambdas" => (1.0, 0.1),
        "x0_lambdas" => (0.2, 0.1),
        _ => (0.0, 1.0 / (channels as f64).sqrt()),
    };
    mean + std * numbers.normal(i)
}

fn start(name: &str, numbers: Numbers, i: usize) -> Option<f64> {
    match kind(name) {
        "c_proj" => Some(0.05 * numbers.normal(i)),
        "smear_lambda" => Some(0.3),
        "ve_gate" => Some(0.02 * numbers.uniform(i)),
        _ => None,
    }
}

fn real(init: &Init, numbers: Numbers, i: usize, n: usize) -> f64 {
    match *init {
        Init::Normal { std } => std * numbers.normal(i),
        Init::Uniform { low, high } => low + (high - low) * numbers.uniform(i),
        Init::Constant(value) => value,
        Init::Linear { first, last } => {
            first + (last - first) * i as f64 / n.saturating_sub(1).max(1) as f64
        }
        ref other => panic!("{other:?} is new: teach tools/golden/cases.py too"),
    }
}

/// a / b, and 0 where both are 0.
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { a / b }
}

/// One case's results, from nanochat.
pub(crate) struct Golden {
    case: String,
    file: TensorFile,
    norms: BTreeMap<String, f64>,
    rows: Vec<Row>,
    dump: Vec<(String, Vec<f64>)>,
}

/// One line of the table of errors.
struct Row {
    name: String,
    error: f64,
    norm: f64,
    sketched: bool,
    note: String,
}

impl Golden {
    /// `tests/golden/{case}.safetensors` of the crate in `folder`.
    pub(crate) fn open(folder: &str, case: &str) -> Self {
        let path = Path::new(folder).join(format!("tests/golden/{case}.safetensors"));
        let file = TensorFile::open(&path).unwrap();
        let norms = serde_json::from_str(file.metadata("norms").unwrap_or("{}")).unwrap();
        Self { case: case.into(), file, norms, rows: vec![], dump: vec![] }
    }

    /// A tensor of the file.
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        let bytes = self.file.bytes(name).unwrap();
        match self.file.info(name).unwrap().dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            Dtype::F64 => {
                bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            other => panic!("`{name}` holds {other:?}"),
        }
    }

    /// ‖ours − theirs‖ / ‖theirs‖, measured by sketches where the tensor is large; a line of the table, and of the dump.
    pub(crate) fn compare(&mut self, name: &str, ours: &[f64], note: String) -> f64 {
        let (theirs, norm) = (self.values(name), self.norms[name]);
        let sketched = ours.len() > WHOLE;
        let ours_seen = sketch(name, ours);
        assert_eq!(ours_seen.len(), theirs.len(), "{name}");
        let difference: Vec<f64> = ours_seen.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        let error = ratio(self::norm(&difference), norm);
        self.rows.push(Row { name: name.into(), error, norm, sketched, note });
        self.dump.push((name.into(), ours.to_vec()));
        if sketched { error * SKETCH_SLACK } else { error }
    }

    /// A line for a comparison of another kind.
    pub(crate) fn row(&mut self, name: &str, error: f64, norm: f64, note: String) -> f64 {
        self.rows.push(Row { name: name.into(), error, norm, sketched: false, note });
        error
    }

    /// Prints the table, and writes whole tensors where they are asked for.
    pub(crate) fn finish(self) {
        let origin = self.file.metadata("origin").unwrap_or("unknown");
        println!("\n{}: {origin}", self.case);
        println!("  {:<40} {:>9}  {:>10}", "", "error", "norm");
        for Row { name, error, norm, sketched, note } in &self.rows {
            let about = if *sketched { "≈" } else { " " };
            println!("  {name:<40} {about}{error:>8.2e}  {norm:>10.4e}  {note}");
        }
        let Some(folder) = std::env::var_os(DUMP) else { return };
        let path = PathBuf::from(folder).join(format!("{}.safetensors", self.case));
        let infos: Vec<TensorInfo> = self
            .dump
            .iter()
            .map(|(name, values)| TensorInfo {
                name: name.clone(),
                dtype: Dtype::F64,
                shape: vec![values.len()],
            })
            .collect();
        let mut writer = TensorWriter::create(&path, &infos, &BTreeMap::new()).unwrap();
        for (_, values) in &self.dump {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            writer.write(&bytes).unwrap();
        }
        writer.finish().unwrap();
        println!("  whole tensors: {}", path.display());
    }
}
