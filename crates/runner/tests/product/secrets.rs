//! What is secret is written nowhere, and no control sequence reaches a screen or a log.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::harness::{Output, Place, json as read_json};
use crate::hostile::{WORLD, head};

/// Every file under a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
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
