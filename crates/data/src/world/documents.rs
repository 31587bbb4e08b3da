//! Whole documents: paragraphs of several kinds about people, towns and sums, joined to a length drawn from a long-tailed
//! distribution. Each document has a stream of random numbers of its own, so any one can be made alone.

use super::names::{COUNTED, DAYS, OBJECTS, PLACES, PRODUCTS, WEATHER};
use super::sentences::{FACTS, Fact, sum};
use super::{Person, Town, World, a, capital};
use farthing_base::random::Draws;

/// Which documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// Held out: other documents about the same facts.
    Val,
}

impl Split {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// One text of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Document {
    /// Its place in the split.
    pub index: u64,
    /// The text.
    pub text: String,
}

impl World {
    /// The first `n` documents of a split.
    pub fn documents(&self, split: Split, n: u64) -> impl Iterator<Item = Document> + '_ {
        (0..n).map(move |index| self.document(split, index))
    }

    /// Document `index` of a split, by itself.
    pub fn document(&self, split: Split, index: u64) -> Document {
        let mut rng = Draws::new(self.seed, split.name(), index);
        let target = words(&mut rng);
        let mut maker = Maker { world: self, rng };
        Document { index, text: maker.document(target) }
    }
}

/// How many words a document should have: FineWeb-edu's distribution of lengths (a logarithm piecewise linear in a normal
/// variable), an eighth as long, so that the median is near 80 and one in a hundred has more than 900.
fn words(rng: &mut Draws) -> usize {
    let z = rng.normal();
    let log = match z {
        z if z < 0.0 => 6.4618 + 1.1438 * z,
        z if z < 1.281_55 => 6.4618 + 0.8625 * z,
        z if z < 2.326_35 => 7.5671 + 1.3180 * (z - 1.281_55),
        z => 8.9441 + 1.3575 * (z - 2.326_35),
    };
    ((log.exp() / 8.0) as usize).clamp(12, 4_000)
}

struct Maker<'a> {
    world: &'a World,
    rng: Draws,
}

fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

