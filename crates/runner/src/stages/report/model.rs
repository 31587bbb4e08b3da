//! What a report says, computed once from the records; the Markdown and the HTML only lay it out.

use farthing_eval::core::{GPT2, is_published};
use farthing_train::{EvalRecord, FinalRecord, Record, RunRecord, StepRecord};
use serde_json::Value;

use super::curve::Curve;
use super::records::{
    Bpb, BpbRecord, Core, CoreRecord, Pack, PackRecord, Sample, Task, Tokenizer, TokenizerRecord,
};
use crate::progress::format::{count, duration, number};

/// Everything a report shows.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) title: String,
    pub(super) headline: Vec<Fact>,
    /// How the training went.
    pub(super) course: Course,
    /// How learning to answer went.
    pub(super) chat: Course,
    pub(super) tasks: Vec<Task>,
    /// CORE of this model and of GPT-2's four sizes; empty where the tasks are others than theirs.
    pub(super) beside_gpt2: Vec<(String, f64)>,
    /// Learning rates of each optimizer group.
    pub(super) rates: Vec<Rates>,
    pub(super) samples: Vec<Sample>,
    pub(super) tokenizer: Vec<Fact>,
    pub(super) packs: Vec<Pack>,
    /// What was held out, by the stage that did.
    pub(super) held_out: Vec<(String, String)>,
    pub(super) parameters: Vec<(String, u64)>,
    /// The model as it was built.
    pub(super) built: Vec<(String, String)>,
    /// The training's configuration, keys dotted.
    pub(super) config: Vec<(String, String)>,
}

/// The losses of a training.
#[derive(Debug, Default)]
pub(super) struct Course {
    pub(super) curve: Option<Curve>,
    pub(super) evals: Vec<EvalRecord>,
}

impl Course {
    fn of(records: Vec<Record>) -> Self {
        let (mut steps, mut evals) = (Vec::new(), Vec::new());
        for record in records {
            match record {
                Record::Step(step) => steps.push(step),
                Record::Eval(eval) => evals.push(eval),
                _ => {}
            }
        }
        Self { curve: Curve::new(&steps, &evals), evals }
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.curve.is_none() && self.evals.is_empty()
    }
}

/// The learning rates that an optimizer group had.
#[derive(Debug, PartialEq)]
pub(super) struct Rates {
    pub(super) group: String,
    pub(super) first: f64,
    pub(super) highest: f64,
    pub(super) last: f64,
}

impl Rates {
    /// A cell of a table.
    pub(super) fn shown(rate: f64) -> String {
        format!("{rate:.3e}")
    }

    /// Of all groups: each has its own rate, which every step multiplies by a factor.
    fn of(run: &RunRecord, steps: &[StepRecord]) -> Vec<Self> {
        let factors: Vec<f64> = steps.iter().filter_map(|s| s.lr).collect();
        let (Some(first), Some(last)) = (factors.first(), factors.last()) else {
            return Vec::new();
        };
        let highest = factors.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let of = |(group, lr): (&String, &f64)| Self {
            group: group.clone(),
            first: lr * first,
            highest: lr * highest,
            last: lr * last,
        };
        run.lr.iter().map(of).collect()
    }
}

/// A figure with its name and a remark.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) note: String,
}

impl Fact {
    fn new(name: &'static str, value: impl Into<String>, note: impl Into<String>) -> Self {
        Self { name, value: value.into(), note: note.into() }
    }
}

/// The records of every input.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) train: Vec<Record>,
    pub(super) bpb: Vec<BpbRecord>,
    pub(super) core: Vec<CoreRecord>,
    pub(super) sample: Vec<Sample>,
    pub(super) pack: Vec<PackRecord>,
    pub(super) tokenizer: Vec<TokenizerRecord>,
    pub(super) chat: Vec<Record>,
}

