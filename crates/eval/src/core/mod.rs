//! CORE: accuracy over a set of tasks, each centred on what guessing reaches, averaged.
//!
//! Items, few-shot examples and prompts are those of nanochat's core_eval, so that results can be compared with published ones
//! example by example. This file runs the evaluation; what a prompt is, what is scored and how batches form stand beside it.
//!
//! # Source
//! Li et al., "DataComp-LM" (arXiv 2406.11794); nanochat's core_eval.

mod archive;
mod bundle;
mod files;
mod item;
mod plan;
mod prompt;
mod published;
mod report;
mod sequence;
mod yardstick;

pub use bundle::{Bundle, TASKS, Task, TaskType};
pub use item::{Item, Line, read_items};
pub use prompt::prompts;
pub use report::{CoreReport, Example, TaskReport, centered, core_metric};
pub use sequence::{Sequence, sequences};
pub use yardstick::{GPT2, PUBLISHED, is_published};

use item::parse_items;

use crate::language_model::score;
use crate::python_random::PythonRandom;
use crate::{Encode, Error, LanguageModel, Result, Scores};
use farthing_comm::{Control, One};
use farthing_data::Progress;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::PathBuf;

/// Items whose prompts are in memory at once, and after which ranks tell each other what they found.
const CHUNK: usize = 512;
/// Options of an item share the work on their common beginning where that spares the model at least so many tokens; below, batches of many
/// items do more at once.
const SPARED: usize = 256;
/// The seed of the items' order.
const ORDER_SEED: u64 = 1337;
/// The seed of an item's examples, less its index.
const EXAMPLES_SEED: u64 = 1234;

/// What of the tasks is evaluated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoreSettings {
    /// Items per task, after the shuffle; all of them if absent.
    pub max_per_task: Option<usize>,
    /// About how many positions the model is given at once. Changes speed and memory, not results.
    pub batch_tokens: usize,
}

impl Default for CoreSettings {
    fn default() -> Self {
        Self { max_per_task: None, batch_tokens: 4096 }
    }
}

/// A task with its items in the order of evaluation.
struct Prepared<'a> {
    task: &'a Task,
    path: PathBuf,
    items: Vec<Line>,
}

/// Evaluates every task of `bundle`.
///
/// All files are read and checked before the model is asked for anything.
///
/// # Numerics
/// An option's mean loss and the averages over tasks are f64. Ties go to the first option.
///
/// # Errors
/// Those of [`read_items`]; [`Error::FewShot`], [`Error::Prompt`], [`Error::Encode`], [`Error::Model`], [`Error::NotFinite`],
/// [`Error::Config`] for settings that leave nothing to evaluate.
///
/// # Cost
/// One pass of the model over every option's prompt, examples included; where a model can share the work on what the options of an item have
/// in common, and that is long, one over each prompt's end and one over what they share.
pub fn evaluate(
    model: &mut dyn LanguageModel,
    text: &dyn Encode,
    bundle: &Bundle,
    settings: &CoreSettings,
    progress: &mut dyn Progress,
) -> Result<CoreReport> {
    evaluate_on_ranks(&One, model, text, bundle, settings, progress)
}

