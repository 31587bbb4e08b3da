//! Careless and hostile pipelines: whatever one says, the answer is an error with a hint or the work that was meant, and memory stays small.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Output, Place};

/// Runs `p.toml` where no process gets more than this.
pub(crate) fn within(place: &Place, kilobytes: u64, args: &[&str]) -> Output {
    let child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {kilobytes}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_runner"))
        .arg("p.toml")
        .args(args)
        .env("RUST_BACKTRACE", "0")
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.output(child)
}

pub(crate) const GIGABYTES_4: u64 = 4_000_000;

pub(crate) fn head(stages: &str) -> String {
    format!("[pipeline]\nname = \"p\"\nformat = 1\n{stages}")
}

pub(crate) const WORLD: &str =
    "[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"embedded://world\"\n";

/// The screen of a pipeline that is refused before anything runs, within little memory.
fn refused(text: &str, args: &[&str]) -> String {
    let place = Place::new();
    place.file(text);
    let output = within(&place, GIGABYTES_4, args);
    assert_eq!(output.code, Some(2), "{args:?} {}", output.screen());
    assert!(!place.path("store").exists(), "something ran: {}", output.screen());
    output.screen()
}

#[test]
fn vars_that_grow_beyond_measure_are_named() {
    let chain = |first: &str, next: &dyn Fn(usize) -> String, n: usize| {
        let more: Vec<String> = (1..=n).map(|i| format!("a{i} = {}\n", next(i - 1))).collect();
        head(&format!(
            "[vars]\na0 = {first}\n{}{}",
            more.concat(),
            WORLD.replace("embedded://world", &format!("${{a{n}}}"))
        ))
    };
    let ten = |i: usize| format!("\"{}\"", format!("${{a{i}}}").repeat(10));
    let list = |i: usize| format!("[{}]", format!("\"${{a{i}}}\", ").repeat(10));
    for text in [
        chain("\"xxxxxxxxxx\"", &ten, 10),
        // Nothing, very often.
        chain("\"\"", &ten, 12),
        // Lists of lists, and tables.
        chain("[1]", &list, 10),
        chain(
            "\"x\"",
            &|i| {
                format!(
                    "{{ {} }}",
                    ["b", "c", "d", "e", "f", "g", "h", "i"]
                        .map(|k| format!("{k} = \"${{a{i}}}\""))
                        .join(", ")
                )
            },
            12,
        ),
    ] {
        for plan in [&["--plan"][..], &[]] {
            let screen = refused(&text, plan);
            assert!(
                screen.contains("var `a") && screen.contains(" MiB of this file's values"),
                "{screen}"
            );
        }
    }
    // A chain of many, each used once.
    let screen = refused(&chain("\"x\"", &|i| format!("\"${{a{i}}}\""), 5_000), &["--plan"]);
    assert!(screen.contains("stands 16 vars deep"), "{screen}");
    // From the command line.
    let none: Vec<String> = (0..=9).map(|i| format!("a{i} = \"\"\n")).collect();
    let none = none.concat();
    let sets: Vec<String> =
        (1..=9).map(|i| format!("vars.a{i}={}", format!("${{a{}}}", i - 1).repeat(10))).collect();
    let mut args = vec!["--plan", "--set", "vars.a0=xxxxxxxxxx", "--set", "fetch.source=${a9}"];
    for set in &sets {
        args.extend(["--set", set]);
    }
    let screen = refused(&head(&format!("[vars]\n{none}{WORLD}")), &args);
    assert!(screen.contains(" MiB of this file's values"), "{screen}");
}

#[test]
fn numbers_at_the_ends_of_their_range_abort_nothing() {
    let place = Place::new();
    let keys = [
        "fetch.world.train_shards",
        "fetch.world.documents_per_shard",
        "fetch.world.val_documents",
        "fetch.world.seed",
        "fetch.shards.first",
        "fetch.shards.count",
        "fetch.shards.val",
        "tokenizer.vocab_size",
        "tokenizer.max_chars",
        "tokenizer.document_chars",
        "pack.row_tokens",
        "pack.buffer_documents",
        "pack.shard_bytes",
        "train.model.depth",
        "train.model.aspect_ratio",
        "train.model.head_dim",
        "train.model.heads",
        "train.model.kv_heads",
        "train.model.short_window",
        "train.model.ve_gate_channels",
        "train.schedule.batch_tokens",
        "train.schedule.steps",
        "train.schedule.warmup_steps",
        "train.evaluate.every_steps",
        "train.evaluate.tokens",
        "train.seq_len",
        "train.resources.threads",
        "train.resources.ranks",
        "train.resources.gpus",
        "train.exec.keep_checkpoints",
        "train.exec.micro_batch_tokens",
        "train.exec.checkpoint_every_s",
        "fetch.exec.connections",
        "bpb.tokens",
        "core.max_per_task",
        "sample.max_tokens",
        "pipeline.seed",
    ];
    for key in keys {
        for number in ["0", "9223372036854775807", "-1", "1e300"] {
            let set = format!("{key}={number}");
            let output = within(&place, GIGABYTES_4, &["--plan", "--set", &set]);
            let screen = format!("{set}: {}{}", output.stdout, output.stderr);
            assert!(matches!(output.code, Some(0 | 2)), "{screen}");
            assert!(!screen.contains("panicked"), "{screen}");
            assert!(
                output.code == Some(0)
                    || !output.stderr.is_empty()
                    || output.stdout.contains("cannot run"),
                "{screen}"
            );
        }
    }
}

