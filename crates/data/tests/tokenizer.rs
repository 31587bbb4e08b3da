//! The tokenizer's vocabulary, files and bytes; identity with Python's `tokenizers` where that is installed.

use crate::shared;

use farthing_base::Hint;
use farthing_data::world::{Split, World};
use farthing_data::{BpeSettings, Error, SPECIAL_TOKENS, Tokenizer};
use proptest::prelude::*;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

fn texts() -> Vec<String> {
    World::new(1).documents(Split::Train, 400).map(|d| d.text).collect()
}

fn settings(vocab_size: usize) -> BpeSettings {
    BpeSettings { vocab_size, ..BpeSettings::default() }
}

static TRAINED: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::train(texts().into_iter().map(Ok), &settings(500)).unwrap().0);

/// Text of many scripts, digits, contractions, whitespace and control characters.
const MIXED: &str = "It's 12345 o'clock,\n\n  they'll  say\tÜnïcödé 日本語 🦀🦀 e\u{301}\r\n\u{0} <|bos|> \u{FFFD} don'T  ";

#[test]
fn special_tokens_are_last_in_their_order_and_count_no_bytes() {
    let t = &*TRAINED;
    assert_eq!(t.vocab_size(), 500);
    let bytes = t.token_bytes();
    for (i, name) in SPECIAL_TOKENS.iter().enumerate() {
        let id = 491 + i as u32;
        assert_eq!(t.token_id(name), Some(id));
        assert!(t.is_special(id));
        assert_eq!(bytes[id as usize], 0);
    }
    assert_eq!(t.bos(), 491);
    assert!(!t.is_special(490) && !t.is_special(500));
    assert!(bytes[..491].iter().all(|&n| n > 0));
}

#[test]
fn bytes_of_tokens_add_up_and_a_special_name_in_text_stays_text() {
    let t = &*TRAINED;
    let ids = t.encode(MIXED).unwrap();
    assert_eq!(t.decode(&ids), MIXED);
    let bytes = t.token_bytes();
    let sum: u32 = ids.iter().map(|&id| bytes[id as usize]).sum();
    assert_eq!(sum as usize, MIXED.len());
    assert!(!ids.contains(&t.bos()));
    assert_eq!(t.decode(&[t.bos()]), "<|bos|>");
    // Half a character, and an id that does not exist.
    let crab = t.encode("🦀").unwrap();
    assert!(crab.len() > 1);
    assert_eq!(t.decode(&crab[..1]), "\u{FFFD}");
    assert_eq!(t.decode_bytes(&crab), "🦀".as_bytes());
    assert_eq!(t.decode(&[9_999]), "\u{FFFD}");
}

#[test]
fn training_is_deterministic_and_obeys_its_limits() {
    let train = |n: usize, s: &BpeSettings| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| Tokenizer::train(texts().into_iter().map(Ok), s).unwrap())
    };
    let (one, two) = (train(1, &settings(450)), train(2, &settings(450)));
    assert_eq!(one.0.digest(), two.0.digest());
    let all: u64 = texts().iter().map(|t| t.chars().count().min(10_000) as u64).sum();
    assert_eq!((one.1.documents, one.1.chars), (400, all));

    let cut = BpeSettings { vocab_size: 300, max_chars: 5_000, document_chars: 100 };
    let read = train(1, &cut).1;
    assert_eq!(read.chars, 5_000);
    assert!(read.documents >= 50, "{}", read.documents);
    let short: u64 = texts().iter().map(|t| t.chars().count().min(100) as u64).sum();
    let cut = BpeSettings { max_chars: 1 << 40, ..cut };
    assert_eq!(train(1, &cut).1.chars, short);
}

#[test]
fn impossible_vocabularies_are_errors() {
    let train = |text: &str, vocab: usize| {
        let texts = std::iter::once(Ok(text.to_string()));
        Tokenizer::train(texts, &settings(vocab)).map(drop).unwrap_err().with_hint()
    };
    let small = train("one two", 10_000);
    assert!(
        small.contains("10000 were asked for") && small.contains("set vocab_size to at most 270"),
        "{small}"
    );
    assert!(train("text", 264).contains("at least 265"));
    let broken = std::iter::once(Err(Error::NoFiles { pattern: "x".into(), base: "y".into() }));
    assert!(matches!(Tokenizer::train(broken, &settings(300)), Err(Error::NoFiles { .. })));
}

