//! What is compared, as numbers: trainings, and the variants that they are of. It draws nothing.

use farthing_train::Record;
use serde_json::Value;

use crate::cache::identity::all_differences;
use crate::stages::report::curve::drawable;
use crate::stages::report::records::{BpbRecord, CoreRecord};

/// A look at held-out text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) step: f64,
    /// Trained on by then.
    pub(super) flops: Option<f64>,
    /// Since the first step, looks included.
    pub(super) seconds: Option<f64>,
    pub(super) bpb: f64,
}

/// One training.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// `variant=swiglu`, or the stage's name.
    pub(super) label: String,
    /// Its keys after defaults.
    pub(super) config: Value,
    pub(super) seed: Option<u64>,
    /// Of held-out text.
    pub(super) bpb: Option<f64>,
    /// Share of right answers over all tasks.
    pub(super) accuracy: Option<f64>,
    pub(super) parameters: u64,
    pub(super) tokens_per_s: Option<f64>,
    pub(super) seconds: Option<f64>,
    pub(super) flops: Option<f64>,
    pub(super) memory: Option<f64>,
    pub(super) curve: Vec<Look>,
}

impl Row {
    /// The figures of one training's metrics.
    pub(super) fn new(
        label: &str,
        train: Vec<Record>,
        bpb: Vec<BpbRecord>,
        core: Vec<CoreRecord>,
    ) -> Self {
        let mut row = Self { label: label.to_owned(), ..Self::default() };
        let mut flops_per_step = None;
        let mut seconds = Some(0.0);
        for record in train {
            match record {
                Record::Run(run) => {
                    row.parameters = run.parameters.values().sum();
                    let step = run.batch_tokens.zip(run.flops_per_token);
                    flops_per_step = step.map(|(tokens, flops)| tokens as f64 * flops);
                    row.flops = run.tokens.zip(run.flops_per_token).map(|(n, f)| n as f64 * f);
                    (row.config, row.seed) = (run.config, run.seed);
                }
                Record::Eval(eval) => {
                    let step = eval.step as f64;
                    let flops = flops_per_step.map(|flops| step * flops);
                    let bpb = eval.val_bpb.filter(|x| x.is_finite()).and_then(drawable);
                    row.curve.extend(bpb.map(|bpb| Look { step, flops, seconds, bpb }));
                }
                Record::Step(step) => {
                    row.seconds = step.seconds.or(row.seconds);
                    seconds = step.seconds;
                }
                Record::Final(end) => {
                    row.seconds = end.train_seconds.or(row.seconds);
                    row.tokens_per_s = end.tokens_per_s;
                    row.memory = end.memory_bytes.map(|bytes| bytes as f64);
                }
                _ => {}
            }
        }
        row.bpb = row.curve.last().map(|look| look.bpb);
        for record in bpb {
            if let BpbRecord::Bpb(found) = record {
                row.bpb = found.bpb.or(row.bpb);
            }
        }
        for record in core {
            if let CoreRecord::Core(core) = record {
                row.accuracy = Some(core.accuracy);
            }
        }
        row
    }

    /// `variant` and `swiglu`, for each axis; `None` where it has no such name.
    fn places(&self) -> Option<Vec<(&str, &str)>> {
        self.label.split(',').map(|coord| coord.split_once('=')).collect()
    }
}

/// Trainings that differ by their seeds alone.
#[derive(Debug)]
pub(super) struct Variant {
    /// What it is called on each axis.
    pub(super) names: Vec<String>,
    /// Its trainings, by number.
    pub(super) rows: Vec<usize>,
    /// What its keys are that the first has otherwise, each as `key before → after`.
    pub(super) changes: Vec<String>,
}

/// A mean, and how far single trainings are from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// The sample standard deviation; `None` of fewer than two.
    pub(super) deviation: Option<f64>,
}

impl Spread {
    /// Of what is known.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.filter(|x| x.is_finite()).collect();
        let n = values.len() as f64;
        let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)?;
        let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { mean, deviation })
    }
}

/// All of them, in the order of the file.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) title: String,
    pub(super) rows: Vec<Row>,
    pub(super) variants: Vec<Variant>,
    /// The names of the axes that set variants apart; `stage` where rows have none, nothing where only seeds do.
    pub(super) axes: Vec<String>,
}

