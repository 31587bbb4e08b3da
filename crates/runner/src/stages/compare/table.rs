//! What is compared, as numbers and as the cells of a table. It draws nothing.

use farthing_train::Record;

use crate::progress::format::{bytes, count, duration};
use crate::stages::report::curve::drawable;
use crate::stages::report::records::{BpbRecord, CoreRecord};

/// One training.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// `variant=swiglu`, or the stage's name.
    pub(super) label: String,
    /// Of held-out text.
    pub(super) bpb: Option<f64>,
    /// Share of right answers over all tasks.
    pub(super) accuracy: Option<f64>,
    pub(super) parameters: u64,
    pub(super) tokens_per_s: Option<f64>,
    pub(super) seconds: Option<f64>,
    pub(super) memory: Option<f64>,
    /// (step, bits per byte) at each look at held-out text.
    pub(super) curve: Vec<(f64, f64)>,
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
        for record in train {
            match record {
                Record::Run(run) => row.parameters = run.parameters.values().sum(),
                Record::Eval(eval) => {
                    let bpb = eval.val_bpb.filter(|x| x.is_finite()).and_then(drawable);
                    row.curve.extend(bpb.map(|bpb| (eval.step as f64, bpb)));
                }
                Record::Step(step) => row.seconds = step.seconds.or(row.seconds),
                Record::Final(end) => {
                    row.seconds = end.train_seconds.or(row.seconds);
                    row.tokens_per_s = end.tokens_per_s;
                    row.memory = end.memory_bytes.map(|bytes| bytes as f64);
                }
                _ => {}
            }
        }
        row.bpb = row.curve.last().map(|p| p.1);
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
}

/// All of them, in the order of the file.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) title: String,
    pub(super) rows: Vec<Row>,
    /// The names of the axes that set the rows apart; `stage` where they have none.
    axes: Vec<String>,
}

impl Comparison {
    pub(super) fn new(title: String, rows: Vec<Row>) -> Self {
        let axes_of = |row: &Row| -> Option<Vec<String>> {
            row.label.split(',').map(|c| Some(c.split_once('=')?.0.to_owned())).collect()
        };
        let first = rows.first().and_then(axes_of);
        let axes = first.filter(|axes| rows.iter().all(|row| axes_of(row).as_ref() == Some(axes)));
        Self { title, rows, axes: axes.unwrap_or_else(|| vec!["stage".into()]) }
    }

    /// What a row is called on each axis.
    pub(super) fn names(&self, row: &Row) -> Vec<String> {
        if self.axes == ["stage"] {
            return vec![row.label.clone()];
        }
        let value = |coord: &str| coord.split_once('=').map_or(coord, |(_, v)| v).to_owned();
        row.label.split(',').map(value).collect()
    }

    /// Each row's bits per byte under its name, for the final screen.
    pub(super) fn figures(&self) -> Vec<(String, f64)> {
        let named = |row: &Row| Some((self.names(row).join(", "), row.bpb?));
        self.rows.iter().filter_map(named).collect()
    }

    /// The row with the fewest bits per byte.
    pub(super) fn best(&self) -> Option<&Row> {
        let scored = self.rows.iter().filter_map(|row| Some((row.bpb?, row)));
        scored.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, row)| row)
    }

    pub(super) fn head(&self) -> Vec<String> {
        let mut head = self.axes.clone();
        let has = |of: fn(&Row) -> bool| self.rows.iter().any(of);
        head.extend(["bits per byte".into(), "against the first".into()]);
        if has(|r| r.accuracy.is_some()) {
            head.push("accuracy".into());
        }
        head.extend(["tokens/s", "training time", "memory", "parameters"].map(String::from));
        head
    }

    /// The cells of a row, in the order of [`Comparison::head`].
    pub(super) fn cells(&self, row: &Row) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
        let mut cells = self.names(row);
        cells.push(or_dash(row.bpb.map(|x| format!("{x:.4}"))));
        let against =
            self.rows.first().and_then(|first| Some(100.0 * (row.bpb? / first.bpb? - 1.0)));
        cells.push(or_dash(against.filter(|x| x.is_finite()).map(|x| format!("{x:+.2}%"))));
        if self.rows.iter().any(|r| r.accuracy.is_some()) {
            cells.push(or_dash(row.accuracy.map(|x| format!("{:.1}%", 100.0 * x))));
        }
        cells.push(or_dash(row.tokens_per_s.map(|x| count(x.round() as u64))));
        cells.push(or_dash(row.seconds.map(duration)));
        cells.push(or_dash(row.memory.map(bytes)));
        cells.push(count(row.parameters));
        cells
    }

    /// How many of the first columns are names.
    pub(super) fn name_columns(&self) -> usize {
        self.axes.len()
    }
}
