//! A store that others can write to: nothing in it is believed beyond what agrees, and nothing outside of it is touched.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Place, json as read_json};

/// A file outside of the store and the folder around it.
fn victim(place: &Place) -> PathBuf {
    let victim = place.path("victim");
    fs::create_dir_all(victim.join(".scratch")).unwrap();
    fs::write(victim.join(".scratch/data"), "precious").unwrap();
    fs::write(victim.join("keep"), "precious").unwrap();
    victim
}

fn untouched(victim: &Path) {
    for file in [".scratch/data", "keep"] {
        assert_eq!(fs::read(victim.join(file)).unwrap(), b"precious", "{file}");
    }
    assert_eq!(fs::read_dir(victim).unwrap().count(), 2);
    assert_eq!(fs::read_dir(victim.join(".scratch")).unwrap().count(), 1);
}

#[test]
fn a_record_is_believed_as_far_as_it_agrees_with_the_store() {
    let place = Place::until("tokenizer");
    let victim = victim(&place);
    let path = place.entry("tokenizer").join("stage.json");
    let good = read_json(&path);
    let file = &good["outputs"]["bpe"]["files"][0];
    let lies: [(&str, Value, &str); 11] = [
        ("/key", json!("../../victim"), "has the key of another entry"),
        ("/key", json!(""), "has the key of another entry"),
        ("/identity/kind", json!("pack-bestfit"), "is of other work than its key"),
        ("/identity/config/vocab_size", json!(401), "is of other work than its key"),
        ("/identity/inputs/text/digest", json!("0"), "is of other work than its key"),
        ("/outputs/bpe/files/0/path", json!("../../../../victim/keep"), "outside of it"),
        ("/outputs/bpe/files/0/path", json!("/etc/hostname"), "outside of it"),
        ("/outputs/bpe/files/0/digest", json!("0"), "the digest of bpe is not that of its files"),
        ("/outputs/bpe/digest", json!("0"), "the digest of bpe is not that of its files"),
        ("/outputs", json!({}), "has no output `"),
        (
            "/outputs/..~1..~1victim",
            json!({ "digest": "", "files": [file] }),
            "which the stage has not",
        ),
    ];
    for (at, lie, what) in lies {
        let mut record = good.clone();
        match record.pointer_mut(at) {
            Some(place) => *place = lie,
            None => {
                drop(record["outputs"].as_object_mut().unwrap().insert("../../victim".into(), lie));
            }
        }
        fs::write(place.entry("tokenizer").join("stage.json"), record.to_string()).unwrap();
        // The plan says which, with --verify and without.
        for args in [
            &["--plan", "--until", "tokenizer"][..],
            &["--plan", "--verify", "--until", "tokenizer"],
        ] {
            let plan = place.done(args).stdout;
            assert!(
                plan.contains("the cache entry is damaged: its stage.json")
                    || plan.contains("the cache entry is damaged: the digest"),
                "{at}: {plan}"
            );
            assert!(plan.contains(what), "{at}: {plan}");
        }
        let output = place.done(&["--until", "tokenizer"]);
        assert_eq!(output.ran(), ["tokenizer"], "{at}: {}", output.screen());
        untouched(&victim);
        assert_eq!(
            read_json(&place.entry("tokenizer").join("stage.json"))["outputs"]["bpe"],
            good["outputs"]["bpe"]
        );
    }
}

#[test]
fn outputs_that_are_gone_or_others_are_not_cached() {
    let place = Place::until("tokenizer");
    let tokenizer = place.entry("tokenizer").join("bpe");
    let whole = fs::read(&tokenizer).unwrap();
    fs::remove_file(&tokenizer).unwrap();
    assert_eq!(place.done(&["--until", "tokenizer"]).ran(), ["tokenizer"]);
    // As many bytes, and other ones: who asks, hears which.
    let tokenizer = place.entry("tokenizer").join("bpe");
    let mut other = whole.clone();
    other.swap(0, 1);
    fs::write(&tokenizer, other).unwrap();
    let output = place.done(&["--plan", "--verify", "--until", "tokenizer"]);
    assert!(output.stdout.contains("the bytes of bpe changed"), "{}", output.stdout);
    assert_eq!(place.done(&["--verify", "--until", "tokenizer"]).ran(), ["tokenizer"]);
    assert_eq!(fs::read(place.entry("tokenizer").join("bpe")).unwrap(), whole);
}

#[cfg(unix)]
#[test]
fn no_link_in_a_store_is_followed_to_write_or_delete() {
    use std::os::unix::fs::symlink;
    let place = Place::until("tokenizer");
    let victim = victim(&place);
    let keys: Vec<(String, String)> = ["fetch", "tokenizer"]
        .map(|stage| {
            (stage.to_owned(), place.entry(stage).file_name().unwrap().to_str().unwrap().to_owned())
        })
        .into();
    let stages = place.path("store/stages");
    // A half-done entry that is a link; one with a link to a folder, to a file, to nothing; a scratch that is one.
    for (i, (inside, target)) in [
        ("", &victim),
        ("train", &victim),
        ("bpe", &victim),
        ("metrics", &victim.join("keep")),
        ("train/shard_00000.parquet.tmp", &victim.join("new")),
        (".scratch", &victim.join(".scratch")),
        (".scratch/fetch", &victim),
    ]
    .into_iter()
    .enumerate()
    {
        for (_, key) in &keys {
            let _ = fs::remove_dir_all(stages.join(key));
            let partial = stages.join(format!("{key}.partial"));
            let link = if inside.is_empty() { partial } else { partial.join(inside) };
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        let output = place.done(&["--until", "tokenizer"]);
        assert_eq!(output.ran(), ["fetch", "tokenizer"], "{i}: {}", output.screen());
        assert!(output.stderr.contains("has links to elsewhere"), "{i}: {}", output.stderr);
        untouched(&victim);
    }
    // A lock that is a link: to a file, to nothing.
    for target in [victim.join("keep"), victim.join("new")] {
        let (_, key) = &keys[1];
        fs::remove_dir_all(stages.join(key)).unwrap();
        let lock = place.path("store/locks").join(format!("{key}.lock"));
        fs::remove_file(&lock).unwrap();
        symlink(target, &lock).unwrap();
        let output = place.go(&["--until", "tokenizer"]);
        assert_eq!(output.code, Some(1), "{}", output.screen());
        assert!(output.stderr.contains("it is a link, a folder or a device"), "{}", output.stderr);
        untouched(&victim);
        fs::remove_file(&lock).unwrap();
        place.done(&["--until", "tokenizer"]);
    }
    // A whole entry that lies elsewhere is read, and nothing of it deleted.
    let (_, key) = &keys[0];
    fs::rename(stages.join(key), place.path("moved")).unwrap();
    symlink(place.path("moved"), stages.join(key)).unwrap();
    fs::create_dir(place.path("moved/.scratch")).unwrap();
    assert_eq!(place.done(&["--until", "tokenizer"]).ran(), [""; 0]);
    assert!(place.path("moved/.scratch").exists());
}
