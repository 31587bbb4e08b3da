//! Training gives the file that the `tokenizers` crate's trainer gives.

use crate::shared;

use farthing_base::Hint;
use farthing_data::world::{Split, World};
use farthing_data::{BpeSettings, Progress, SPECIAL_TOKENS, SPLIT_REGEX, Texts, Tokenizer};
use proptest::prelude::*;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

/// Their trainer on texts: the file, and its entries.
fn theirs(texts: &[String], vocab_size: usize) -> (String, usize) {
    let mut t = tokenizers::Tokenizer::new(BPE::default());
    let regex = SplitPattern::Regex(SPLIT_REGEX.into());
    let isolated = SplitDelimiterBehavior::Isolated;
    let split = tokenizers::pre_tokenizers::split::Split::new(regex, isolated, false).unwrap();
    let byte_level = ByteLevel::new(false, false, false);
    t.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(byte_level),
    ]))));
    t.with_decoder(Some(byte_level));
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .min_frequency(0)
        .vocab_size(vocab_size - SPECIAL_TOKENS.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    t.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).unwrap();
    t.add_special_tokens(&SPECIAL_TOKENS.map(|t| AddedToken::from(t, true)));
    (t.to_string(true).unwrap(), t.get_vocab_size(true))
}

fn ours(texts: &[String], vocab_size: usize) -> farthing_data::Result<String> {
    let settings = BpeSettings { vocab_size, document_chars: 1 << 30, ..BpeSettings::default() };
    let (t, _) = Tokenizer::train(texts.iter().cloned().map(Ok), &settings)?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    t.save(&path).unwrap();
    Ok(std::fs::read_to_string(path).unwrap())
}

fn check(texts: &[String], vocab_size: usize) {
    let (file, found) = theirs(texts, vocab_size);
    assert!(file == ours(texts, found).unwrap(), "{vocab_size} entries of {texts:?}");
    if found < vocab_size {
        let error = ours(texts, vocab_size).unwrap_err().with_hint();
        assert!(error.contains(&format!("set vocab_size to at most {found}")), "{error}");
    }
}

#[test]
fn the_world() {
    let texts: Vec<String> = World::new(1).documents(Split::Train, 600).map(|d| d.text).collect();
    for vocab_size in [265, 266, 700, 2_000] {
        check(&texts, vocab_size);
    }
    // All there is to merge.
    check(&texts[..20], 60_000);
}

#[test]
fn real_text() {
    let Some(path) = shared::data("corpus/karpathy/shard_00005.parquet") else { return };
    let texts: Vec<String> =
        Texts::open(&[path], "text").unwrap().take(300).map(Result::unwrap).collect();
    check(&texts, 8_192);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    // Few letters: many ties, repeats, and tokens that two pairs make.
    #[test]
    fn small_alphabets(texts in prop::collection::vec("[ab]{0,20}( [abc]{0,9}){0,9}", 1..9), vocab in 265..400usize) {
        check(&texts, vocab);
    }

    #[test]
    fn any_text(texts in prop::collection::vec(any::<String>(), 1..9), vocab in 265..300usize) {
        check(&texts, vocab);
    }
}

#[derive(Default)]
struct Seen {
    totals: Vec<(Option<u64>, &'static str)>,
    done: Vec<u64>,
}

impl Progress for Seen {
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        self.totals.push((total, unit));
        self.done.push(0);
    }

    fn advance(&mut self, n: u64) {
        *self.done.last_mut().unwrap() += n;
    }
}

#[test]
fn progress_has_a_total_whatever_the_limit() {
    let texts: Vec<String> = World::new(1).documents(Split::Train, 200).map(|d| d.text).collect();
    let run = |max_chars| {
        let settings = BpeSettings { vocab_size: 300, max_chars, ..BpeSettings::default() };
        let mut seen = Seen::default();
        let texts = texts.iter().cloned().map(Ok);
        Tokenizer::train_watched(texts, Some(200), &settings, &mut seen).unwrap();
        seen
    };
    let all = run(2_000_000_000);
    assert_eq!(all.totals, [(Some(200), "documents"), (Some(35), "merges")]);
    assert_eq!(all.done, [200, 35]);
    let some = run(5_000);
    assert_eq!(some.totals[0], (Some(5_000), "characters"));
    assert_eq!(some.done, [5_000, 35]);
}