#[test]
fn threads_have_a_bound_that_is_stated() {
    for args in [
        ["--threads", "18446744073709551615"],
        ["--threads", "5000"],
        ["--set", "train.resources.threads=5000"],
    ] {
        let place = Place::new();
        let output = place.go(&args);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        assert!(output.stderr.contains("4096"), "{}", output.stderr);
    }
    let place = Place::new();
    let output = place.go(&["--plan", "--threads", "100", "--set", "train.resources.ranks=64"]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.stderr.contains("100 threads on each of 64 ranks"), "{}", output.stderr);
}

/// Thousands of stages: each alone; each reading the one after it in the file; each waiting for that.
#[test]
fn many_stages_are_planned() {
    const N: usize = 6_000;
    let alone: String = (0..N).map(|i| WORLD.replace("fetch]", &format!("s{i}]"))).collect();
    let bpe = |i: usize, more: &str| {
        format!("[stage.s{i}]\nuses = \"train-bpe\"\ninputs = {{ text = \"fetch.train\" }}\n{more}")
    };
    let mut chain: String = (0..N)
        .map(|i| {
            bpe(i, &if i + 1 < N { format!("needs = [\"s{}\"]\n", i + 1) } else { String::new() })
        })
        .collect();
    chain.push_str(WORLD);
    for (text, stages) in [(alone, N), (chain, N + 1)] {
        let place = Place::new();
        place.file(&head(&text));
        let output = place.done(&["--plan"]);
        assert!(
            output.stdout.contains(&format!("\n{stages} stages: 0 cached")),
            "{}",
            output.stdout.lines().last().unwrap()
        );
    }
    // As many faults: the first are shown.
    let place = Place::new();
    place.file(&head(&(0..N).map(|i| bpe(i, "x = 1\n")).collect::<String>()));
    let output = place.go(&["--plan"]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.stderr.contains("the first 50 of "),
        "{}",
        &output.stderr[output.stderr.len() - 100..]
    );
}

#[cfg(unix)]
fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_where_a_file_belongs() {
    // A pipe that nobody writes to, or a device without end.
    let place = Place::new();
    pipe(&place.path("pipe.toml"));
    for file in ["pipe.toml", "/dev/zero"] {
        let output = place.run(&[file, "--plan"]);
        assert_eq!(output.code, Some(2));
        assert!(output.stderr.contains("where a file belongs"), "{}", output.stderr);
    }
    fs::create_dir(place.path("text")).unwrap();
    pipe(&place.path("text/a.parquet"));
    pipe(&place.path("text/b.txt"));
    pipe(&place.path("tokenizer.json"));
    for source in ["text", "text/a.parquet", "text/b.txt", "text/*", "/dev/zero"] {
        place.file(&head(&WORLD.replace("embedded://world", source)));
        for args in [&["--plan"][..], &[]] {
            let output = place.go(args);
            assert!(matches!(output.code, Some(1 | 2)), "{source}: {}", output.screen());
        }
    }
    place.file(&head("[stage.t]\nuses = \"use-tokenizer\"\npath = \"tokenizer.json\"\n"));
    let output = place.go(&[]);
    assert!(matches!(output.code, Some(1 | 2)), "{}", output.screen());
    assert!(output.stderr.contains("it is a pipe, where a file belongs"), "{}", output.stderr);
    // The lock file of a pipeline whose source is far.
    place.file(&head("[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"hf://datasets/a/b\"\n"));
    pipe(&place.path("p.lock"));
    let output = place.go(&["--plan"]);
    assert_eq!(output.code, Some(2));
    assert!(output.screen().contains("it is a pipe"), "{}", output.screen());
}
