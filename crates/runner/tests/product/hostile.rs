//! Careless and hostile input: whatever a pipeline, a store or a file says, the answer is an error with a hint or the work that was meant;
//! memory stays small, nothing outside of the store is touched, and what is secret is not written down.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Output, Place, json as read_json};

/// Runs `p.toml` where no process gets more than this.
fn within(place: &Place, kilobytes: u64, args: &[&str]) -> Output {
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

const GIGABYTES_4: u64 = 4_000_000;

fn head(stages: &str) -> String {
    format!("[pipeline]\nname = \"p\"\nformat = 1\n{stages}")
}

const WORLD: &str = "[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"embedded://world\"\n";

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

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![folder.to_owned()] };
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

const TOKEN: &str = "hunter2secret";

/// Looks for the token in whatever a run left and showed.
fn is_silent(place: &Place, output: &Output, what: &str) {
    for folder in ["store", "runs", "p.lock", "caches"] {
        for file in files(&place.path(folder)).iter().filter(|file| file.exists()) {
            let bytes = fs::read(file).unwrap();
            let found = bytes.windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes());
            assert!(
                !found && !file.to_string_lossy().contains(TOKEN),
                "{what}: {}",
                file.display()
            );
        }
    }
    assert!(
        !format!("{}{}", output.stdout, output.stderr).contains(TOKEN),
        "{what}: {}",
        output.screen()
    );
}

/// A server that has one file under every name, and the pipeline that reads it at this URL.
fn web(source: &dyn Fn(&str) -> String) -> Place {
    let world = Place::until("fetch");
    let shard = files(&world.entry("fetch").join("train"))[0].clone();
    let bytes = fs::read(shard).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/org/a_{{0..1}}.parquet", server.local_addr().unwrap());
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                bytes.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
        }
    });
    let place = Place::new();
    let source = source(&url);
    place.file(&head(&format!(
        "[vars]\ntoken = \"\"\n[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"{source}\"\n"
    )));
    place
}

/// What it is called, the source's text, arguments, variables, and whether the run goes well.
type Way<'a> = (&'a str, &'a dyn Fn(&str) -> String, &'a [&'a str], &'a [(&'a str, &'a str)], bool);

#[test]
fn a_token_is_written_nowhere_whatever_way_it_is_given() {
    let plain = |url: &str| url.to_owned();
    let env = |url: &str| format!("{url}?token=${{env:MY_TOKEN}}");
    let var = |url: &str| format!("{url}?token=${{token}}");
    let literal = |url: &str| format!("{url}?token={TOKEN}#{TOKEN}");
    let password = |url: &str| url.replace("://", &format!("://user:{TOKEN}@"));
    let set = format!("vars.token={TOKEN}");
    let ways: [Way<'_>; 6] = [
        ("a variable in a query", &env, &[], &[("MY_TOKEN", TOKEN)], true),
        ("the command line", &var, &["--set", &set], &[], true),
        ("a query in the file", &literal, &[], &[], true),
        ("the token for the Hub", &plain, &[], &[("HF_TOKEN", TOKEN)], true),
        ("a password in the URL", &password, &[], &[], false),
        (
            "a variable in the path",
            &|url| url.replace("/org/", "/${env:MY_TOKEN}/"),
            &[],
            &[("MY_TOKEN", TOKEN)],
            true,
        ),
    ];
    for (what, source, args, vars, good) in ways {
        let place = web(source);
        let caches = place.path("caches");
        let mut all = vec![
            ("XDG_CACHE_HOME", caches.to_str().unwrap()),
            ("HF_HOME", caches.to_str().unwrap()),
        ];
        all.extend(vars);
        for more in [&["--plan"][..], &[], &[], &["--plan"], &["--force", "fetch"]] {
            let args: Vec<&str> = ["p.toml"].iter().chain(args).chain(more).copied().collect();
            let output = place.output(place.spawn_with(&args, &all));
            if good {
                assert_eq!(output.code, Some(0), "{what}: {}", output.screen());
            } else if more.is_empty() {
                assert_ne!(output.code, Some(0), "{what}: {}", output.screen());
            }
            is_silent(&place, &output, what);
        }
        if good {
            let run = read_json(
                &files(&place.path("runs")).into_iter().find(|f| f.ends_with("run.json")).unwrap(),
            );
            assert!(
                run["stages"][0]["config"]["source"].as_str().unwrap().contains("a_{0..1}.parquet")
            );
        }
    }
}