/// [`evaluate`] as one of several ranks, which all call it with the same bundle: they take turns, an item each, and all get the whole report.
///
/// # Errors
/// As [`evaluate`]; [`Error::Comm`].
pub fn evaluate_on_ranks(
    ranks: &dyn Control,
    model: &mut dyn LanguageModel,
    text: &dyn Encode,
    bundle: &Bundle,
    settings: &CoreSettings,
    progress: &mut dyn Progress,
) -> Result<CoreReport> {
    if settings.max_per_task == Some(0) || settings.batch_tokens == 0 {
        return Err(Error::Config {
            what: format!(
                "max_per_task {:?} and batch_tokens {} leave nothing to evaluate",
                settings.max_per_task, settings.batch_tokens
            ),
            hint: "both must be at least 1; leave max_per_task out to evaluate every item".into(),
        });
    }
    let prepare = |task| prepare(bundle, task, settings.max_per_task);
    let tasks: Vec<Prepared<'_>> = bundle.tasks().iter().map(prepare).collect::<Result<_>>()?;
    let options =
        |t: &Prepared<'_>| t.items.iter().map(|line| line.item.options() as u64).sum::<u64>();
    progress.total(Some(tasks.iter().map(options).sum()), "prompts");
    let mut reports = Vec::with_capacity(tasks.len());
    for prepared in &tasks {
        progress.message(&prepared.task.label);
        let mut examples = Vec::with_capacity(prepared.items.len());
        for first in (0..prepared.items.len()).step_by(CHUNK) {
            let range = first..prepared.items.len().min(first + CHUNK);
            examples.extend(chunk(ranks, model, text, prepared, range, settings, progress)?);
        }
        reports.push(TaskReport::new(prepared.task, examples));
    }
    Ok(CoreReport::new(reports))
}

/// Reads, shuffles and truncates a task's items.
fn prepare<'a>(
    bundle: &Bundle,
    task: &'a Task,
    max_per_task: Option<usize>,
) -> Result<Prepared<'a>> {
    let path = bundle.path(task);
    let mut items = bundle.items(task)?;
    shuffle(&mut items);
    items.truncate(max_per_task.unwrap_or(usize::MAX));
    if task.num_fewshot >= items.len() {
        let label = task.label.clone();
        return Err(Error::FewShot { label, items: items.len(), shots: task.num_fewshot });
    }
    Ok(Prepared { task, path, items })
}

/// Puts a task's items, as its file has them, in the order of evaluation, from which max_per_task takes the first.
pub fn shuffle(items: &mut [Line]) {
    PythonRandom::new(ORDER_SEED).shuffle(items);
}

/// The indices of the solved examples that stand before item `index` of `items`, all of them after the shuffle and within max_per_task.
pub fn few_shot(index: usize, items: usize, shots: usize) -> Vec<usize> {
    let others = PythonRandom::new(EXAMPLES_SEED + index as u64).sample(items - 1, shots);
    others.into_iter().map(|other| other + usize::from(other >= index)).collect()
}