#[test]
fn files_load_again_and_bad_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    TRAINED.save(&path).unwrap();
    let loaded = Tokenizer::load(&path).unwrap();
    assert_eq!(loaded.digest(), TRAINED.digest());
    assert_eq!(loaded.encode(MIXED).unwrap(), TRAINED.encode(MIXED).unwrap());
    assert_eq!(farthing_data::digest_file(&path).unwrap(), TRAINED.digest());

    let good = fs::read_to_string(&path).unwrap();
    let refused = |text: &str, expected: &str| {
        fs::write(&path, text).unwrap();
        let error = Tokenizer::load(&path).map(drop).unwrap_err().with_hint();
        assert!(error.contains("tokenizer.json") && error.contains(expected), "{error}");
    };
    refused("", "does not parse");
    refused(&good[..good.len() / 2], "does not parse");
    refused("{\"version\": \"1.0\"}", "does not parse");
    refused(
        &good.replace("<|bos|>", "<|start|>"),
        "neither <|bos|> nor <|begin_of_text|> nor <|endoftext|>",
    );
    refused(&good.replace("\"type\": \"BPE\"", "\"type\": \"none\""), "does not parse");
    // The `tokenizers` crate would number it 491 and say nothing, and slice the merges of the last two.
    let misnumbered = good.replace("\"id\": 491,", "\"id\": 777,");
    refused(&misnumbered, "added token \"<|bos|>\" has id 777, but its place gives it 491");
    refused(&good.replace("\"!\": 0,", "\"!\": 1,"), "\"!\" has 1 where 0 is expected");
    refused(&good.replace("\"!\": 0,", "\"!\": 4000000000,"), "ids up to 4000000000");
    refused(&good.replace("\"dropout\": null", "\"dropout\": 0.1"), "dropout of 0.1");
    let prefix = "\"continuing_subword_prefix\": \"##é\"";
    refused(&good.replace("\"continuing_subword_prefix\": null", prefix), "prefixes or suffixes");
    let suffix = "\"end_of_word_suffix\": \"</w>\"";
    refused(&good.replace("\"end_of_word_suffix\": null", suffix), "prefixes or suffixes");

    let empty = Tokenizer::load(dir.path().join("nothing")).map(drop).unwrap_err().with_hint();
    assert!(empty.contains("cannot read"), "{empty}");
    let folder = tempfile::tempdir().unwrap();
    let bare = Tokenizer::load(folder.path()).map(drop).unwrap_err().with_hint();
    assert!(bare.contains("neither tokenizer.json nor GPT-2's two files"), "{bare}");
    fs::write(folder.path().join("vocab.json"), "{\"a\": 0}").unwrap();
    fs::write(folder.path().join("merges.txt"), "#version: 0.2\na b c\n").unwrap();
    let three = Tokenizer::load(folder.path()).map(drop).unwrap_err().with_hint();
    assert!(three.contains("merges.txt") && three.contains("line 2 is not two tokens"), "{three}");
    fs::write(folder.path().join("merges.txt"), "#version: 0.2\na b\n").unwrap();
    let unknown = Tokenizer::load(folder.path()).map(drop).unwrap_err().with_hint();
    assert!(unknown.contains("it does not go with") && unknown.contains("`b`"), "{unknown}");
    TRAINED.save(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().digest(), TRAINED.digest());
}

#[test]
fn what_this_version_does_not_write_out_is_encoded_the_slow_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    TRAINED.save(&path).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    assert_eq!(TRAINED.slow_because(), None);
    fs::write(&path, good.replace("p{N}{1,2}", "p{N}{1,9}")).unwrap();
    let other = Tokenizer::load(&path).unwrap();
    let reason = other.slow_because().unwrap();
    assert!(reason.contains("split pattern is not known"), "{reason}");
    assert_eq!(other.decode(&other.encode(MIXED).unwrap()), MIXED);
    assert_eq!(other.parts(&MIXED.repeat(9), 10).len(), 1);
    // Truncation and padding are for batches of prompts; a document stays whole.
    let cut = "\"truncation\": {\"direction\": \"Right\", \"max_length\": 4, \"strategy\": \"LongestFirst\", \"stride\": 0}";
    fs::write(&path, good.replace("p{N}{1,2}", "p{N}{1,9}").replace("\"truncation\": null", cut))
        .unwrap();
    let cut = Tokenizer::load(&path).unwrap();
    assert_eq!(cut.encode(MIXED).unwrap(), other.encode(MIXED).unwrap());
}

#[test]
fn a_normalizer_that_blows_text_up_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    TRAINED.save(&path).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let none = "\"normalizer\": null";
    assert_eq!(good.matches(none).count(), 1);
    let load = |normalizer: &str| {
        fs::write(&path, good.replace(none, &format!("\"normalizer\": {normalizer}"))).unwrap();
        Tokenizer::load(&path)
    };
    let replace = |pattern: &str, content: &str| {
        format!("{{\"type\": \"Replace\", \"pattern\": {{{pattern}}}, \"content\": \"{content}\"}}")
    };
    let sequence = |parts: &[String]| {
        format!("{{\"type\": \"Sequence\", \"normalizers\": [{}]}}", parts.join(", "))
    };
    let long = "x".repeat(1_000_000);
    let doubled = replace("\"String\": \"e\"", "ee");
    for normalizer in [
        replace("\"String\": \"e\"", &long),
        replace("\"Regex\": \"e*\"", &long),
        sequence(&vec![doubled.clone(); 30]),
        sequence(&[sequence(&vec![doubled.clone(); 4]), sequence(&vec![doubled.clone(); 4])]),
        sequence(&vec![doubled.clone(); 5_000]),
        format!("{{\"type\": \"Prepend\", \"prepend\": \"{long}\"}}"),
    ] {
        let error = load(&normalizer).unwrap_err().with_hint();
        assert!(error.contains("its normalizer can make "), "{error}");
        assert!(error.contains("\nhint: take the replacements out"), "{error}");
    }
    let usual = "{\"type\": \"NFKC\"}, {\"type\": \"Lowercase\"}";
    for normalizer in
        [usual.split(", ").next().unwrap().to_owned(), sequence(&[usual.into()]), doubled]
    {
        let slow = load(&normalizer).unwrap();
        assert!(slow.slow_because().is_some() && !slow.encode(MIXED).unwrap().is_empty());
    }
}