#[test]
fn a_fault_quotes_no_secret() {
    let place = Place::new();
    place.file(&head(&WORLD.replace("embedded://world", "x")));
    let set = format!("vars.token={TOKEN}");
    let url = format!("fetch.source=https://u:{TOKEN}@h/a?{TOKEN}");
    for args in [["--set", set.as_str()], ["--set", url.as_str()]] {
        let output = place.go(&args);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        is_silent(&place, &output, args[1]);
        assert!(output.stderr.contains("***"), "{}", output.stderr);
    }
}

#[test]
fn another_value_of_a_variable_is_other_work() {
    let place = Place::new();
    place.edit("vocab_size = 400", "vocab_size = 400\ntext_column = \"${env:COLUMN_NAME}\"");
    let go = |value: &str| {
        let args = ["p.toml", "--until", "tokenizer"];
        place.output(place.spawn_with(&args, &[("COLUMN_NAME", value)]))
    };
    assert_eq!(go("text").ran(), ["fetch", "tokenizer"]);
    assert_eq!(go("text").ran(), [""; 0], "the same again is cached");
    let output = go("another_column");
    assert_eq!(output.code, Some(1), "{}", output.screen());
    let named = output.stderr.contains("no column `${env:COLUMN_NAME}`");
    assert!(named && !output.stderr.contains("another_column"), "{}", output.stderr);
    assert_eq!(go("text").ran(), [""; 0]);
}

/// No character that a terminal acts upon.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t')
}