/// Evaluates the items `range` of one task, which the ranks take in turn: all of them get all that is found.
fn chunk(
    ranks: &dyn Control,
    model: &mut dyn LanguageModel,
    text: &dyn Encode,
    prepared: &Prepared<'_>,
    range: Range<usize>,
    settings: &CoreSettings,
    progress: &mut dyn Progress,
) -> Result<Vec<Example>> {
    let Prepared { task, path, items } = prepared;
    let is_own = |index: usize| index % ranks.ranks() == ranks.rank();
    let mut texts = Vec::new();
    let mut counts = Vec::with_capacity(range.len());
    let mut digests = Vec::with_capacity(range.len());
    for index in range.clone() {
        let shots: Vec<&Item> = few_shot(index, items.len(), task.num_fewshot)
            .into_iter()
            .map(|i| &items[i].item)
            .collect();
        let prompts = prompts(&items[index].item, &shots, &task.continuation_delimiter);
        counts.push(prompts.len());
        digests.push(digest(&prompts));
        if is_own(index) {
            texts.extend(prompts);
        }
    }
    let mut encoded = text.encode_all(&texts)?.into_iter();
    drop(texts);

    // The options of this rank's items in one list, and for each the line that it comes from.
    let mut all: Vec<Sequence> = Vec::new();
    let mut lines: Vec<usize> = Vec::new();
    let mut spans = Vec::with_capacity(range.len());
    for (index, count) in range.clone().zip(&counts).filter(|(index, _)| is_own(*index)) {
        let Line { line, item } = &items[index];
        let refused = |reason| Error::Prompt { path: path.clone(), line: *line, reason };
        let mut own = sequences(item, encoded.by_ref().take(*count).collect(), text.bos())
            .map_err(refused)?;
        if let Some(most) = model.max_tokens() {
            own.iter_mut().try_for_each(|sequence| sequence.crop(most)).map_err(refused)?;
        }
        spans.push(all.len()..all.len() + own.len());
        lines.extend(own.iter().map(|_| *line));
        all.extend(own);
    }

    let infinite = |loss: f64, line: usize| Error::NotFinite {
        loss,
        place: format!("on line {line} of {}", path.display()),
    };
    let mut verdicts = vec![Verdict::default(); all.len()];
    // Those that are scored as whole rows.
    let mut whole = Vec::with_capacity(all.len());
    for span in &spans {
        let options = &all[span.clone()];
        let shared = shared(model, task.task_type, options)?;
        let Some(shared) = shared else {
            whole.extend(span.clone());
            continue;
        };
        for (member, losses) in span.clone().zip(shared) {
            verdicts[member] = verdict(&losses).map_err(|loss| infinite(loss, lines[member]))?;
        }
        progress.advance(span.len() as u64);
    }

    let greedy = task.task_type == TaskType::LanguageModeling;
    let lengths: Vec<usize> = whole.iter().map(|&member| all[member].tokens.len()).collect();
    let mut scores = Scores::default();
    for mut group in plan::groups(&lengths, settings.batch_tokens) {
        group.members.iter_mut().for_each(|member| *member = whole[*member]);
        let batch = plan::batch(&group, &all, text.bos())?;
        score(model, &batch, greedy, &mut scores)?;
        for (row, &member) in group.members.iter().enumerate() {
            let verdict = judge(&all[member], row * group.tokens, &scores, greedy);
            verdicts[member] = verdict.map_err(|loss| infinite(loss, lines[member]))?;
        }
        progress.advance(group.members.len() as u64);
    }

    let options: Vec<usize> = items[range.clone()].iter().map(|l| l.item.options()).collect();
    let verdicts = exchanged(ranks, &verdicts, &range, &options)?;
    progress.advance((options.iter().sum::<usize>() - all.len()) as u64);
    let judged = range.zip(verdicts).zip(digests).map(|((index, verdicts), prompts)| {
        let Line { line, item } = &items[index];
        let losses = verdicts.iter().map(|v| Some(v.mean).filter(|mean| !mean.is_nan())).collect();
        let (gold, chosen, correct) = match item {
            Item::LanguageModeling { .. } => (None, None, verdicts[0].exact),
            Item::MultipleChoice { gold, .. } | Item::Schema { gold, .. } => {
                let chosen = lowest(&verdicts);
                (Some(*gold), Some(chosen), chosen == *gold)
            }
        };
        Example { index, line: *line, prompts, losses, gold, chosen, correct }
    });
    Ok(judged.collect())
}

/// Which texts an item's prompts are.
fn digest(prompts: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    for prompt in prompts {
        hasher.update(prompt.as_bytes()).update(&[0]);
    }
    hasher.finalize().to_hex().to_string()
}

/// What the model said about one sequence.
#[derive(Clone, Copy, Default)]
struct Verdict {
    /// The mean loss of the scored tokens; NaN where there are none.
    mean: f64,
    /// Whether each of them was the greedy prediction.
    exact: bool,
}

/// All verdicts on the items `range`, of so many `options` each, from those on this rank's.
fn exchanged(
    ranks: &dyn Control,
    own: &[Verdict],
    range: &Range<usize>,
    options: &[usize],
) -> Result<Vec<Vec<Verdict>>> {
    let own: Vec<f64> =
        own.iter().flat_map(|verdict| [verdict.mean, f64::from(verdict.exact)]).collect();
    let all = ranks.collect(&own)?;
    let (losses, positions) = (all.len() / 2, options.iter().sum());
    if losses != positions {
        return Err(Error::Scores { losses, predictions: losses, positions });
    }
    let mut all =
        all.as_chunks().0.iter().map(|&[mean, exact]| Verdict { mean, exact: exact > 0.0 });
    let mut verdicts = vec![Vec::new(); range.len()];
    for rank in 0..ranks.ranks() {
        for (at, _) in range.clone().enumerate().filter(|(_, i)| i % ranks.ranks() == rank) {
            verdicts[at].extend(all.by_ref().take(options[at]));
        }
    }
    Ok(verdicts)
}

