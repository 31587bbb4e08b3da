//! A small synthetic world: people, towns, sums and what happens there, as text. A pure function of the seed.
//! Its facts are few and recur in many phrasings, so that a small model learns them in minutes.

mod chat;
mod documents;
mod names;
mod sentences;
mod tasks;
mod write;

pub use documents::{Document, Split};

use crate::{Error, Result};
use farthing_base::random::Draws;
use names::{
    COLOURS, FOODS, JOBS, LANDMARKS, MEN, PET_NAMES, PETS, PRODUCTS, REGIONS, RIVERS, TOWNS, WOMEN,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use tasks::write_tasks;
pub use write::write_parquet;

/// How much of which world to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorldSettings {
    /// Decides who lives where, and what is told.
    pub seed: u64,
    /// Shards of training text.
    pub train_shards: usize,
    /// Documents in each of them.
    pub documents_per_shard: usize,
    /// Documents in the last shard, which is held out.
    pub val_documents: usize,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self { seed: 1337, train_shards: 4, documents_per_shard: 6_000, val_documents: 1_000 }
    }
}

/// More documents than this are no small world.
const MOST_DOCUMENTS: usize = 1_000_000_000;

/// More files than this have no names of five digits.
const MOST_SHARDS: usize = 99_999;

impl WorldSettings {
    /// Whether there is something in it, and not more than can be made.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        self.fault().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// What is wrong, and with which setting.
    pub fn fault(&self) -> Option<(&'static str, Error)> {
        let wrong = |what: String, hint: &str| Error::Config { what, hint: hint.into() };
        let documents = self.train_shards.checked_mul(self.documents_per_shard);
        let sizes = [
            ("train_shards", self.train_shards),
            ("documents_per_shard", self.documents_per_shard),
            ("val_documents", self.val_documents),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, n)| *n == 0) {
            return Some((key, wrong("a world of 0 documents".into(), "at least 1")));
        }
        if self.train_shards > MOST_SHARDS {
            let what = format!("a world of {} files to train on", self.train_shards);
            return Some(("train_shards", wrong(what, "at most 99,999")));
        }
        let many = |n: String| format!("a world of {n} documents");
        if documents.is_none_or(|n| n > MOST_DOCUMENTS) {
            let what = many(format!("{} times {}", self.train_shards, self.documents_per_shard));
            return Some(("documents_per_shard", wrong(what, "at most 1,000,000,000 in all")));
        }
        if self.val_documents > MOST_DOCUMENTS {
            let what = many(self.val_documents.to_string());
            return Some(("val_documents", wrong(what, "at most 1,000,000,000")));
        }
        None
    }
}

/// Someone who lives in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Person {
    /// First name, unique.
    pub name: &'static str,
    /// Whether "she" or "he" is said.
    pub woman: bool,
    /// Index of the home town.
    pub town: usize,
    /// Index of the best friend, whose best friend this person is.
    pub friend: usize,
    /// The job, where it is done, what is done.
    pub job: (&'static str, &'static str, &'static str),
    /// The kind of pet and what it does.
    pub pet: (&'static str, &'static str),
    /// The pet's name.
    pub pet_name: &'static str,
    /// What this person likes to eat.
    pub food: &'static str,
    /// The favourite colour.
    pub colour: &'static str,
    /// Years.
    pub age: usize,
}

impl Person {
    /// "she" or "he".
    pub(crate) fn they(&self) -> &'static str {
        if self.woman { "she" } else { "he" }
    }

    /// "her" or "his".
    pub(crate) fn their(&self) -> &'static str {
        if self.woman { "her" } else { "his" }
    }

    /// "her" or "him".
    pub(crate) fn them(&self) -> &'static str {
        if self.woman { "her" } else { "him" }
    }
}

/// A town of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Town {
    /// Its name, unique.
    pub name: &'static str,
    /// Index of its region, which is that of the region's river.
    pub region: usize,
    /// What is made there, and nowhere else.
    pub product: &'static str,
    /// What there is to see there, and nowhere else.
    pub landmark: &'static str,
}

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    seed: u64,
    people: Vec<Person>,
    towns: Vec<Town>,
    rivers: Vec<&'static str>,
}

