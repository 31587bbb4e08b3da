//! Talking to a model with the real binary: which folder means which model, what is written where, and that text and figures stay apart.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Output, Place};
use crate::kill::wait_for;

/// Runs `runner generate` with lines on its standard input.
fn generate(place: &Place, args: &[&str], input: &str) -> Output {
    talk(place, "generate", args, input)
}

/// Runs a command that talks, with lines on its standard input.
pub(crate) fn talk(place: &Place, command: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_runner"))
        .arg(command)
        .args(args)
        .env("RUST_BACKTRACE", "0")
        .current_dir(place.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    place.output(child)
}

/// What the model said.
fn said(place: &Place, args: &[&str], input: &str) -> String {
    talked(place, "generate", args, input)
}

/// What the model said by a command that talks.
pub(crate) fn talked(place: &Place, command: &str, args: &[&str], input: &str) -> String {
    let output = talk(place, command, args, input);
    assert_eq!(output.code, Some(0), "{}", output.screen());
    assert!(output.stderr.contains(" tokens/s"), "{}", output.screen());
    output.stdout
}

#[test]
fn the_last_lines_of_a_run_name_the_model_and_the_command_that_talks_to_it() {
    let place = Place::new();
    let args = ["--prompt", "Once upon a time", "--max-tokens", "12"];
    assert!(!place.done(&["--until", "pack"]).stdout.contains("talk "));
    let output = generate(&place, &[&["runs/nano"], &args[..]].concat(), "");
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.stderr.contains("has no model yet"), "{}", output.screen());

    let output = place.done(&["--until", "sample"]);
    let after = |name: &str| {
        let line = output.stdout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {}", output.screen())).trim().to_owned()
    };
    let (model, talk) = (after("model "), after("talk "));
    assert!(place.path(&model).join("model.safetensors").is_file(), "{model}");
    assert!(talk.ends_with(&format!(" generate {model}")), "{talk}");

    // The model's folder, its file, the run's folder and that of all runs are the same model, which says the same again.
    let run = place.last_run().to_string_lossy().into_owned();
    let file = format!("{model}/model.safetensors");
    let text = said(&place, &[&[model.as_str()], &args[..]].concat(), "");
    assert!(text.trim().len() > 3, "{text}");
    for dir in [&file, &run, "runs/nano"] {
        assert_eq!(said(&place, &[&[dir], &args[..]].concat(), ""), text, "{dir}");
    }
    // What the stage `sample` said of the same prompt, greedily.
    let greedy = said(
        &place,
        &[&model, "--prompt", "Once upon a time", "--max-tokens", "16", "--temperature", "0"],
        "",
    );
    let sampled = crate::harness::json_lines(&place.entry("sample").join("text"));
    assert_eq!(
        greedy,
        format!("{}\n", farthing_talk::visible(sampled[1]["text"].as_str().unwrap()))
    );
}

#[test]
fn lines_are_prompts_and_samples_are_what_their_seeds_make() {
    let place = Place::until("train");
    let dir = place.entry("train");
    let dir = dir.to_str().unwrap();
    let one = |prompt: &str, seed: &str| {
        said(
            &place,
            &[dir, "--max-tokens", "9", "--temperature", "1", "--prompt", prompt, "--seed", seed],
            "",
        )
    };
    let args = [dir, "--max-tokens", "9", "--temperature", "1"];
    // Windows' line ends, and a last line without one.
    let lines = said(&place, &args, "The town\r\n\nEvery");
    assert_eq!(lines, [one("The town", "0"), one("", "1"), one("Every", "2")].concat());
    let three =
        said(&place, &[&args[..], &["--prompt", "The town", "--samples", "3"]].concat(), "");
    let expected: Vec<String> =
        (0..3).map(|i| format!("── {} of 3\n{}", i + 1, one("The town", &i.to_string()))).collect();
    assert_eq!(three, expected.concat());
    assert_ne!(one("The town", "0"), one("The town", "1"));
    // A stop string ends a text.
    let whole = one("The town", "0");
    let stop: String = whole.trim_end().chars().skip(3).take(2).collect();
    let stopped =
        said(&place, &[&args[..], &["--prompt", "The town", "--stop", &stop]].concat(), "");
    assert_eq!(stopped.trim_end_matches('\n'), &whole[..whole.find(&stop).unwrap()]);
    let nothing = generate(&place, &args, "");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
}

#[test]
fn what_cannot_be_is_said_with_a_hint() {
    let place = Place::until("train");
    let dir = place.entry("train");
    let dir = dir.to_str().unwrap();
    let mut input = vec![b'x'; (1 << 20) + 1];
    input.push(b'\n');
    let long = String::from_utf8(input).unwrap();
    for (args, input, what) in [
        (&["store"][..], "", "is no model's folder"),
        (&["p.toml"], "", "p.toml"),
        (&[dir, "--top-p", "0"], "", "top_p is 0"),
        (&[dir, "--repetition-penalty", "0"], "", "repetition_penalty is 0"),
        (&[dir, "--tokenizer", "absent.json"], "", "absent.json"),
        (&[dir], &long, "line 1 of standard input is longer than"),
    ] {
        let output = generate(&place, args, input);
        assert_eq!(output.code, Some(2), "{args:?}: {}", output.screen());
        assert!(
            output.stderr.contains(what) && output.stderr.contains("hint: "),
            "{args:?}: {}",
            output.screen()
        );
        assert_eq!(output.stdout, "", "{args:?}");
    }
    // Only where there is no GPU can it not be opened.
    let cuda = generate(&place, &[dir, "--device", "cuda", "--prompt", "x"], "");
    let said = cuda.stderr.contains("leave --device out") && !cuda.stderr.contains("resources");
    assert!(cuda.code == Some(0) || said, "{}", cuda.screen());
    for args in
        [&[dir, "--samples", "0"][..], &[dir, "--max-tokens", "0"], &[dir, "--device", "abacus"]]
    {
        assert_eq!(generate(&place, args, "").code, Some(2), "{args:?}");
    }
}

