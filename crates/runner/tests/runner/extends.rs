//! `extends` lays a file over another one, `skip` leaves a stage out, `retry` tries one again; every fault keeps its file and line.

use std::fs;

use crate::harness::Place;

const BASE: &str = "[pipeline]\nname = \"base\"\nformat = 1\nseed = 7\n\n[vars]\nword = \"hello\"\n\n\
    [stage.hi]\nuses = \"write\"\ntext = \"${word}\"\nlines = 2\n\n\
    [stage.count]\nuses = \"count\"\ninputs = { text = \"hi.text\" }\n";

fn write(place: &Place, name: &str, text: &str) {
    let path = place.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_file_is_laid_over_another_key_by_key() {
    let place = Place::new();
    write(&place, "shared/base.toml", BASE);
    write(
        &place,
        "p.toml",
        "extends = \"shared/base.toml\"\n[pipeline]\nname = \"p\"\n[vars]\nword = \"bye\"\n",
    );
    let mine = place.go(&[]);
    assert_eq!(mine.ran(), ["hi", "count"]);
    assert!(
        mine.stdout.contains("letters  6") && place.path("store").is_dir(),
        "{}",
        mine.screen()
    );
    // A file over that one, in another folder, which adds a stage and changes another's key.
    let over = "extends = \"../p.toml\"\n[stage.hi]\nlines = 1\n[stage.again]\nuses = \"trim\"\ninputs = { text = \"hi.text\" }\n";
    write(&place, "deep/q.toml", over);
    let other = place.run_in("deep", &["q.toml", "--store", "../store"], &[]);
    assert_eq!(other.ran(), ["hi", "count", "again"]);
    assert_eq!(other.why("hi"), "config changed: lines 2 → 1");
    let set =
        place.run(&["deep/q.toml", "--store", "store", "--set", "hi.lines=2", "--until", "hi"]);
    assert!(set.ran().is_empty(), "{}", set.screen());
}

#[test]
fn faults_are_shown_where_they_are_written() {
    let place = Place::new();
    write(&place, "base.toml", &BASE.replace("lines = 2", "lnies = 2"));
    write(&place, "p.toml", "extends = \"base.toml\"\n[stage.count]\ninptus = {}\n");
    let refused = place.go(&[]);
    assert_eq!(refused.code, 2, "{}", refused.screen());
    for said in [
        "--> base.toml:12:1",
        "unknown key `lnies`",
        "--> p.toml:3:1",
        "unknown key `inptus`",
        "2 faults in p.toml",
    ] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.screen());
    }
    for (text, said) in [
        ("extends = 3\n", "`extends` is an integer"),
        (
            "extends = \"absent.toml\"\n",
            "error: p.toml extends `absent.toml`, which cannot be read: ",
        ),
        ("extends = \"p.toml\"\n", "p.toml extends `p.toml`, which is laid over it"),
        ("extends = \"loop.toml\"\n", "loop.toml extends `p.toml`, which is laid over it"),
        ("extends = \"broken.toml\"\n", "--> broken.toml:2:"),
        ("extends = \".\"\n", "which cannot be read: "),
    ] {
        write(&place, "p.toml", text);
        write(&place, "loop.toml", "extends = \"p.toml\"\n");
        write(&place, "broken.toml", "[vars]\nx = \n");
        let refused = place.go(&[]);
        assert!(refused.code == 2 && refused.stderr.contains(said), "{text}: {}", refused.screen());
    }
    let mut chain = "[pipeline]\n".to_owned();
    for i in (0..12).rev() {
        write(&place, &format!("c{i}.toml"), &chain);
        chain = format!("extends = \"c{i}.toml\"\n");
    }
    let deep = place.run(&["c0.toml"]);
    assert!(deep.code == 2 && deep.stderr.contains("file behind another"), "{}", deep.screen());
}

#[test]
fn a_stage_that_is_skipped_does_not_run_and_who_needs_it_is_refused() {
    let skipped = |stage: &str| {
        let place = Place::new();
        write(&place, "base.toml", BASE);
        write(
            &place,
            "p.toml",
            &format!("extends = \"base.toml\"\n[stage.{stage}]\nskip = true\n"),
        );
        place
    };
    let place = skipped("count");
    let run = place.go(&[]);
    assert_eq!(run.ran(), ["hi"]);
    assert!(place.go(&["--plan"]).stdout.contains("skipped"));
    // What was made before serves who reads it.
    let place = skipped("hi");
    for args in [&[][..], &["--plan"]] {
        let refused = place.go(args);
        let said = "stage `count` reads `hi.text`, which is skipped and not in the cache";
        assert!(refused.code == 2 && refused.screen().contains(said), "{}", refused.screen());
    }
    assert_eq!(place.go(&["--set", "hi.skip=false", "--until", "hi"]).ran(), ["hi"]);
    assert_eq!(place.go(&[]).ran(), ["count"]);
    // An optional input does without, and a port that takes many takes the others.
    let place = Place::with(
        "[stage.hi]\nuses = \"write\"\ntext = \"${n}\"\n[stage.hi.matrix.n]\na = {}\nb = { skip = true }\n\
         [stage.join]\nuses = \"join\"\ninputs = { texts = \"hi.text\" }\n",
    );
    let run = place.go(&[]);
    assert_eq!(run.ran(), ["hi@n=a", "join"]);
    let odd = place.go(&["--set", "hi.skip=\"yes\""]);
    assert!(odd.code == 2 && odd.stderr.contains("`skip` is a string"), "{}", odd.screen());
}

#[test]
fn what_may_pass_is_tried_again_and_what_would_fail_again_is_not() {
    let stage = |how: &str, retry: &str| {
        Place::with(&format!("[stage.bad]\nuses = \"fail\"\nhow = \"{how}\"\nretry = {retry}\n"))
    };
    let place = stage("later", "{ attempts = 3, backoff_s = 0.01 }");
    let run = place.go(&[]);
    assert_eq!(run.ran(), ["bad"]);
    for said in ["bad: failed: reading from far away: timed out", "bad: attempt 3 of 3 in "] {
        assert!(run.stderr.contains(said), "{said}: {}", run.screen());
    }
    let runs = fs::read_dir(place.path("runs/p")).unwrap().count();
    assert_eq!(runs, 1, "one run, however many attempts");
    let place = stage("later", "{ attempts = 2, backoff_s = 0 }");
    let run = place.go(&[]);
    assert!(run.code == 1 && run.stderr.contains("resume with"), "{}", run.screen());
    assert_eq!(place.go(&[]).ran(), ["bad"]);
    let lasting = stage("error", "{ attempts = 5 }").go(&[]);
    assert!(lasting.code == 1 && !lasting.stderr.contains("attempt"), "{}", lasting.screen());
    assert!(lasting.stderr.contains("the same would fail again as it is"), "{}", lasting.screen());
    for (retry, said) in [
        ("{ attempts = 0 }", "0 attempts, expected 1 to 1,000"),
        ("{ attempts = 2, backoff_s = -1 }", "`backoff_s` is -1"),
        ("{ atempts = 2 }", "did you mean `attempts`"),
        ("3", "expected a table, got `3`"),
    ] {
        let refused = stage("error", retry).go(&[]);
        assert!(refused.code == 2 && refused.stderr.contains(said), "{said}: {}", refused.screen());
    }
}