#[test]
fn control_sequences_do_not_reach_the_screen_or_the_log() {
    let clear = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\u{202e}";
    let shown = |place: &Place, output: &Output| {
        assert!(
            is_plain(&output.stdout) && is_plain(&output.stderr),
            "{:?} {:?}",
            output.stdout,
            output.stderr
        );
        for log in files(&place.path("runs")).iter().filter(|f| f.ends_with("log.txt")) {
            let text = fs::read_to_string(log).unwrap();
            assert!(is_plain(&text), "{text:?}");
        }
    };
    // A model's answer: prompts are repeated in it.
    let place = Place::new();
    place.edit("\"Once upon a time\"", "\"Once \\u001b[2J\\u009b31m\\r upon a time\"");
    let output = place.done(&[]);
    shown(&place, &output);
    assert!(output.stdout.contains("\\u{1b}[2J"), "{}", output.stdout);
    // A name in a table of the file, a var, the environment, the command line.
    let quoted = "\\u001b[2J\\u0007\\u009b31m";
    for text in [
        format!("[stage.\"x{quoted}\"]\nuses = \"sample\"\n"),
        format!("{WORLD}\"{quoted}\" = 1\n"),
        format!("[stage.fetch]\nuses = \"{quoted}\"\n"),
        format!("[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"{quoted}://x\"\n"),
        format!("[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"no/{quoted}\"\n"),
        "[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"no/${env:CLEAR}\"\n".to_owned(),
        "[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"${env:CLEAR}://\"\n # \u{9b}31m"
            .to_owned(),
    ] {
        let place = Place::new();
        place.file(&head(&text));
        for plan in [&["p.toml"][..], &["p.toml", "--plan"]] {
            let output = place.output(place.spawn_with(plan, &[("CLEAR", clear)]));
            shown(&place, &output);
        }
    }
    let place = Place::new();
    for set in
        [format!("fetch.{clear}=1"), format!("fetch.source=no/{clear}"), format!("vars.x={clear}")]
    {
        shown(&place, &place.go(&["--plan", "--set", &set]));
    }
    // A lock file that somebody else wrote.
    place.file(&head("[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"hf://datasets/a/b\"\n"));
    let pin = |source: &str, path: &str| {
        format!(
            "format = 1\n[[pin]]\nsource = \"{source}\"\ncommit = \"{}\"\n[[pin.files]]\npath = \"{path}\"\nbytes = 1\ndigest = \"sha256:{}\"\n",
            "1".repeat(40),
            "0".repeat(64)
        )
    };
    let long = "x".repeat(100_000);
    for (text, what) in [
        (pin("hf://datasets/a/b", quoted), "a name that nobody gives"),
        (pin(quoted, "a.parquet"), "a name that nobody gives"),
        (pin("hf://datasets/a/b", &long), "of 100000 bytes"),
        (format!("\"{quoted}\" = 1"), "no lock file of this version"),
    ] {
        fs::write(place.path("p.lock"), text).unwrap();
        let output = place.go(&["--plan"]);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        let screen = output.screen();
        assert!(screen.contains(what) && screen.len() < 2_000, "{screen}");
        shown(&place, &output);
    }
}

/// Replaces what a record says of a file's size, after somebody changed the file.
fn admit(entry: &Path, port: &str, name: &str) {
    let path = entry.join("stage.json");
    let mut record = read_json(&path);
    for file in record["outputs"][port]["files"].as_array_mut().unwrap() {
        if file["path"] == name {
            file["bytes"] = fs::metadata(entry.join(port).join(name)).unwrap().len().into();
        }
    }
    fs::write(path, record.to_string()).unwrap();
}

/// A model's file after a change of its header and its data, whole again.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let bytes = fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let mut data = bytes[8 + n..].to_vec();
    change(&mut header, &mut data);
    let mut json = header.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let new = [&(json.len() as u64).to_le_bytes()[..], &json, &data].concat();
    fs::write(path, sealed(new)).unwrap();
}

/// A model's bytes with the checksum that they have now, if there is room for one.
pub(crate) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mark = b"\"farthing.blake3\":\"";
    let at = bytes
        .windows(mark.len())
        .position(|w| w == mark)
        .map_or(usize::MAX / 2, |at| at + mark.len());
    if at + 64 <= bytes.len() {
        bytes[at..at + 64].fill(b'0');
        let digest = blake3::hash(&bytes).to_hex();
        bytes[at..at + 64].copy_from_slice(digest.as_bytes());
    }
    bytes
}

type Change = Box<dyn FnOnce(&mut Value, &mut Vec<u8>)>;

#[test]
fn a_model_that_lies_or_is_no_number_stops_whoever_reads_it() {
    let place = Place::until("train");
    let text = fs::read_to_string(place.path("p.toml")).unwrap();
    place.file(&format!("{text}\n[stage.export]\nuses = \"export-model\"\ninputs = {{ model = \"train.checkpoint\", bpe = \"tokenizer.bpe\" }}\n"));
    let entry = place.entry("train");
    let path = entry.join("checkpoint/model.safetensors");
    let good = fs::read(&path).unwrap();
    let stages = ["bpb", "core", "sample", "export"];
    let config = |key: &'static str, value: Value| {
        move |header: &mut Value, _: &mut Vec<u8>| {
            let text = header["__metadata__"]["farthing.config"].as_str().unwrap().to_owned();
            let mut config: Value = serde_json::from_str(&text).unwrap();
            config[key] = value;
            header["__metadata__"]["farthing.config"] = config.to_string().into();
        }
    };
    let fill = |value: f32| {
        move |_: &mut Value, data: &mut Vec<u8>| {
            for element in data.chunks_exact_mut(4) {
                element.copy_from_slice(&value.to_le_bytes());
            }
        }
    };
    let changes: Vec<(Change, &str)> = vec![
        (Box::new(fill(f32::NAN)), "is NaN"),
        (Box::new(fill(f32::NEG_INFINITY)), "is -inf"),
        (
            Box::new(|_, data| {
                let n = data.len();
                data[n - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
            }),
            "is inf",
        ),
        (Box::new(config("heads", json!(1 << 20))), "has shape"),
        (Box::new(config("vocab_size", json!(1 << 30))), "has shape"),
        (Box::new(config("depth", json!(1 << 20))), "1048576 layers"),
    ];
    for (change, what) in changes {
        fs::write(&path, &good).unwrap();
        rewrite(&path, change);
        admit(&entry, "checkpoint", "model.safetensors");
        for stage in stages {
            let output = within(&place, GIGABYTES_4, &["--only", stage, "--threads", "2"]);
            assert_eq!(output.code, Some(1), "{what} {stage}: {}", output.screen());
            assert!(output.stderr.contains(what), "{what} {stage}: {}", output.stderr);
            assert!(output.stderr.contains("hint: "), "{}", output.stderr);
        }
    }
}