#[test]
fn a_training_that_runs_is_talked_to_by_its_newest_checkpoint() {
    let place = Place::new();
    let steps =
        ["--set", "train.schedule.steps=4000", "--set", "train.exec.checkpoint_every_steps=2"];
    let mut child = place.spawn(&[&["p.toml"], &steps[..]].concat());
    wait_for(&place, &mut child, 5);
    let run = place.last_run();
    let run = run.to_str().unwrap();
    // Checkpoints come and go while they are read.
    for _ in 0..5 {
        let output = generate(&place, &[run, "--prompt", "The", "--max-tokens", "5"], "");
        assert_eq!(output.code, Some(0), "{}", output.screen());
        let note = "the newest checkpoint of a training that is not done, after ";
        assert!(output.stderr.contains(note), "{}", output.screen());
    }
    assert!(child.try_wait().unwrap().is_none(), "it is not disturbed");
    child.kill().unwrap();
    place.output(child);
    let output = generate(&place, &[run, "--prompt", "The", "--max-tokens", "5"], "");
    assert_eq!(output.code, Some(0), "{}", output.screen());
}

#[cfg(feature = "serve")]
/// The port that a server says it listens on, and the rest of what it says.
fn listening(
    child: &mut std::process::Child,
) -> (u16, std::io::BufReader<std::process::ChildStderr>) {
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    let port = line.split(':').nth(2).and_then(|rest| rest.split('/').next()?.parse().ok());
    (port.unwrap_or_else(|| panic!("{line}")), lines)
}

#[cfg(feature = "serve")]
#[test]
fn a_model_is_served_and_says_what_generate_says() {
    use std::io::Read;

    let place = Place::until("train");
    let dir = place.entry("train");
    let dir = dir.to_str().unwrap();
    let serve =
        |args: &[&str]| place.spawn(&[&["serve", dir, "--listen", "127.0.0.1:0"], args].concat());
    let mut child = serve(&[]);
    let (port, _lines) = listening(&mut child);
    let body = r#"{"prompt": "The town", "max_tokens": 9, "seed": 0}"#;
    let ask = |port: u16, host: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n";
        write!(stream, "{head}Host: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask(port, "localhost");
    let json: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let text = farthing_talk::visible(json["choices"][0]["text"].as_str().unwrap()).into_owned();
    let args = [dir, "--max-tokens", "9", "--temperature", "1", "--prompt", "The town"];
    assert_eq!(said(&place, &args, ""), text + "\n");
    assert!(ask(port, "evil.example").starts_with("HTTP/1.1 403 "));
    // Where it is on this machine is told to nobody.
    assert_eq!(json["model"], "nano/train");
    child.kill().unwrap();
    child.wait().unwrap();

    // Beyond loopback nobody is let in without a key; the address that is taken is named.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, what) in [("0.0.0.0:0", "FARTHING_API_KEY"), (taken.as_str(), "--listen")] {
        let output = place.run(&["serve", dir, "--listen", address]);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        assert!(
            output.stderr.contains("hint: ") && output.stderr.contains(what),
            "{}",
            output.screen()
        );
    }
}

/// What breaks off is another code than what is asked for wrongly.
#[cfg(target_os = "linux")]
#[test]
fn a_text_that_cannot_be_written_any_further_is_a_failure() {
    let place = Place::until("train");
    let run = |args: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command.args(args).current_dir(place.path(".")).stdin(Stdio::null());
        let child = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        place.output(child)
    };
    let bundle = place.entry("fetch").join("tasks").display().to_string();
    let broken = [
        &["generate", "runs/nano", "--prompt", "a", "--max-tokens", "3"][..],
        &["eval", "runs/nano", "--core", &bundle, "--max-per-task", "4"],
    ];
    for args in broken {
        let output = run(args);
        assert_eq!(output.code, Some(1), "{}", output.screen());
        assert!(output.stderr.contains("it broke off midway"), "{}", output.screen());
        assert!(output.stderr.contains("writing to standard output"), "{}", output.screen());
    }
    let output = run(&["generate", "runs/nano", "--prompt", "a", "--temperature=-1"]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
}

#[test]
fn weights_in_fewer_bytes_are_an_option_of_decoding_on_the_processor() {
    let place = Place::until("train");
    let args = |more: &[&str]| {
        let all = ["runs/nano", "--prompt", "Once upon", "--max-tokens", "8", "--temperature", "0"];
        [&all[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let said = |more: &[&str]| {
        let args = args(more);
        said(&place, &args.iter().map(String::as_str).collect::<Vec<_>>(), "")
    };
    assert_eq!(said(&["--weights", "f32"]), said(&[]));
    // The text of so small a model may differ; that there is one, and again the same, may not.
    for weights in ["bf16", "int8"] {
        let text = said(&["--weights", weights]);
        assert!(!text.trim().is_empty(), "{weights}");
        assert_eq!(text, said(&["--weights", weights, "--threads", "1"]));
    }
    let wrong = args(&["--weights", "int8", "--device", "emulated"]);
    let output = generate(&place, &wrong.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.stderr.contains("--weights is for the processor"), "{}", output.screen());
}
