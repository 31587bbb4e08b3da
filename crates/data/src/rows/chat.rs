//! Finds what is learned of a row of conversations, from its special tokens alone.

use serde::{Deserialize, Serialize};

/// The special tokens of conversations, as ids of a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatTokens {
    /// Before a conversation.
    pub bos: u32,
    /// Before and after what the user says.
    pub user: [u32; 2],
    /// Before and after what the assistant says. The end is learned, so that a model ends its turn.
    pub assistant: [u32; 2],
    /// Before and after Python that the assistant has run; learned.
    pub python: [u32; 2],
    /// Before and after what it printed; not learned.
    pub output: [u32; 2],
}

impl ChatTokens {
    /// Puts −1 in place of every target that is not learned, and returns how many are left: what the assistant says, its calls of tools, and the end of its
    /// turn, but not what tools say. `targets` are the tokens of a row after its first, which is BOS.
    pub fn mask(&self, targets: &mut [i32]) -> u64 {
        let (mut speaks, mut quoted, mut learned) = (false, false, 0);
        let [begins, ends] = self.assistant;
        for target in targets {
            let id = target.cast_unsigned();
            let own = if id == begins {
                (speaks, quoted) = (true, false);
                false
            } else if id == ends {
                std::mem::take(&mut speaks)
            } else if id == self.bos || self.user.contains(&id) {
                speaks = false;
                false
            } else if self.output.contains(&id) {
                quoted = id == self.output[0];
                false
            } else {
                speaks && !quoted
            };
            if own {
                learned += 1;
            } else {
                *target = -1;
            }
        }
        learned
    }
}
