//! Where the time went: the machine's pieces, gathered under the operations that asked for them.

use std::collections::BTreeMap;
use std::time::Instant;

use farthing_kernels::cuda::gemm::Product;
use farthing_kernels::cuda::watched::{Piece, Recording, Work};
use farthing_kernels::traced::Call;
use serde_json::{Value, json};

use crate::training::Training;

/// What a machine reached at best in the same run.
pub(crate) struct Ceilings {
    /// Bytes read and written by a copy.
    pub(crate) bytes_per_s: f64,
    pub(crate) flops_per_s: f64,
    /// Of the product's three sides.
    pub(crate) side: usize,
}

/// What was recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    MicroBatch,
    Update,
}

/// Where in a step an operation stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    Forward,
    Head,
    Backward,
    Update,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Head => "head",
            Self::Backward => "backward",
            Self::Update => "update",
        }
    }
}

/// One kind of operation in one phase; products of different sizes apart.
#[derive(Default)]
struct Line {
    calls: usize,
    seconds: f64,
    flops: f64,
    bytes: f64,
    /// By kernel, product or other kind of work.
    pieces: BTreeMap<String, Piecework>,
}

/// All launches of a kernel or product.
#[derive(Clone, Copy, Default)]
struct Piecework {
    launches: usize,
    seconds: f64,
    /// Of products.
    flops: f64,
}

impl Piecework {
    fn add(&mut self, other: &Self) {
        self.launches += other.launches;
        self.seconds += other.seconds;
        self.flops += other.flops;
    }
}

/// How a product's name among the pieces begins.
const PRODUCT: &str = "product ";

