//! `runner diff`: runs side by side. What differs is shown, and every figure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::list::{find, status};
use super::{Lineage, StageLineage, minute};
use crate::progress::format::duration;
use crate::table::Table;
use crate::{Figure, Result};

/// What a row says of each run; absent where the run has nothing of the kind.
type Cells = Vec<Option<String>>;

/// The screen.
///
/// # Errors
/// A run that cannot be found.
pub(crate) fn diff(root: &Path, which: &[String]) -> Result<String> {
    let runs: Vec<(PathBuf, Lineage)> =
        which.iter().map(|which| find(root, which)).collect::<Result<_>>()?;
    let lineages: Vec<&Lineage> = runs.iter().map(|(_, lineage)| lineage).collect();
    let of_each = |cell: &dyn Fn(&Lineage) -> String| -> Cells {
        lineages.iter().map(|lineage| Some(cell(lineage))).collect()
    };
    let mut head: Vec<(String, Cells)> = vec![
        ("started".into(), of_each(&|run| minute(run.started))),
        ("status".into(), runs.iter().map(|(run, l)| Some(status(run, l).to_owned())).collect()),
        ("time".into(), of_each(&|run| duration(run.seconds))),
    ];
    let facts: Vec<(String, Cells)> = vec![
        ("pipeline".into(), of_each(&|run| run.pipeline.clone())),
        ("seed".into(), of_each(&|run| run.seed.to_string())),
        ("commit".into(), lineages.iter().map(|run| run.commit.clone()).collect()),
        ("farthing".into(), of_each(&|run| run.runner.clone())),
        ("machine".into(), of_each(&|run| run.machine.to_string())),
    ];
    head.extend(facts.into_iter().filter(|(_, cells)| differs(cells)));

    let mut names: Vec<&str> = Vec::new();
    for stage in lineages.iter().flat_map(|run| &run.stages) {
        if !names.contains(&stage.name.as_str()) {
            names.push(&stage.name);
        }
    }
    let (mut config, mut data, mut figures) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let stages: Vec<Option<&StageLineage>> =
            lineages.iter().map(|run| run.stages.iter().find(|s| s.name == name)).collect();
        rows(&mut config, name, &stages, |stage, leaves| {
            flatten(&stage.config, "", leaves);
            leaves.extend(stage.seed.map(|seed| ("seed".to_owned(), seed.to_string())));
            leaves.insert("kind".into(), stage.kind.clone());
        });
        rows(&mut data, name, &stages, |stage, leaves| {
            leaves.extend(stage.outputs.iter().map(|(port, digest)| {
                (port.clone(), digest.get(..10).unwrap_or(digest).to_owned())
            }));
        });
        rows(&mut figures, name, &stages, |stage, leaves| {
            let numbers = stage.summary.iter().filter(|(_, f)| matches!(f, Figure::Number(_)));
            leaves.extend(numbers.map(|(figure, value)| (figure.clone(), value.to_string())));
        });
    }
    config.retain(|(_, cells)| differs(cells));
    data.retain(|(_, cells)| differs(cells));

    let mut table = Table::default();
    let labels: Vec<String> = runs
        .iter()
        .map(|(run, _)| run.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    line(&mut table, "run", &labels.into_iter().map(Some).collect::<Cells>());
    let sections = [
        ("", head),
        ("configuration that differs", config),
        ("outputs whose bytes differ", data),
        ("figures", figures),
    ];
    for (title, rows) in sections {
        if rows.is_empty() {
            continue;
        }
        if !title.is_empty() {
            table.cells(vec![String::new()]);
            table.cells(vec![title.to_owned()]);
        }
        for (name, cells) in &rows {
            line(&mut table, name, cells);
        }
    }
    let out = table.lines(0).iter().fold(String::new(), |out, line| out + line + "\n");
    Ok(crate::hidden::Hidden::default().shown(&out))
}

/// A row for every leaf that some of the stages have.
fn rows(
    into: &mut Vec<(String, Cells)>,
    name: &str,
    stages: &[Option<&StageLineage>],
    leaves: impl Fn(&StageLineage, &mut BTreeMap<String, String>),
) {
    let mut all: BTreeMap<String, Cells> = BTreeMap::new();
    for (i, stage) in stages.iter().enumerate() {
        let mut found = BTreeMap::new();
        if let Some(stage) = stage {
            leaves(stage, &mut found);
        }
        for (leaf, value) in found {
            all.entry(leaf).or_insert_with(|| vec![None; stages.len()])[i] = Some(value);
        }
    }
    into.extend(all.into_iter().map(|(leaf, cells)| (format!("{name}.{leaf}"), cells)));
}

fn differs(cells: &Cells) -> bool {
    cells.iter().any(|cell| *cell != cells[0])
}

fn line(table: &mut Table, name: &str, cells: &Cells) {
    let cells = cells.iter().map(|cell| cell.clone().unwrap_or_else(|| "-".to_owned()));
    table.cells([name.to_owned()].into_iter().chain(cells).collect());
}

/// The leaves of a config by their dotted names; lists are leaves.
fn flatten(value: &Value, path: &str, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(keys) => {
            for (key, value) in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, &path, leaves);
            }
        }
        Value::Null => {}
        Value::String(text) => drop(leaves.insert(path.to_owned(), text.clone())),
        other => drop(leaves.insert(path.to_owned(), other.to_string())),
    }
}