impl Model {
    pub(super) fn new(title: String, records: Records) -> Self {
        let chat = Course::of(records.chat);
        let mut model = Self { title, samples: records.sample, chat, ..Self::default() };
        let (mut run, mut end, mut ended) = (None, FinalRecord::default(), false);
        let mut steps = Vec::new();
        for record in records.train {
            match record {
                Record::Run(r) => run = Some(r),
                Record::Step(step) => steps.push(step),
                Record::Eval(eval) => model.course.evals.push(eval),
                Record::Final(f) => (end, ended) = (f, true),
                _ => {}
            }
        }
        let bpb = records.bpb.into_iter().rev().find_map(|r| match r {
            BpbRecord::Bpb(bpb) => Some(bpb),
            BpbRecord::Other => None,
        });
        let mut core = None;
        for record in records.core {
            match record {
                CoreRecord::Task(task) => model.tasks.push(task),
                CoreRecord::Core(c) => core = Some(c),
                CoreRecord::Other => {}
            }
        }
        model.packs.extend(records.pack.into_iter().filter_map(|r| match r {
            PackRecord::Pack(pack) => Some(pack),
            PackRecord::Other => None,
        }));
        for record in records.tokenizer {
            if let TokenizerRecord::Tokenizer(t) = record {
                model.tokenizer = tokenizer_facts(&t);
            }
        }
        model.quality(bpb.as_ref(), core.as_ref());
        if end.tokens.is_none() {
            end.tokens = steps.last().and_then(|s| s.tokens);
        }
        if end.train_seconds.is_none() {
            end.train_seconds = steps.last().and_then(|s| s.seconds);
        }
        if end.tokens_per_s.is_none() {
            end.tokens_per_s = median(steps.iter().filter_map(|s| s.tokens_per_s).collect());
        }
        let cut_at = steps.last().filter(|_| !ended).map(|s| s.step);
        model.effort(run.as_ref(), &end, cut_at);
        model.course.curve = Curve::new(&steps, &model.course.evals);
        if let Some(run) = run {
            model.rates = Rates::of(&run, &steps);
            model.parameters = run.parameters.into_iter().collect();
            flatten("", &run.model, &mut model.built);
            flatten("", &run.config, &mut model.config);
        }
        model
    }

    /// How good the model is.
    fn quality(&mut self, bpb: Option<&Bpb>, core: Option<&Core>) {
        let looked = |e: Option<&EvalRecord>| e.and_then(|e| e.val_bpb);
        let evals = &self.course.evals;
        let (first, last) = (looked(evals.first()), looked(evals.last()));
        // From the first look to the last, all at the same tokens.
        let course = first.zip(last).filter(|_| evals.len() > 1);
        let course = course.map(|(first, last)| format!("{first:.4} → {last:.4}"));
        let whole = bpb.and_then(|b| Some((b.bpb?, b.tokens)));
        if let Some((bpb, tokens)) = whole {
            let tokens = tokens.map(|n| format!(", {} tokens", short(n as f64)));
            let note = format!("of held-out text{}; lower is better", tokens.unwrap_or_default());
            self.headline.push(Fact::new("Bits per byte", format!("{bpb:.4}"), note));
        }
        let name = if whole.is_some() { "While training" } else { "Bits per byte" };
        if let Some(course) = course {
            let note = "bits per byte of the same held-out text, at the first look and at the last";
            self.headline.push(Fact::new(name, course, note));
        } else if let Some(one) = first.or(last).filter(|_| whole.is_none()) {
            let note = "of held-out text; lower is better";
            self.headline.push(Fact::new(name, format!("{one:.4}"), note));
        }
        if let Some(core) = core {
            let tasks = self.tasks.len();
            let note = format!("chance {}", percent(core.chance));
            self.headline.push(Fact::new("Task accuracy", percent(core.accuracy), note));
            let plural = if tasks == 1 { "task" } else { "tasks" };
            let note = format!("accuracy centred on chance, mean over {tasks} {plural}");
            self.headline.push(Fact::new("CORE", format!("{:.4}", core.centered), note));
            if is_published(self.tasks.iter().map(|task| task.name.as_str())) {
                self.beside_gpt2.push(("this model".to_owned(), core.centered));
                let of_gpt2 = GPT2.map(|(size, core)| (format!("GPT-2, {size} M"), core));
                self.beside_gpt2.extend(of_gpt2);
            }
        }
    }

