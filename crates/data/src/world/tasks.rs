//! Questions about the world, in the format of the CORE bundle: every answer is told in the training text, and every
//! question is a sentence, or the beginning of one, as it stands there.

use super::names::{PETS, PLACES, PRODUCTS};
use super::{LARGEST_SUMMAND, World};
use crate::{Error, Result};
use farthing_base::files;
use farthing_base::random::Draws;
use serde::Serialize;
use std::path::Path;

/// How a task's items are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskType {
    /// The continuation with the lowest mean loss is the answer.
    MultipleChoice,
    /// The context that gives the continuation the lowest mean loss is the answer.
    Schema,
    /// Every token of the continuation must be the greedy prediction.
    LanguageModeling,
}

/// One question; a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Item {
    /// One beginning, several ends.
    MultipleChoice {
        /// The beginning.
        query: String,
        /// The ends.
        choices: Vec<String>,
        /// The index of the right end.
        gold: usize,
    },
    /// Several beginnings, one end.
    Schema {
        /// The beginnings.
        context_options: Vec<String>,
        /// The end.
        continuation: String,
        /// The index of the right beginning.
        gold: usize,
    },
    /// One beginning and the end that must follow.
    LanguageModeling {
        /// The beginning.
        context: String,
        /// The end.
        continuation: String,
    },
}

/// A task and its items.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Task {
    /// Its name.
    pub label: &'static str,
    /// The file of its items, relative to `tasks.json`.
    pub uri: String,
    /// How items are scored.
    #[serde(rename = "task_type")]
    pub kind: TaskType,
    /// Solved examples before each item.
    pub num_fewshot: usize,
    /// The accuracy of guessing, in percent.
    pub random_baseline: f64,
    /// What stands between a context and its continuation.
    pub continuation_delimiter: &'static str,
    /// The questions.
    #[serde(skip)]
    pub items: Vec<Item>,
}

const CHOICES: usize = 4;
const SCHEMA_ITEMS: usize = 100;

impl World {
    /// Seven tasks of about 100 items each, over the three kinds.
    pub fn tasks(&self) -> Vec<Task> {
        use TaskType::{LanguageModeling, MultipleChoice, Schema};
        let task = |label, kind, random_baseline, items| Task {
            label,
            uri: format!("{label}.jsonl"),
            kind,
            num_fewshot: 0,
            random_baseline,
            continuation_delimiter: " ",
            items,
        };
        vec![
            task("world_homes", MultipleChoice, 25.0, self.homes()),
            task("world_pets", MultipleChoice, 25.0, self.pets()),
            task("world_friends", MultipleChoice, 25.0, self.friends()),
            task("world_jobs", Schema, 50.0, self.jobs()),
            task("world_pronouns", Schema, 50.0, self.pronouns()),
            task("world_sums", LanguageModeling, 0.0, sums()),
            task("world_towns", LanguageModeling, 0.0, self.town_facts()),
        ]
    }

    /// Four ends, the right one among them at a random place.
    fn choice(&self, task: &str, index: usize, query: String, right: &str, all: &[&str]) -> Item {
        let mut rng = Draws::new(self.seed, task, index as u64);
        let mut others: Vec<&str> = all.iter().copied().filter(|&end| end != right).collect();
        rng.shuffle(&mut others);
        others.truncate(CHOICES - 1);
        let gold = rng.below(CHOICES);
        others.insert(gold, right);
        Item::MultipleChoice {
            query,
            choices: others.iter().map(|end| format!("{end}.")).collect(),
            gold,
        }
    }

    fn homes(&self) -> Vec<Item> {
        let towns: Vec<&str> = self.towns.iter().map(|t| t.name).collect();
        let mut items = vec![];
        for p in &self.people {
            let name = p.name;
            for query in [
                format!("{name} lives in"),
                format!("Where does {name} live? {name} lives in"),
                format!("The home of {name} is in"),
            ] {
                items.push(self.choice("homes", items.len(), query, self.home(p).name, &towns));
            }
        }
        items
    }

    fn pets(&self) -> Vec<Item> {
        let pets: Vec<&str> = PETS.iter().map(|pet| pet.0).collect();
        let mut items = vec![];
        for p in &self.people {
            let name = p.name;
            for query in [
                format!("{name} has a pet"),
                format!("Does {name} have a pet? Yes, {name} has a pet"),
            ] {
                items.push(self.choice("pets", items.len(), query, p.pet.0, &pets));
            }
        }
        items
    }

    fn friends(&self) -> Vec<Item> {
        let mut items = vec![];
        for p in &self.people {
            let name = p.name;
            let others: Vec<&str> =
                self.people.iter().map(|o| o.name).filter(|&other| other != name).collect();
            for query in [
                format!("{name}'s best friend is"),
                format!("Who is the best friend of {name}? The best friend of {name} is"),
            ] {
                items.push(self.choice(
                    "friends",
                    items.len(),
                    query,
                    self.friend(p).name,
                    &others,
                ));
            }
        }
        items
    }

    fn jobs(&self) -> Vec<Item> {
        let mut items = vec![];
        for index in 0..SCHEMA_ITEMS {
            let mut rng = Draws::new(self.seed, "jobs", index as u64);
            let one = &self.people[index % self.people.len()];
            let others: Vec<_> = self.people.iter().filter(|p| p.job != one.job).collect();
            let two = rng.pick(&others);
            let met = format!("{} and {} met at the {}.", one.name, two.name, rng.pick(&PLACES));
            let gold = rng.below(2);
            items.push(Item::Schema {
                context_options: vec![format!("{met} {}", one.name), format!("{met} {}", two.name)],
                continuation: format!("works as a {}.", [one, two][gold].job.0),
                gold,
            });
        }
        items
    }