impl<'a> Maker<'a> {
    fn person(&mut self) -> &'a Person {
        let people = self.world.people();
        &people[self.rng.below(people.len())]
    }

    /// Someone else; now and then the best friend.
    fn other(&mut self, than: &Person) -> &'a Person {
        if self.rng.chance(0.3) {
            return self.world.friend(than);
        }
        loop {
            let other = self.person();
            if other != than {
                return other;
            }
        }
    }

    fn town(&mut self) -> &'a Town {
        let towns = self.world.towns();
        &towns[self.rng.below(towns.len())]
    }

    fn document(&mut self, target: usize) -> String {
        let mut person = self.person();
        let mut town = if self.rng.chance(0.5) { self.world.home(person) } else { self.town() };
        let mut text = self.title(person, town, target);
        loop {
            let left = target.saturating_sub(count_words(&text));
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            let paragraph = self.paragraph(person, town, left);
            text.push_str(&paragraph);
            if count_words(&text) + 12 > target {
                return text;
            }
            // A long document goes on to others.
            if self.rng.chance(0.6) {
                person = self.other(person);
            }
            if self.rng.chance(0.6) {
                town = self.world.home(person);
            }
        }
    }

    fn title(&mut self, person: &Person, town: &Town, target: usize) -> String {
        if target < 60 || self.rng.chance(0.6) {
            return String::new();
        }
        let day = self.rng.pick(&DAYS);
        match self.rng.below(4) {
            0 => format!("A day in {}", town.name),
            1 => format!("What {} did on {day}", person.name),
            2 => format!("News from {}", self.world.region(town)),
            _ => format!("The {} of {}", person.job.0, self.world.home(person).name),
        }
    }

    /// A paragraph of at most about `left` words.
    fn paragraph(&mut self, person: &'a Person, town: &'a Town, left: usize) -> String {
        let sentences = (left / 7).clamp(3, 10);
        let kinds = if left < 45 { 5 } else { 9 };
        match self.rng.below(kinds) {
            0 => self.portrait(person, sentences),
            1 => self.about_town(town, sentences),
            2 => self.sums(sentences),
            3 => self.questions(person, town, sentences),
            4 => self.meeting(person, sentences),
            5 => self.talk(person, sentences),
            6 => self.visit(person),
            7 => self.lost(person),
            _ => self.problem(person),
        }
    }

    fn facts(&mut self, n: usize) -> Vec<Fact> {
        let mut facts = FACTS.to_vec();
        self.rng.shuffle(&mut facts);
        facts.truncate(n);
        facts
    }

    fn portrait(&mut self, person: &Person, sentences: usize) -> String {
        let facts = self.facts(sentences.min(7));
        let mut told = vec![];
        for (i, fact) in facts.into_iter().enumerate() {
            let by_name = i == 0 || self.rng.chance(0.35);
            told.push(self.world.tell(&mut self.rng, person, fact, by_name));
        }
        told.join(" ")
    }

    fn about_town(&mut self, town: &Town, sentences: usize) -> String {
        let mut ways = [0, 1, 2, 3, 4, 5];
        self.rng.shuffle(&mut ways);
        let mut told: Vec<String> = ways
            .into_iter()
            .take(sentences)
            .map(|way| self.world.tell_town(&mut self.rng, town, way))
            .collect();
        if sentences > 6 {
            let region: Vec<&str> = self
                .world
                .towns()
                .iter()
                .filter(|t| t.region == town.region)
                .map(|t| t.name)
                .collect();
            if let [rest @ .., last] = region.as_slice() {
                told.push(format!(
                    "The towns of {} are {} and {last}.",
                    self.world.region(town),
                    rest.join(", ")
                ));
            }
        }
        told.join(" ")
    }

    fn sums(&mut self, sentences: usize) -> String {
        let n = sentences.clamp(2, 8);
        let mut told = vec![];
        if n > 3 {
            let teacher = self.person();
            told.push(match self.rng.below(3) {
                0 => "Today the children learn to add.".to_string(),
                1 => format!("{} helps the children with their sums.", teacher.name),
                _ => format!("The school in {} begins with sums.", self.world.home(teacher).name),
            });
        }
        for _ in 0..n {
            let (x, y, sum) = sum(&mut self.rng);
            if self.rng.chance(0.25) {
                told.push(format!("What is {x} plus {y}?"));
            }
            told.push(sum);
        }
        told.join(" ")
    }

    fn questions(&mut self, person: &'a Person, town: &Town, sentences: usize) -> String {
        let labelled = self.rng.chance(0.4);
        let n = (sentences / 2).clamp(2, 4);
        let mut told = vec![];
        let mut person = person;
        for fact in self.facts(n) {
            let (question, answer) = if self.rng.chance(0.25) {
                let way = self.rng.below(3);
                self.world.town_question(town, way)
            } else {
                self.world.question(person, fact)
            };
            told.push(if labelled {
                format!("Question: {question}\nAnswer: {answer}")
            } else {
                format!("{question} {answer}")
            });
            if self.rng.chance(0.5) {
                person = self.other(person);
            }
        }
        told.join(if labelled { "\n" } else { " " })
    }

    fn meeting(&mut self, one: &'a Person, sentences: usize) -> String {
        let two = self.other(one);
        let place = self.rng.pick(&PLACES);
        let mut told = vec![];
        if sentences > 4 || self.rng.chance(0.5) {
            told.push(self.errand(one, place));
        }
        told.push(format!("{} and {} met at the {place}.", one.name, two.name));
        let (first, second) = if self.rng.chance(0.5) { (one, two) } else { (two, one) };
        told.push(format!("{} works as a {}.", first.name, first.job.0));
        if sentences > 2 {
            told.push(format!("{} works as a {}.", second.name, second.job.0));
        }
        for fact in self.facts(sentences.clamp(4, 7) - 4) {
            let about = if self.rng.chance(0.5) { one } else { two };
            told.push(self.world.tell(&mut self.rng, about, fact, true));
        }
        told.join(" ")
    }

    /// "… went to the market because she needed soap."
    fn errand(&mut self, person: &Person, place: &str) -> String {
        let thing = self.rng.pick(&PRODUCTS);
        format!("{} went to the {place} because {} needed {thing}.", person.name, person.they())
    }

    fn talk(&mut self, one: &'a Person, sentences: usize) -> String {
        let two = self.other(one);
        let place = self.rng.pick(&PLACES);
        let mut told = vec![match self.rng.below(3) {
            0 => format!("{} met {} at the {place}.", one.name, two.name),
            1 => format!("On {} {} talked to {}.", self.rng.pick(&DAYS), one.name, two.name),
            _ => format!("\"Good morning, {}!\" said {}.", two.name, one.name),
        }];
        for (i, fact) in self.facts((sentences / 2).clamp(2, 5)).into_iter().enumerate() {
            let (asks, says) = if i % 2 == 0 { (one, two) } else { (two, one) };
            told.push(self.world.exchange(&mut self.rng, asks, says, fact));
        }
        if self.rng.chance(0.5) {
            told.push("Then they said goodbye.".to_string());
        }
        told.join(if self.rng.chance(0.5) { "\n" } else { " " })
    }

    fn visit(&mut self, person: &'a Person) -> String {
        let friend = self.world.friend(person);
        let (home, goal) = (self.world.home(person), self.world.home(friend));
        let (they, their) = (capital(person.they()), person.their());
        let mut told = vec![
            format!(
                "On {} morning {} left {their} house in {}.",
                self.rng.pick(&DAYS),
                person.name,
                home.name
            ),
            format!("{}.", self.rng.pick(&WEATHER)),
            format!(
                "{they} wanted to visit {their} best friend {}, who lives in {}.",
                friend.name, goal.name
            ),
        ];
        if self.rng.chance(0.5) {
            told.push(format!(
                "{} {} {} came along.",
                capital(their),
                person.pet.0,
                person.pet_name
            ));
        }
        if self.rng.chance(0.5) {
            told.push(format!(
                "{they} carried a basket of {}, because {} likes to eat {}.",
                friend.food, friend.name, friend.food
            ));
        }
        if home == goal {
            told.push(format!("It is a short walk past the {}.", goal.landmark));
        } else {
            told.push(format!(
                "The road to {} follows the River {}.",
                goal.name,
                self.world.river(goal)
            ));
            told.push(format!(
                "Soon {} saw the {} of {}.",
                person.they(),
                goal.landmark,
                goal.name
            ));
        }
        told.push(format!(
            "{} opened the door and was glad to see {}.",
            friend.name,
            person.them()
        ));
        if self.rng.chance(0.5) {
            told.push(format!(
                "{} was still tired, because {} works as a {}.",
                friend.name,
                friend.they(),
                friend.job.0
            ));
        }
        told.push("They ate together and talked until the evening.".into());
        told.push(format!("Then {} went home to {}.", person.name, home.name));
        told.join(" ")
    }

    fn lost(&mut self, person: &'a Person) -> String {
        let finder = self.other(person);
        let object = self.rng.pick(&OBJECTS);
        let place = self.rng.pick(&PLACES);
        let (they, their) = (person.they(), person.their());
        let mut told = vec![
            format!("{} had {}.", person.name, a(object)),
            format!("One day {they} lost the {object} at the {place}."),
            format!("{} looked for it everywhere, but {they} could not find it.", capital(they)),
        ];
        let fact = FACTS[self.rng.below(FACTS.len())];
        told.push(format!("{} found the {object}.", finder.name));
        told.push(self.world.tell(&mut self.rng, finder, fact, false));
        told.push(format!(
            "\"Is this your {object}?\" asked {}. \"Yes, it is mine,\" said {}.",
            finder.name, person.name
        ));
        told.push(format!(
            "{} took {their} {object} home to {}.",
            person.name,
            self.world.home(person).name
        ));
        told.join(" ")
    }

    fn problem(&mut self, person: &'a Person) -> String {
        let giver = self.other(person);
        let (x, y, sum) = sum(&mut self.rng);
        let (one, many) = COUNTED[self.rng.below(COUNTED.len())];
        let things = |n: usize| format!("{n} {}", if n == 1 { one } else { many });
        let place = self.rng.pick(&PLACES);
        let fact = FACTS[self.rng.below(FACTS.len())];
        let about = self.world.tell(&mut self.rng, giver, fact, true);
        let (name, giver, them) = (person.name, giver.name, person.them());
        let (before, after) = (things(x), things(x + y));
        format!(
            "{name} went to the {place} with {before}. {giver} gave {them} {y} more. \
             How many {many} does {name} have now? {sum} {name} has {after}. {about}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn documents_are_a_pure_function_of_seed_split_and_index() {
        let world = World::new(3);
        let all: Vec<Document> = world.documents(Split::Train, 50).collect();
        assert_eq!(all[31], World::new(3).document(Split::Train, 31));
        assert_ne!(all[31].text, world.document(Split::Val, 31).text);
        assert_ne!(all[31].text, World::new(4).document(Split::Train, 31).text);
    }

    #[test]
    fn lengths_have_a_long_tail_and_the_held_out_split_is_new() {
        let world = World::new(1337);
        let train: Vec<String> =
            world.documents(Split::Train, 6000).map(|document| document.text).collect();
        let mut lengths: Vec<usize> = train.iter().map(|text| count_words(text)).collect();
        lengths.sort_unstable();
        let median = lengths[lengths.len() / 2];
        assert!((60..120).contains(&median), "median {median} words");
        assert!(lengths[60] < 25, "one in a hundred has {} words or fewer", lengths[60]);
        let long = lengths.iter().filter(|&&n| n > 900).count();
        assert!((20..200).contains(&long), "{long} of 6,000 exceed 900 words");
        let seen: BTreeSet<&String> = train.iter().collect();
        let val = world.documents(Split::Val, 1000);
        let repeated = val.filter(|document| seen.contains(&document.text)).count();
        assert!(repeated < 10, "{repeated} of 1,000 held-out documents are in the training text");
    }

    /// Faults that templates make: a wrong article, a double space, an empty slot.
    #[test]
    fn the_language_is_clean() {
        for document in World::new(7).documents(Split::Train, 3000) {
            let text = &document.text;
            for fault in ["  ", " .", " ,", "..", "{", "}", " a a", " a e", " a i", " a o", " a u"]
            {
                assert!(!text.contains(fault), "{fault:?} in {text}");
            }
            for word in text.split(" an ").skip(1) {
                assert!(word.starts_with(['a', 'e', 'i', 'o', 'u']), "an {word}");
            }
            for sentence in text.split(['\n']).flat_map(|line| line.split(". ")) {
                let first = sentence.trim_start_matches(['"', ' ']).chars().next();
                let clean = first.is_none_or(|c| c.is_uppercase() || c.is_numeric());
                assert!(clean, "{sentence:?} in {text}");
            }
        }
    }
}