#[test]
fn compression_counts_whole_documents() {
    let texts = texts();
    let read = || texts.iter().cloned().map(Ok);
    let all = Tokenizer::compressions(&[&TRAINED, &TRAINED], read(), u64::MAX).unwrap();
    assert_eq!((all[0], all[0].documents), (all[1], 400));
    let bytes: usize = texts.iter().map(String::len).sum();
    let tokens: usize = TRAINED.encode_batch(&texts).unwrap().iter().map(Vec::len).sum();
    assert_eq!((all[0].bytes, all[0].tokens), (bytes as u64, tokens as u64));
    assert_eq!(all[0].bytes_per_token(), bytes as f64 / tokens as f64);
    let first = Tokenizer::compressions(&[&TRAINED], read(), 1).unwrap();
    assert_eq!((first[0].documents, first[0].bytes), (1, texts[0].len() as u64));
    assert_eq!(Tokenizer::compressions(&[&TRAINED], [], 9).unwrap()[0].bytes_per_token(), 0.0);
}

#[test]
fn batches_keep_their_order() {
    let texts = texts();
    let all = TRAINED.encode_batch(&texts).unwrap();
    for (text, ids) in texts.iter().zip(&all) {
        assert_eq!(&TRAINED.encode(text).unwrap(), ids);
        assert_eq!(&TRAINED.decode(ids), text);
    }
}

proptest! {
    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        let ids = TRAINED.encode(&text).unwrap();
        prop_assert_eq!(TRAINED.decode(&ids), text);
    }
}

#[test]
fn gpt2s_tokenizer_loads() {
    let Some(path) = shared::data("tokenizer/gpt2/tokenizer.json") else { return };
    let t = Tokenizer::load(path).unwrap();
    assert_eq!((t.vocab_size(), t.bos()), (50_257, 50_256));
    assert_eq!(t.encode("Hello world").unwrap(), [15_496, 995]);
    assert_eq!(t.token_bytes()[995], 6);
    assert_eq!(t.decode(&t.encode(MIXED).unwrap()), MIXED);
}

/// `FARTHING_PYTHON` names another Python than `python3`.
#[test]
fn python_encodes_identically() {
    let dir = tempfile::tempdir().unwrap();
    let (path, input) = (dir.path().join("tokenizer.json"), dir.path().join("cases.json"));
    TRAINED.save(&path).unwrap();
    let mut texts = texts();
    texts.push(MIXED.into());
    let ids = TRAINED.encode_batch(&texts).unwrap();
    let cases: Vec<(String, Vec<u32>)> = texts.into_iter().zip(ids).collect();
    fs::write(&input, serde_json::to_string(&cases).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_ids.py");
    let python = std::env::var_os("FARTHING_PYTHON").unwrap_or("python3".into());
    let Ok(run) = Command::new(&python).arg(script).arg(&path).arg(&input).output() else {
        eprintln!("skipped: no {}", python.display());
        return;
    };
    let (said, error) =
        (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    eprint!("{said}");
    if run.status.code() != Some(77) {
        assert!(run.status.success(), "{said}{error}");
        assert!(said.starts_with("401 texts agree"), "{said}{error}");
    }
}

#[test]
fn what_is_written_for_other_programs_begins_with_bos_and_is_the_same_tokenizer() {
    let t = &*TRAINED;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, t.json_with_bos().unwrap()).unwrap();
    let theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
    let ids = theirs.encode("It's 12", true).unwrap().get_ids().to_vec();
    assert_eq!(ids, [vec![t.bos()], t.encode("It's 12").unwrap()].concat());
    let again = Tokenizer::load(&path).unwrap();
    assert_eq!(again.digest(), t.digest());
    assert_eq!(again.json_with_bos().unwrap(), t.json_with_bos().unwrap());
    let plain = folder.path().join("plain.json");
    again.save(&plain).unwrap();
    t.save(&path).unwrap();
    assert_eq!(fs::read(plain).unwrap(), fs::read(path).unwrap());
}