    fn pronouns(&self) -> Vec<Item> {
        let mut items = vec![];
        for index in 0..SCHEMA_ITEMS {
            let mut rng = Draws::new(self.seed, "pronouns", index as u64);
            let one = &self.people[index % self.people.len()];
            let others: Vec<_> = self.people.iter().filter(|p| p.woman != one.woman).collect();
            let mut pair = [one, rng.pick(&others)];
            rng.shuffle(&mut pair);
            let place = rng.pick(&PLACES);
            let gold = rng.below(2);
            items.push(Item::Schema {
                context_options: pair
                    .map(|p| format!("{} went to the {place} because", p.name))
                    .to_vec(),
                continuation: format!("{} needed {}.", pair[gold].they(), rng.pick(&PRODUCTS)),
                gold,
            });
        }
        items
    }

    fn town_facts(&self) -> Vec<Item> {
        let mut items = vec![];
        for town in &self.towns {
            let (name, region, river) = (town.name, self.region(town), self.river(town));
            for (context, continuation) in [
                (format!("{name} is a town in"), region),
                (format!("In which region is {name}? {name} is a town in"), region),
                (format!("{name} lies on the River"), river),
                (format!("On which river does {name} lie? {name} lies on the River"), river),
                (format!("{name} makes"), town.product),
                (format!("What does {name} make? {name} makes"), town.product),
                (format!("The town of {name} is known for its"), town.product),
                (format!("People come to {name} to buy"), town.product),
            ] {
                let continuation = continuation.to_string();
                items.push(Item::LanguageModeling { context, continuation });
            }
        }
        items
    }
}

fn sums() -> Vec<Item> {
    let mut items = vec![];
    for x in 1..=LARGEST_SUMMAND {
        for y in 1..=LARGEST_SUMMAND {
            let context = format!("{x} plus {y} is");
            items.push(Item::LanguageModeling { context, continuation: (x + y).to_string() });
        }
    }
    items
}

/// Writes the world's tasks into `dir`: `tasks.json`, a list of tasks, and one file of JSON lines for each.
///
/// # Errors
/// [`Error::Io`].
pub fn write_tasks(dir: &Path, seed: u64) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let tasks = World::new(seed).tasks();
    let json = |e: serde_json::Error| Error::io("write the tasks into", dir)(e.into());
    for task in &tasks {
        let mut lines = String::new();
        for item in &task.items {
            lines.push_str(&serde_json::to_string(item).map_err(json)?);
            lines.push('\n');
        }
        files::write(&dir.join(&task.uri), &[lines.as_bytes()])?;
    }
    let list = serde_json::to_string_pretty(&tasks).map_err(json)?;
    Ok(files::write(&dir.join("tasks.json"), &[list.as_bytes(), b"\n"])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Split;

    /// What a model must know is told, in the very words that the right answer makes.
    #[test]
    fn every_right_answer_stands_in_the_training_text() {
        let world = World::new(1337);
        let text: Vec<String> =
            world.documents(Split::Train, 12_000).map(|document| document.text).collect();
        let text = text.join("\n");
        for task in world.tasks() {
            let (mut told, mut items) = (0, 0);
            for item in &task.items {
                let sentence = match item {
                    Item::MultipleChoice { query, choices, gold } => {
                        assert_eq!(choices.len(), CHOICES);
                        let right = choices.iter().filter(|end| **end == choices[*gold]).count();
                        assert_eq!(right, 1, "{item:?}");
                        format!("{query} {}", choices[*gold])
                    }
                    // The pair that met is new; what the end says of the right one is told.
                    Item::Schema { context_options, continuation, gold } => {
                        let other = &context_options[1 - *gold];
                        let wrong = format!("{other} {continuation}");
                        assert!(!text.contains(&wrong), "{wrong}");
                        let all = format!("{} {continuation}", context_options[*gold]);
                        let from = all.find(". ").map_or(0, |at| at + 2);
                        all[from..].to_string()
                    }
                    Item::LanguageModeling { context, continuation } => {
                        format!("{context} {continuation}.")
                    }
                };
                items += 1;
                told += usize::from(text.contains(&sentence));
            }
            // Pronouns combine names, places and things freely, so that not each combination occurs.
            let least = if task.label == "world_pronouns" { 0.3 } else { 0.98 };
            let share = told as f64 / items as f64;
            assert!(share >= least, "{}: {told} of {items} told", task.label);
            assert!((80..=130).contains(&items), "{}: {items}", task.label);
        }
    }

    #[test]
    fn gold_is_spread_over_the_choices() {
        for task in World::new(1337).tasks() {
            let mut counts = [0; CHOICES];
            for item in &task.items {
                if let Item::MultipleChoice { gold, .. } | Item::Schema { gold, .. } = item {
                    counts[*gold] += 1;
                }
            }
            let n = task.items.len();
            let worst = counts.iter().max().copied().unwrap_or(0);
            assert!(worst as f64 <= n as f64 * (task.random_baseline / 100.0 + 0.15), "{counts:?}");
        }
    }
}