/// The world's sums are of numbers from 1 to this.
pub const LARGEST_SUMMAND: usize = 10;

impl World {
    /// Deals names, homes, jobs, pets, tastes and friends out by the seed, each value equally often.
    pub fn new(seed: u64) -> Self {
        let people = WOMEN.len() + MEN.len();
        let dealt = |what: &str, n: usize, values: usize| {
            let mut hand: Vec<usize> = (0..n).map(|i| i % values).collect();
            Draws::new(seed, what, 0).shuffle(&mut hand);
            hand
        };
        let towns = TOWNS.len();
        let regions = dealt("region", towns, REGIONS.len());
        let products = dealt("product", towns, PRODUCTS.len());
        let landmarks = dealt("landmark", towns, LANDMARKS.len());
        let rivers = dealt("river", REGIONS.len(), RIVERS.len());
        let homes = dealt("home", people, towns);
        let jobs = dealt("job", people, JOBS.len());
        let pets = dealt("pet", people, PETS.len());
        let pet_names = dealt("pet name", people, PET_NAMES.len());
        let foods = dealt("food", people, FOODS.len());
        let colours = dealt("colour", people, COLOURS.len());
        let ages = dealt("age", people, 45);
        let pairs = dealt("friend", people, people);
        let mut friends = vec![0; people];
        for pair in pairs.chunks_exact(2) {
            friends[pair[0]] = pair[1];
            friends[pair[1]] = pair[0];
        }
        let person = |i: usize| Person {
            name: if i < WOMEN.len() { WOMEN[i] } else { MEN[i - WOMEN.len()] },
            woman: i < WOMEN.len(),
            town: homes[i],
            friend: friends[i],
            job: JOBS[jobs[i]],
            pet: PETS[pets[i]],
            pet_name: PET_NAMES[pet_names[i]],
            food: FOODS[foods[i]],
            colour: COLOURS[colours[i]],
            age: 20 + ages[i],
        };
        let town = |i: usize| Town {
            name: TOWNS[i],
            region: regions[i],
            product: PRODUCTS[products[i]],
            landmark: LANDMARKS[landmarks[i]],
        };
        Self {
            seed,
            people: (0..people).map(person).collect(),
            towns: (0..towns).map(town).collect(),
            rivers: rivers.into_iter().map(|r| RIVERS[r]).collect(),
        }
    }

    /// Everyone.
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// Every town.
    pub fn towns(&self) -> &[Town] {
        &self.towns
    }

    /// The region's name.
    pub fn region(&self, town: &Town) -> &'static str {
        REGIONS[town.region]
    }

    /// The river that a town lies on, without "River".
    pub fn river(&self, town: &Town) -> &'static str {
        self.rivers[town.region]
    }

    pub(crate) fn home(&self, person: &Person) -> &Town {
        &self.towns[person.town]
    }

    pub(crate) fn friend(&self, person: &Person) -> &Person {
        &self.people[person.friend]
    }
}

/// "a" or "an" and the noun.
pub(crate) fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// With its first letter in upper case.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn friends_are_mutual_and_values_are_shared_evenly() {
        let world = World::new(5);
        for (i, person) in world.people().iter().enumerate() {
            assert_ne!(person.friend, i);
            assert_eq!(world.people()[person.friend].friend, i);
        }
        for town in 0..world.towns().len() {
            let residents = world.people().iter().filter(|p| p.town == town).count();
            assert!((3..=4).contains(&residents), "{residents}");
        }
        assert_ne!(World::new(5), World::new(6));
        assert_eq!(World::new(5), World::new(5));
    }

    #[test]
    fn articles_and_capitals() {
        assert_eq!(a("orange scarf"), "an orange scarf");
        assert_eq!(a("key"), "a key");
        assert_eq!(capital("she"), "She");
    }
}
