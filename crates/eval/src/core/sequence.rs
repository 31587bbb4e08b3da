//! From an item's texts to token sequences, each with the place where what is scored begins. Knows no model.

use super::Item;

/// The tokens of one text, BOS first; tokens `start..` are scored. There may be none: an option that begins every other
/// option of its item, as four of the published PIQA do in GPT-2's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// The first one that is scored, at least 1 and at most the number of tokens.
    pub start: usize,
}

impl Sequence {
    /// Keeps the last `most` tokens.
    ///
    /// # Errors
    /// Why it cannot be scored then.
    ///
    /// # Source
    /// nanochat's core_eval, which crops for GPT-2 alone.
    pub(super) fn crop(&mut self, most: usize) -> Result<(), String> {
        let excess = self.tokens.len().saturating_sub(most);
        if excess >= self.start {
            let scored = self.tokens.len() - self.start;
            return Err(format!(
                "{scored} tokens are scored, and the model takes {most}, the one before them included"
            ));
        }
        self.tokens.drain(..excess);
        self.start -= excess;
        Ok(())
    }
}

/// The sequences of one item from the encoded texts of its [`prompts`](super::prompts), without BOS: one per option, or
/// the one with continuation for language modelling.
///
/// Multiple choice is scored after the options' common prefix, schema on their common suffix, language modelling after what
/// the prompts without and with continuation have in common.
///
/// # Errors
/// Why no option of the item has a token to score.
///
/// # Source
/// nanochat's core_eval. It stops where the prompt without continuation is not a prefix, in tokens, of the one with; here
/// scoring then begins at the token that both ends were merged into.
pub fn sequences(item: &Item, texts: Vec<Vec<u32>>, bos: u32) -> Result<Vec<Sequence>, String> {
    let all: Vec<Vec<u32>> =
        texts.into_iter().map(|text| std::iter::once(bos).chain(text).collect()).collect();
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    let same = |at: &dyn Fn(&[u32]) -> u32| all.windows(2).all(|pair| at(&pair[0]) == at(&pair[1]));
    let starts: Vec<usize> = if let Item::Schema { .. } = item {
        let common = (0..shortest).take_while(|i| same(&|t| t[t.len() - 1 - i])).count();
        all.iter().map(|tokens| tokens.len() - common).collect()
    } else {
        let common = (0..shortest).take_while(|&i| same(&|t| t[i])).count();
        vec![common; all.len()]
    };
    let scored = |(tokens, start)| Sequence { tokens, start };
    let mut sequences: Vec<Sequence> = all.into_iter().zip(starts).map(scored).collect();
    if let Item::LanguageModeling { .. } = item {
        // Only the text with its continuation, the second, is scored.
        sequences.drain(..sequences.len().saturating_sub(1));
    }
    if sequences.iter().any(|s| s.start == 0) {
        return Err("its options are equal, so there is nothing to choose".into());
    }
    if sequences.iter().all(|s| s.start == s.tokens.len()) {
        return Err(match item {
            Item::MultipleChoice { .. } => "its options are equal, token by token".into(),
            Item::Schema { .. } => "its options do not end in a common token".into(),
            Item::LanguageModeling { .. } => "its continuation adds no token to its context".into(),
        });
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOS: u32 = 9;

    fn choice(options: usize) -> Item {
        Item::MultipleChoice { query: "q".into(), choices: vec!["c".into(); options], gold: 0 }
    }

    fn schema(options: usize) -> Item {
        let contexts = vec!["c".into(); options];
        Item::Schema { contexts, continuation: "c".into(), gold: 0 }
    }

    fn lm() -> Item {
        Item::LanguageModeling { context: "c".into(), continuation: "d".into() }
    }

    fn starts(item: &Item, texts: &[&[u32]]) -> Result<Vec<usize>, String> {
        let texts = texts.iter().map(|t| t.to_vec()).collect();
        Ok(sequences(item, texts, BOS)?.iter().map(|s| s.start).collect())
    }

    #[test]
    fn multiple_choice_is_scored_after_the_common_prefix() {
        assert_eq!(starts(&choice(3), &[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2, 3, 6]]), Ok(vec![3; 3]));
        // Nothing in common but BOS.
        assert_eq!(starts(&choice(2), &[&[1], &[2]]), Ok(vec![1; 2]));
        // The first option begins the second one: it has no token of its own.
        assert_eq!(starts(&choice(2), &[&[1, 2], &[1, 2, 3]]), Ok(vec![3; 2]));
        assert!(starts(&choice(2), &[&[1, 2], &[1, 2]]).is_err());
    }

    #[test]
    fn of_a_sequence_that_is_too_long_the_end_is_kept() {
        let cropped = |most| {
            let mut sequence = Sequence { tokens: vec![9, 1, 2, 3, 4], start: 3 };
            sequence.crop(most).map(|()| sequence)
        };
        assert_eq!(cropped(6).unwrap().tokens.len(), 5);
        assert_eq!(cropped(4), Ok(Sequence { tokens: vec![1, 2, 3, 4], start: 2 }));
        assert_eq!(cropped(3), Ok(Sequence { tokens: vec![2, 3, 4], start: 1 }));
        let error = cropped(2).unwrap_err();
        assert!(error.starts_with("2 tokens are scored, and the model takes 2"), "{error}");
    }

    #[test]
    fn schema_is_scored_on_the_common_suffix() {
        assert_eq!(starts(&schema(2), &[&[1, 7, 8], &[1, 2, 3, 7, 8]]), Ok(vec![2, 4]));
        assert!(starts(&schema(2), &[&[1, 2], &[1, 3]]).is_err());
        assert!(starts(&schema(2), &[&[1, 2], &[1, 2]]).is_err());
    }

    #[test]
    fn language_modelling_is_scored_after_the_prompt_without_continuation() {
        let got = sequences(&lm(), vec![vec![1, 2], vec![1, 2, 3, 4]], BOS);
        assert_eq!(got, Ok(vec![Sequence { tokens: vec![9, 1, 2, 3, 4], start: 3 }]));
        // The last token of the context was merged into one with the continuation's first.
        assert_eq!(starts(&lm(), &[&[1, 2], &[1, 5, 4]]), Ok(vec![2]));
        assert!(starts(&lm(), &[&[1, 2], &[1, 2]]).is_err());
    }
}
