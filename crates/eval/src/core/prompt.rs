//! From an item and its solved examples to the texts that the model reads. Knows no tokens.
//!
//! # Source
//! The prompts of nanochat's core_eval: byte-equal, so that results can be compared example by example.

use super::Item;

/// The texts of one item: one per option, or for language modelling the prompt without and the prompt with its continuation.
///
/// Each of `shots` is written with its right answer and followed by a blank line. Contexts of language modelling are
/// stripped of white space at both ends, and so is the prompt without continuation as a whole; nothing else is.
pub fn prompts(item: &Item, shots: &[&Item], delimiter: &str) -> Vec<String> {
    let mut head = String::new();
    for shot in shots {
        let (context, continuation) = solved(shot);
        head.extend([context, delimiter, continuation, "\n\n"]);
    }
    let text = |context: &str, continuation: &str| {
        [head.as_str(), context, delimiter, continuation].concat()
    };
    match item {
        Item::MultipleChoice { query, choices, .. } => {
            choices.iter().map(|choice| text(query, choice)).collect()
        }
        Item::Schema { contexts, continuation, .. } => {
            contexts.iter().map(|context| text(context, continuation)).collect()
        }
        Item::LanguageModeling { context, continuation } => {
            let context = strip(context);
            vec![strip(&text(context, "")).to_string(), text(context, continuation)]
        }
    }
}

fn solved(item: &Item) -> (&str, &str) {
    match item {
        Item::MultipleChoice { query, choices, gold } => (query, &choices[*gold]),
        Item::Schema { contexts, continuation, gold } => (&contexts[*gold], continuation),
        Item::LanguageModeling { context, continuation } => (strip(context), continuation),
    }
}

/// Python's `str.strip()`: Unicode white space, and the four separators U+001C to U+001F, which Rust does not count.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lm(context: &str, continuation: &str) -> Item {
        Item::LanguageModeling { context: context.into(), continuation: continuation.into() }
    }

    // The expected texts are what nanochat's render_prompts_mc, _schema and _lm (jinja2 3.1.6) print for the same items:
    // python3 -c "from core_eval import *; print(render_prompts_mc(item, delimiter, shots))" and so on.

    #[test]
    fn multiple_choice_keeps_every_space() {
        let choice = |query: &str, gold| Item::MultipleChoice {
            query: query.into(),
            choices: vec!["yes".into(), " no ".into()],
            gold,
        };
        let (item, a, b) = (choice(" Is it? ", 0), choice("One\n", 1), choice("Two", 0));
        assert_eq!(
            prompts(&item, &[&a, &b], "\nAnswer: "),
            [
                "One\n\nAnswer:  no \n\nTwo\nAnswer: yes\n\n Is it? \nAnswer: yes",
                "One\n\nAnswer:  no \n\nTwo\nAnswer: yes\n\n Is it? \nAnswer:  no ",
            ]
        );
    }

    #[test]
    fn schema_varies_the_context() {
        let schema = |a: &str, b: &str, gold| Item::Schema {
            contexts: vec![a.into(), b.into()],
            continuation: "ran.".into(),
            gold,
        };
        let (item, shot) = (schema("the dog", "the cat", 0), schema("x", "y", 1));
        assert_eq!(
            prompts(&item, &[&shot], " "),
            ["y ran.\n\nthe dog ran.", "y ran.\n\nthe cat ran."]
        );
    }

    #[test]
    fn language_modelling_strips_contexts_and_the_whole_prompt_without_continuation() {
        let (item, shot) = (lm("  Three \n", " four"), lm("\u{1F}One ", "two "));
        assert_eq!(prompts(&item, &[&shot], " "), ["One two \n\nThree", "One two \n\nThree  four"]);
        assert_eq!(prompts(&lm("", "x"), &[], " "), ["", " x"]);
    }
}
