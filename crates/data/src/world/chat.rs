//! Conversations about the world: questions that its text answers, and the answers in the text's words, so that a model that has read the text learns in
//! minutes to answer.

use super::sentences::{FACTS, sum};
use super::{Split, World};
use crate::chat::{Conversation, Message, Role};
use farthing_base::random::Draws;

impl World {
    /// The first `n` conversations of a split.
    pub fn conversations(&self, split: Split, n: u64) -> impl Iterator<Item = Conversation> + '_ {
        (0..n).map(move |index| self.conversation(split, index))
    }

    /// Conversation `index` of a split, by itself: one question to three, about people, towns and sums.
    pub fn conversation(&self, split: Split, index: u64) -> Conversation {
        let mut rng = Draws::new(self.seed, &format!("chat {}", split.name()), index);
        let mut turns = vec![];
        if rng.chance(0.1) {
            let greeting = rng.pick(&["Hello!", "Hi.", "Good morning!"]);
            turns.push((greeting.to_string(), "Hello! What would you like to know?".to_string()));
        }
        let mut person = &self.people[rng.below(self.people.len())];
        for _ in 0..=rng.below(3) {
            let (question, answer) = match rng.below(10) {
                0 => {
                    let (x, y, sum) = sum(&mut rng);
                    (format!("What is {x} plus {y}?"), sum)
                }
                1 | 2 => {
                    let town = &self.towns[rng.below(self.towns.len())];
                    let way = rng.below(3);
                    self.town_question(town, way)
                }
                _ => self.question(person, FACTS[rng.below(FACTS.len())]),
            };
            let asked = match rng.below(4) {
                0 => format!("Please tell me: {question}"),
                _ => question,
            };
            turns.push((asked, answer));
            if rng.chance(0.5) {
                person = &self.people[rng.below(self.people.len())];
            }
        }
        if rng.chance(0.1) {
            turns.push(("Thank you.".into(), "You are welcome.".into()));
        }
        let said = turns.into_iter().flat_map(|(asked, answer)| {
            [Message::new(Role::User, asked), Message::new(Role::Assistant, answer)]
        });
        Conversation { messages: said.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Content;

    #[test]
    fn conversations_are_a_pure_function_and_their_answers_stand_in_the_text() {
        let world = World::new(1337);
        let all: Vec<Conversation> = world.conversations(Split::Train, 300).collect();
        assert_eq!(all[17], World::new(1337).conversation(Split::Train, 17));
        assert_ne!(all[17], world.conversation(Split::Val, 17));
        let text: Vec<String> = world.documents(Split::Train, 6_000).map(|d| d.text).collect();
        let text = text.join("\n");
        let (mut told, mut answers) = (0, 0);
        for talk in &all {
            assert_eq!(talk.fault(), None);
            for message in talk.messages.iter().filter(|m| m.role == Role::Assistant) {
                let Content::Text(answer) = &message.content else { panic!("{message:?}") };
                let polite = answer.starts_with("Hello") || answer.starts_with("You are");
                answers += usize::from(!polite);
                told += usize::from(!polite && text.contains(answer.as_str()));
            }
        }
        assert!(answers > 400 && told * 100 >= answers * 98, "{told} of {answers}");
    }
}