/// Phase, operation, and a product's sizes.
type Key = (Phase, &'static str, String);

/// All lines of a step.
pub(crate) struct Table {
    lines: BTreeMap<Key, Line>,
}

impl Table {
    pub(crate) fn new(
        training: &Training<'_>,
        part: Part,
        opened: Instant,
        calls: &[Call],
        recording: &Recording,
    ) -> Self {
        let mut table = Self { lines: BTreeMap::new() };
        table.add(training, part, opened, calls, recording);
        table
    }

    /// Adds what was recorded while `calls` were made. A piece belongs to the call during which the host asked for it.
    pub(crate) fn add(
        &mut self,
        training: &Training<'_>,
        part: Part,
        opened: Instant,
        calls: &[Call],
        recording: &Recording,
    ) {
        let sizes = Sizes::of(training);
        // Each chunk of the head is its logits, their losses and gradient, and two products more.
        let is_loss = |call: &Call| call.op == "cross_entropy";
        let head = match (calls.iter().position(is_loss), calls.iter().rposition(is_loss)) {
            (Some(first), Some(last)) => first.saturating_sub(1)..last + 3,
            _ => calls.len()..calls.len(),
        };
        let mut pieces = recording.pieces.iter().peekable();
        for (i, call) in calls.iter().enumerate() {
            let ended = opened + call.start + call.duration;
            let mut own: Vec<&Piece> = vec![];
            while let Some(piece) = pieces.next_if(|piece| piece.asked <= ended) {
                own.push(piece);
            }
            let product = match own[..] {
                [Piece { work: Work::Product(product), .. }] => Some(*product),
                _ => None,
            };
            let phase = match part {
                Part::Update => Phase::Update,
                Part::MicroBatch if i < head.start => Phase::Forward,
                Part::MicroBatch if i < head.end => Phase::Head,
                Part::MicroBatch => Phase::Backward,
            };
            let text = product.map_or(String::new(), |product| sizes_of(&product));
            let line = self.lines.entry((phase, call.op, text)).or_default();
            line.calls += 1;
            let mut multiplied = 0.0;
            for &Piece { work, seconds, .. } in own {
                let (name, flops) = match work {
                    Work::Kernel(name) => (name.to_owned(), 0.0),
                    Work::Product(product) => {
                        (format!("{PRODUCT}{}", sizes_of(&product)), flops(&product))
                    }
                    Work::Copy(_) => ("copy".into(), 0.0),
                    Work::Zero(_) => ("zero".into(), 0.0),
                    Work::Write(_) => ("from the host".into(), 0.0),
                    Work::Read(_) => ("to the host".into(), 0.0),
                    _ => ("other".into(), 0.0),
                };
                line.seconds += seconds;
                multiplied += flops;
                line.pieces.entry(name).or_default().add(&Piecework {
                    launches: 1,
                    seconds,
                    flops,
                });
            }
            line.flops += multiplied;
            if multiplied == 0.0 {
                match sizes.attention_flops(call.op) {
                    Some(flops) => line.flops += flops,
                    None => line.bytes += sizes.moved(call),
                }
            }
        }
    }

    fn seconds(&self) -> f64 {
        self.lines.values().map(|line| line.seconds).sum()
    }

    /// The slowest first.
    fn sorted(&self) -> Vec<(&Key, &Line)> {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        lines
    }

    /// A Markdown table of operations.
    pub(crate) fn operations(&self, ceilings: &Ceilings) -> String {
        let mut rows = vec![
            "| part | operation | kernels | calls | ms | share | work | rate | of the ceiling |"
                .to_owned(),
            "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |".to_owned(),
        ];
        let all = self.seconds();
        for ((phase, op, sizes), line) in self.sorted() {
            let mut kernels: Vec<&str> = line
                .pieces
                .keys()
                .map(|name| if name.starts_with(PRODUCT) { "products" } else { name })
                .collect();
            kernels.dedup();
            let (work, rate, ceiling) = line.rates(ceilings);
            rows.push(format!(
                "| {} | {} | {} | {} | {:.3} | {:.1}% | {work} | {rate} | {ceiling} |",
                phase.name(),
                if sizes.is_empty() { (*op).to_owned() } else { format!("{op} {sizes}") },
                kernels.join(", "),
                line.calls,
                line.seconds * 1e3,
                100.0 * line.seconds / all,
            ));
        }
        rows.join("\n")
    }

    /// A Markdown table of kernels and products, wherever they were launched.
    pub(crate) fn kernels(&self, ceilings: &Ceilings) -> String {
        let mut all: BTreeMap<&str, Piecework> = BTreeMap::new();
        for (name, piece) in self.lines.values().flat_map(|line| &line.pieces) {
            all.entry(name).or_default().add(piece);
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        let mut rows = vec![
            "| kernel or product | launches | ms | share | TFLOP/s | of the ceiling |".to_owned(),
            "| --- | ---: | ---: | ---: | ---: | ---: |".to_owned(),
        ];
        for (name, Piecework { launches, seconds, flops }) in all {
            let rate = if seconds > 0.0 { flops / seconds } else { 0.0 };
            let rates = match flops {
                0.0 => " | ".to_owned(),
                _ => format!("{:.1} | {:.0}%", rate / 1e12, 100.0 * rate / ceilings.flops_per_s),
            };
            let share = 100.0 * seconds / self.seconds();
            rows.push(format!(
                "| {name} | {launches} | {:.3} | {share:.1}% | {rates} |",
                seconds * 1e3
            ));
        }
        rows.join("\n")
    }

    pub(crate) fn json(&self, ceilings: &Ceilings) -> Value {
        let line = |(&(phase, op, ref sizes), line): (&Key, &Line)| {
            let (rate, of) = line.share_of(ceilings);
            let kernels: BTreeMap<&str, Value> = line
                .pieces
                .iter()
                .map(|(name, piece)| {
                    (
                        name.as_str(),
                        json!({ "launches": piece.launches, "ms": piece.seconds * 1e3 }),
                    )
                })
                .collect();
            json!({
                "part": phase.name(), "operation": op, "product": sizes, "calls": line.calls, "ms": line.seconds * 1e3,
                "flops": line.flops, "bytes": line.bytes, "per_s": rate, "of_ceiling": of, "kernels": kernels,
            })
        };
        self.sorted().into_iter().map(line).collect()
    }

    /// Milliseconds of the operations that `which` names.
    fn ms(&self, which: impl Fn(Phase, &str, &str) -> bool) -> f64 {
        let own = self.lines.iter().filter(|((phase, op, sizes), _)| which(*phase, op, sizes));
        own.map(|(_, line)| line.seconds * 1e3).sum()
    }
}

impl Line {
    /// Work per second, and its share of what the machine can do.
    fn share_of(&self, ceilings: &Ceilings) -> (f64, f64) {
        let (work, ceiling) = if self.flops > 0.0 {
            (self.flops, ceilings.flops_per_s)
        } else {
            (self.bytes, ceilings.bytes_per_s)
        };
        let rate = if self.seconds > 0.0 { work / self.seconds } else { 0.0 };
        (rate, rate / ceiling)
    }

    fn rates(&self, ceilings: &Ceilings) -> (String, String, String) {
        let (rate, of) = self.share_of(ceilings);
        let of = format!("{:.0}%", 100.0 * of);
        if self.flops > 0.0 {
            (format!("{:.3} TFLOP", self.flops / 1e12), format!("{:.1} TFLOP/s", rate / 1e12), of)
        } else {
            (format!("{:.3} GB", self.bytes / 1e9), format!("{:.0} GB/s", rate / 1e9), of)
        }
    }
}

fn flops(product: &Product) -> f64 {
    2.0 * (product.m * product.n * product.k) as f64
}

/// m×n×k, with what lies transposed in memory, and whether the result is added to.
fn sizes_of(product: &Product) -> String {
    let turned = |transposed| if transposed { "ᵀ" } else { "" };
    let added = if product.accumulate { " +=" } else { "" };
    let (a, b) = (turned(product.a.transposed), turned(product.b.transposed));
    format!("{}×{}×{} a{a}·b{b}{added}", product.m, product.n, product.k)
}

/// The model's sizes, from which operations' work follows.
struct Sizes {
    /// N, C and V.
    n: usize,
    c: usize,
    v: usize,
    /// Pairs of a query and a key that it sees, over a micro-batch's rows and heads, on average over layers; D.
    pairs: f64,
    d: usize,
}

impl Sizes {
    fn of(training: &Training<'_>) -> Self {
        let config = training.gpt.config();
        let (b, t) = (training.case.rows, training.case.tokens);
        let seen = |window: usize| (0..t).map(|at| at.min(window) + 1).sum::<usize>();
        let pairs: usize = (0..config.depth).map(|i| seen(config.window(i))).sum();
        Self {
            n: b * t,
            c: config.model_dim,
            v: config.padded_vocab(),
            pairs: (pairs * b * config.heads) as f64 / config.depth as f64,
            d: config.head_dim,
        }
    }

    /// FLOPs of a layer's attention: two products of those pairs and D forward, five backward (the kernels compute two of them twice).
    fn attention_flops(&self, op: &str) -> Option<f64> {
        let products = match op {
            "attention" => 2.0,
            "attention_backward" => 5.0,
            _ => return None,
        };
        Some(products * 2.0 * self.d as f64 * self.pairs)
    }

    /// Bytes that an operation reads and writes. A call's own figure counts each view once; where a kernel reads what it then overwrites, or
    /// reads only some rows of a table, the heads of the kernels' sources (`cu/*.cu`) say what it moves.
    fn moved(&self, call: &Call) -> f64 {
        let rows = (2 * self.n * self.c) as f64;
        let views = call.bytes as f64;
        match call.op {
            "embed" => 2.0 * rows,
            // The table's gradient is touched where there are ids, at most once for each position.
            "embed_backward" => rows + (8 * self.n.min(self.v) * self.c) as f64,
            "value_gate" | "value_gate_backward" => 3.0 * rows,
            "rotary_norm" | "cross_entropy" => 2.0 * views,
            "rotary_norm_backward" | "mix_backward" | "cautious_update" => 1.5 * views,
            // Added to the stream's gradient in all but two calls of a micro-batch.
            "rms_norm_backward" | "nesterov" => views * 4.0 / 3.0,
            "adamw" => views * 28.0 / 16.0,
            "equilibrate_rows" | "renormalize" | "variance_reduce" => 3.0 * views,
            _ => views,
        }
    }
}

/// Milliseconds by the rows of the estimate on paper in `docs/performance.md`.
///
/// The sum is that of a micro-batch without events in between, so that rows may add up to a little more.
pub(crate) fn paper(table: &Table, micro_s: f64, gaps_s: f64, update_s: f64) -> Value {
    use Phase::{Backward, Forward, Head};
    let tails = ["embed_backward", "smear", "smear_backward", "fill", "write", "sum"];
    let attention = ["attention", "attention_backward"];
    let linear = |op: &str| op.starts_with("linear");
    let rest = |op: &str| !(tails.contains(&op) || attention.contains(&op) || linear(op));
    // m×n×k of a layer's products: of the MLP one side is four times another.
    let square = |sizes: &str| {
        let mut sides =
            sizes.split([' ', '×']).take(3).skip(1).filter_map(|n| n.parse::<usize>().ok());
        sides.next() == sides.next()
    };
    let rows = [
        (
            "forward: mix_norm, rms_norm, rotary, value embeddings",
            table.ms(|p, op, _| p == Forward && rest(op)),
        ),
        (
            "forward: q, k, v, o as four products",
            table.ms(|p, op, s| p == Forward && linear(op) && square(s)),
        ),
        (
            "forward: attention (mma.sync)",
            table.ms(|p, op, _| p == Forward && attention.contains(&op)),
        ),
        (
            "forward: c_fc and relu², c_proj (accumulating)",
            table.ms(|p, op, s| p == Forward && linear(op) && !square(s)),
        ),
        ("head", table.ms(|p, _, _| p == Head)),
        (
            "backward: dW, f32, accumulating",
            table.ms(|p, op, _| p == Backward && op == "linear_dw"),
        ),
        (
            "backward: dx, and through relu²",
            table.ms(|p, op, _| p == Backward && op.starts_with("linear_dx")),
        ),
        ("backward: attention", table.ms(|p, op, _| p == Backward && attention.contains(&op))),
        (
            "backward: norms, rotary, mixes, value embeddings",
            table.ms(|p, op, _| p == Backward && rest(op)),
        ),
        (
            "tails: hot ids, gates' weights, smear, backout",
            table.ms(|p, op, _| matches!(p, Forward | Backward) && tails.contains(&op)),
        ),
        ("gaps between launches", gaps_s * 1e3),
        ("sum", micro_s * 1e3),
        ("optimizer, per step", update_s * 1e3),
    ];
    rows.iter().map(|(row, ms)| json!({ "row": row, "ms": ms })).collect()
}