    /// What the model took.
    fn effort(&mut self, run: Option<&RunRecord>, end: &FinalRecord, cut_at: Option<u64>) {
        let parameters = run.map_or(0, |r| r.parameters.values().sum::<u64>());
        if parameters > 0 {
            let note = format!("{} in all", count(parameters));
            self.headline.push(Fact::new("Parameters", short(parameters as f64), note));
        }
        let tokens = end.tokens.or(run.and_then(|r| r.tokens));
        if let Some(tokens) = tokens {
            let planned = run.and_then(|r| r.steps);
            let note = match (cut_at, planned) {
                (Some(step), _) => format!("the records end at step {}", count(step)),
                (None, Some(steps)) => format!("in {} steps", count(steps)),
                (None, None) => String::new(),
            };
            self.headline.push(Fact::new("Training tokens", short(tokens as f64), note));
        }
        if let Some(rate) = end.tokens_per_s {
            let rate = count(rate.round().max(0.0) as u64);
            self.headline.push(Fact::new("Speed", format!("{rate} tokens/s"), ""));
        }
        if let Some(seconds) = end.train_seconds {
            self.headline.push(Fact::new("Training time", duration(seconds), ""));
        }
        if let (Some(tokens), Some(flops)) = (tokens, run.and_then(|r| r.flops_per_token)) {
            let note = format!("{} FLOPs per token", short(flops));
            let value = format!("{} FLOPs", short(flops * tokens as f64));
            self.headline.push(Fact::new("Compute", value, note));
        }
    }
}

fn tokenizer_facts(t: &Tokenizer) -> Vec<Fact> {
    let mut facts = vec![Fact::new("Vocabulary", count(t.vocab_size), "entries")];
    if let Some(x) = t.bytes_per_token {
        facts.push(Fact::new("Bytes per token", format!("{x:.3}"), "on a sample of the text"));
        if let Some(reference) = t.reference_bytes_per_token {
            let note = format!("{:+.1}% for this one", 100.0 * (x / reference - 1.0));
            facts.push(Fact::new("Of the reference", format!("{reference:.3}"), note));
        }
    }
    let note = format!("{} characters", short(t.chars as f64));
    facts.push(Fact::new("Trained on", format!("{} documents", count(t.documents)), note));
    facts
}

/// `12.5 M`; the prefixes of the SI, and the integer itself below ten thousand.
pub(in crate::stages) fn short(x: f64) -> String {
    if !x.is_finite() || x.abs() < 9_999.5 {
        return number(x);
    }
    let mut x = x;
    for unit in ["k", "M", "G", "T", "P", "E"] {
        x /= 1000.0;
        if x.abs() < 999.5 {
            let decimals = usize::from(x.abs() < 99.95) + usize::from(x.abs() < 9.995);
            return format!("{x:.decimals$} {unit}");
        }
    }
    format!("{:.3e}", x * 1e18)
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// At most `most` of `items`, evenly spread, the first and the last among them.
pub(super) fn spread<T>(items: &[T], most: usize) -> Vec<&T> {
    if items.len() <= most || most < 2 {
        return items.iter().take(most.max(items.len().min(most))).collect();
    }
    (0..most).map(|i| &items[i * (items.len() - 1) / (most - 1)]).collect()
}

/// Tables of a configuration become dotted keys.
fn flatten(key: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, out);
            }
        }
        Value::Null => {}
        Value::String(text) => out.push((key.into(), text.clone())),
        other => out.push((key.into(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_keeps_three_digits() {
        let shown = [0.0, 812.0, 9_999.0, 12_345.0, 999_600.0, 26_900_000.0, 4.5e18].map(short);
        assert_eq!(shown, ["0", "812", "9,999", "12.3 k", "1.00 M", "26.9 M", "4.50 E"]);
    }

    #[test]
    fn spread_keeps_both_ends() {
        let items: Vec<_> = (0..100).collect();
        assert_eq!(spread(&items, 4), [&0, &33, &66, &99]);
        assert_eq!(spread(&items[..3], 4), [&0, &1, &2]);
        assert!(spread(&items[..0], 4).is_empty());
    }

    #[test]
    fn configuration_becomes_dotted_keys() {
        let mut out = Vec::new();
        let config =
            serde_json::json!({ "model": { "depth": 4, "windows": "SSSL" }, "steps": null });
        flatten("", &config, &mut out);
        let out: Vec<_> = out.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(out, ["model.depth=4", "model.windows=SSSL"]);
    }
}