impl Comparison {
    pub(super) fn new(title: String, rows: Vec<Row>) -> Self {
        let places: Vec<_> = rows.iter().map(Row::places).collect();
        let axes = |places: &Option<Vec<(&str, &str)>>| -> Option<Vec<String>> {
            Some(places.as_ref()?.iter().map(|(axis, _)| (*axis).to_owned()).collect())
        };
        let first = places.first().and_then(axes);
        let first = first.filter(|first| places.iter().all(|p| axes(p).as_ref() == Some(first)));
        let Some(mut axes) = first else {
            let names = rows.iter().map(|row| vec![row.label.clone()]).collect();
            let variants = variants(&rows, names);
            return Self { title, rows, variants, axes: vec!["stage".into()] };
        };
        let names: Vec<Vec<&str>> = places
            .iter()
            .map(|places| places.iter().flatten().map(|(_, name)| *name).collect())
            .collect();
        let seeds: Vec<usize> =
            (0..axes.len()).filter(|axis| is_of_seeds(&rows, &names, *axis)).collect();
        let without = |names: &Vec<&str>| -> Vec<String> {
            let kept = names.iter().enumerate().filter(|(axis, _)| !seeds.contains(axis));
            kept.map(|(_, name)| (*name).to_owned()).collect()
        };
        let names = names.iter().map(without).collect();
        let variants = variants(&rows, names);
        let mut axis = 0..;
        axes.retain(|_| axis.next().is_some_and(|axis| !seeds.contains(&axis)));
        Self { title, rows, variants, axes }
    }

    /// What a training is called on all axes.
    pub(super) fn name(&self, row: &Row) -> String {
        let Some(places) = row.places() else { return row.label.clone() };
        if self.axes == ["stage"] {
            return row.label.clone();
        }
        places.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Whether a variant has several trainings.
    pub(super) fn has_seeds(&self) -> bool {
        self.variants.len() < self.rows.len()
    }

    /// Of a variant's trainings.
    pub(super) fn spread(
        &self,
        variant: &Variant,
        of: impl Fn(&Row) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(variant.rows.iter().filter_map(|&row| of(&self.rows[row])))
    }

    /// Each training's bits per byte under its name, for the final screen; with several seeds each variant's mean and spread, too.
    pub(super) fn figures(&self) -> Vec<(String, f64)> {
        let of_row = |row: &Row| Some((self.name(row), row.bpb?));
        let mut figures: Vec<_> = self.rows.iter().filter_map(of_row).collect();
        for variant in self.variants.iter().filter(|variant| variant.rows.len() > 1) {
            let Some(spread) = self.spread(variant, |row| row.bpb) else { continue };
            let name = |what: &str| match variant.names.join(", ") {
                names if names.is_empty() => what.to_owned(),
                names => format!("{names}: {what}"),
            };
            figures.push((name("mean"), spread.mean));
            figures.extend(spread.deviation.map(|deviation| (name("spread"), deviation)));
        }
        figures
    }

    /// The variant with the fewest bits per byte.
    pub(super) fn best(&self) -> Option<usize> {
        let mean = |variant| Some(self.spread(variant, |row| row.bpb)?.mean);
        let scored =
            self.variants.iter().enumerate().filter_map(|(i, variant)| Some((mean(variant)?, i)));
        scored.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i)| i)
    }
}

/// Whether nothing but the seed differs along an axis, wherever one stands on the others.
fn is_of_seeds(rows: &[Row], names: &[Vec<&str>], axis: usize) -> bool {
    let others = |i: usize| -> Vec<&str> {
        names[i].iter().enumerate().filter(|(a, _)| *a != axis).map(|(_, name)| *name).collect()
    };
    let mut several = false;
    for i in 0..rows.len() {
        for j in 0..i {
            if others(i) == others(j) {
                several = true;
                let same = rows[i].config == rows[j].config;
                let apart = rows[i].seed.is_some() && rows[i].seed != rows[j].seed;
                if !(same && apart) {
                    return false;
                }
            }
        }
    }
    several
}

/// Rows of equal names together, in the order of the first of each.
fn variants(rows: &[Row], names: Vec<Vec<String>>) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    for (row, names) in names.into_iter().enumerate() {
        // Where rows are called by their stages, each is a variant of its own.
        if let Some(variant) = variants.iter_mut().find(|variant| variant.names == names) {
            variant.rows.push(row);
            continue;
        }
        let changes = all_differences(&rows[0].config, &rows[row].config);
        variants.push(Variant { names, rows: vec![row], changes });
    }
    variants
}