/// The losses of each option's own tokens, where options of multiple choice share enough and the model can make use of it.
fn shared(
    model: &mut dyn LanguageModel,
    kind: TaskType,
    options: &[Sequence],
) -> Result<Option<Vec<Vec<f64>>>> {
    // Of these what is scored is all that comes after what they share.
    let start = options[0].start;
    if kind != TaskType::MultipleChoice || start * (options.len() - 1) < SPARED {
        return Ok(None);
    }
    let rests: Vec<&[u32]> = options.iter().map(|option| &option.tokens[start..]).collect();
    let Some(losses) = model.score_shared(&options[0].tokens[..start], &rests)? else {
        return Ok(None);
    };
    let (found, wanted) = (losses.iter().map(Vec::len), rests.iter().map(|rest| rest.len()));
    if found.clone().ne(wanted.clone()) {
        let (losses, positions) = (found.sum(), wanted.sum());
        return Err(Error::Scores { losses, predictions: 0, positions });
    }
    Ok(Some(losses))
}

/// Reads the verdict on `sequence`, whose row begins at `at`. Fails with a loss that is not finite.
fn judge(sequence: &Sequence, at: usize, scores: &Scores, greedy: bool) -> Result<Verdict, f64> {
    let Sequence { tokens, start } = sequence;
    let scored = at + start - 1..at + tokens.len() - 1;
    let predicted = || scores.predictions[scored.clone()].iter().map(|id| id.cast_unsigned());
    let exact = greedy && predicted().eq(tokens[*start..].iter().copied());
    Ok(Verdict { exact, ..verdict(&scores.losses[scored])? })
}

/// The verdict on scored tokens of these losses. Fails with one that is not finite.
fn verdict(losses: &[f64]) -> Result<Verdict, f64> {
    if let Some(&loss) = losses.iter().find(|loss| !loss.is_finite()) {
        return Err(loss);
    }
    Ok(Verdict { mean: losses.iter().sum::<f64>() / losses.len() as f64, exact: false })
}

/// The option with the lowest mean loss, the first of equals. As in Python's `min`, a mean over no tokens (NaN) is chosen
/// where it stands first and nowhere else; published results rest on that.
fn lowest(verdicts: &[Verdict]) -> usize {
    let mut best = 0;
    for (i, verdict) in verdicts.iter().enumerate() {
        if verdict.mean < verdicts[best].mean {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_never_hold_the_item_itself() {
        // import random
        // [random.Random(1234+3).sample([i for i in range(12) if i != 3], 5), random.Random(1234+40).sample([i for i in range(50) if i != 40], 4)]
        assert_eq!(few_shot(3, 12, 5), [2, 7, 5, 4, 1]);
        assert_eq!(few_shot(40, 50, 4), [7, 47, 20, 29]);
        for index in 0..9 {
            let mut examples = few_shot(index, 9, 8);
            examples.sort_unstable();
            assert_eq!(examples, (0..9).filter(|&i| i != index).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_lowest_is_the_first_of_equals_and_nan_only_when_first() {
        let lowest = |means: &[f64]| {
            lowest(&means.iter().map(|&mean| Verdict { mean, exact: false }).collect::<Vec<_>>())
        };
        assert_eq!(lowest(&[2.0, 1.0, 1.0]), 1);
        assert_eq!(lowest(&[f64::NAN, 1.0, 0.5]), 0);
        assert_eq!(lowest(&[2.0, f64::NAN, 0.5]), 2);
    }
}
