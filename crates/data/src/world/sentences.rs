//! Single sentences about one fact, each in several phrasings. Which facts are told together is decided in `documents.rs`.

use super::{LARGEST_SUMMAND, Person, Town, World, a, capital};
use farthing_base::random::Draws;

/// What can be said of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    Home,
    Job,
    Pet,
    Friend,
    Food,
    Colour,
    Age,
}

pub(super) const FACTS: [Fact; 7] =
    [Fact::Home, Fact::Job, Fact::Pet, Fact::Friend, Fact::Food, Fact::Colour, Fact::Age];

impl World {
    /// One sentence about a person, by name or by pronoun.
    pub(super) fn tell(&self, rng: &mut Draws, p: &Person, fact: Fact, by_name: bool) -> String {
        let name = p.name;
        let (s, its) = if by_name {
            (name.to_string(), format!("{name}'s"))
        } else {
            (capital(p.they()), capital(p.their()))
        };
        let town = self.home(p);
        let friend = self.friend(p).name;
        // The phrasings with "of" take the name in any case.
        let way = rng.below(5);
        match (fact, way) {
            (Fact::Home, 0 | 1) => format!("{s} lives in {}.", town.name),
            (Fact::Home, 2) => format!("{its} home is in {}.", town.name),
            (Fact::Home, 3) => format!("The home of {name} is in {}.", town.name),
            (Fact::Home, _) => {
                format!("{its} house in {} stands near the River {}.", town.name, self.river(town))
            }
            (Fact::Job, 0 | 1) => format!("{s} works as a {}.", p.job.0),
            (Fact::Job, 2) => format!("{s} is a {} and {}.", p.job.0, p.job.2),
            (Fact::Job, 3) => {
                format!("Every day {name} goes to the {} and works as a {}.", p.job.1, p.job.0)
            }
            (Fact::Job, _) => format!("{s} is a {}.", p.job.0),
            (Fact::Pet, 0 | 1) => format!("{s} has a pet {}.", p.pet.0),
            (Fact::Pet, 2) => format!("The pet of {name} is a {} named {}.", p.pet.0, p.pet_name),
            (Fact::Pet, 3) => format!("{s} has a {} named {}.", p.pet.0, p.pet_name),
            (Fact::Pet, _) => format!("{its} {} {} {}.", p.pet.0, p.pet_name, p.pet.1),
            (Fact::Friend, 0..=2) => format!("{its} best friend is {friend}."),
            (Fact::Friend, _) => format!("The best friend of {name} is {friend}."),
            (Fact::Food, 0..=2) => format!("{s} likes to eat {}.", p.food),
            (Fact::Food, _) => format!("{its} favourite food is {}.", p.food),
            (Fact::Colour, 0..=2) => format!("{its} favourite colour is {}.", p.colour),
            (Fact::Colour, _) => {
                format!("{s} wears {} coat, because {} likes {}.", a(p.colour), p.they(), p.colour)
            }
            (Fact::Age, _) => format!("{s} is {} years old.", p.age),
        }
    }

    /// A question about a person and its answer, as two sentences.
    pub(super) fn question(&self, p: &Person, fact: Fact) -> (String, String) {
        let name = p.name;
        let (they, town) = (p.they(), self.home(p).name);
        match fact {
            Fact::Home => (format!("Where does {name} live?"), format!("{name} lives in {town}.")),
            Fact::Job => {
                (format!("What does {name} do?"), format!("{name} works as a {}.", p.job.0))
            }
            Fact::Pet => {
                (format!("Does {name} have a pet?"), format!("Yes, {name} has a pet {}.", p.pet.0))
            }
            Fact::Friend => (
                format!("Who is the best friend of {name}?"),
                format!("The best friend of {name} is {}.", self.friend(p).name),
            ),
            Fact::Food => (
                format!("What does {name} like to eat?"),
                format!("{name} likes to eat {}.", p.food),
            ),
            Fact::Colour => (
                format!("Which colour does {name} like best?"),
                format!("The favourite colour of {name} is {}.", p.colour),
            ),
            Fact::Age => (
                format!("How old is {name}?"),
                format!("{} is {} years old.", capital(they), p.age),
            ),
        }
    }

    /// What is asked of a person, and what that person says.
    pub(super) fn exchange(
        &self,
        rng: &mut Draws,
        asks: &Person,
        says: &Person,
        fact: Fact,
    ) -> String {
        let (question, answer) = match fact {
            Fact::Home => ("Where do you live?", format!("I live in {}", self.home(says).name)),
            Fact::Job => ("What do you do?", format!("I work as a {}", says.job.0)),
            Fact::Pet => (
                "Do you have a pet?",
                format!("Yes, I have a pet {} and I call it {}", says.pet.0, says.pet_name),
            ),
            Fact::Friend => (
                "Who is your best friend?",
                format!("My best friend is {}", self.friend(says).name),
            ),
            Fact::Food => ("What do you like to eat?", format!("I like to eat {}", says.food)),
            Fact::Colour => (
                "Which colour do you like best?",
                format!("My favourite colour is {}", says.colour),
            ),
            Fact::Age => ("How old are you?", format!("I am {} years old", says.age)),
        };
        let answered = rng.pick(&["said", "answered", "replied"]);
        format!("\"{question}\" asked {}. \"{answer},\" {answered} {}.", asks.name, says.name)
    }

    /// One sentence about a town. `way` picks the fact, so that a paragraph can avoid repeating one.
    pub(super) fn tell_town(&self, rng: &mut Draws, town: &Town, way: usize) -> String {
        let (name, region, river) = (town.name, self.region(town), self.river(town));
        let product = town.product;
        let second = rng.chance(0.5);
        match way {
            0 if second => format!("The town of {name} is in {region}."),
            0 => format!("{name} is a town in {region}."),
            1 if second => format!("Boats come down the River {river} to {name}."),
            1 => format!("{name} lies on the River {river}."),
            2 if second => format!("The town of {name} is known for its {product}."),
            2 => format!("{name} makes {product}."),
            3 if second => format!("The people of {name} are proud of the {}.", town.landmark),
            3 => format!("In {name} there is {}.", a(town.landmark)),
            4 if second => format!("People come to {name} to buy {product}."),
            4 => {
                let made = if plural(product) { "are made" } else { "is made" };
                format!("Most of the {product} of {region} {made} in {name}.")
            }
            _ => {
                let residents: Vec<&Person> =
                    self.people().iter().filter(|p| self.home(p) == town).collect();
                let p = rng.pick(&residents);
                format!("{} lives in {name} and works as a {}.", p.name, p.job.0)
            }
        }
    }

    /// A question about a town and its answer.
    pub(super) fn town_question(&self, town: &Town, way: usize) -> (String, String) {
        let name = town.name;
        match way {
            0 => (
                format!("In which region is {name}?"),
                format!("{name} is a town in {}.", self.region(town)),
            ),
            1 => (
                format!("On which river does {name} lie?"),
                format!("{name} lies on the River {}.", self.river(town)),
            ),
            _ => (format!("What does {name} make?"), format!("{name} makes {}.", town.product)),
        }
    }
}

fn plural(noun: &str) -> bool {
    noun.ends_with('s') && noun != "glass"
}

/// "3 plus 4 is 7."
pub(super) fn sum(rng: &mut Draws) -> (usize, usize, String) {
    let (x, y) = (1 + rng.below(LARGEST_SUMMAND), 1 + rng.below(LARGEST_SUMMAND));
    (x, y, format!("{x} plus {y} is {}.", x + y))
}
