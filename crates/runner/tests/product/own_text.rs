//! Text of one's own: the folders, files, environments and accidents that users bring, and what is said of them.

use std::fs;
use std::path::Path;

use farthing_data::world::WorldSettings;
use farthing_data::{FetchSettings, Files, Silent};

use crate::harness::{NANO, Output, Place};

/// The small pipeline on a source of one's own.
fn on(source: &str) -> Place {
    let place = Place::new();
    let world = "source = \"embedded://world\"\n\
        world  = { train_shards = 1, documents_per_shard = 300, val_documents = 40 }\n";
    assert!(NANO.contains(world));
    place.file(&NANO.replace(world, &format!("source = '{source}'\n")));
    place
}

/// Writes as many parquet files of the embedded world.
fn write(place: &Place, names: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let train_shards = names.len();
    let world = WorldSettings { train_shards, documents_per_shard: 150, val_documents: 1, seed: 1 };
    let settings = FetchSettings { source: "embedded://world".into(), world, ..Default::default() };
    let files: Files =
        farthing_data::fetch(&settings, dir.path(), dir.path(), &mut Silent).unwrap();
    for (name, from) in names.iter().zip(files.train_paths(dir.path())) {
        let to = place.path(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

fn two(place: &Place) {
    write(place, &["text/a.parquet", "text/b.parquet"]);
}

fn nothing_to_do(output: &Output) {
    assert!(output.stdout.contains("nothing to do"), "{}", output.screen());
}

#[test]
fn the_stores_own_copies_are_never_trained_on() {
    for (source, store) in [(".", "store"), ("**/*.parquet", "work/cache"), ("text", "text/store")]
    {
        let place = on(source);
        two(&place);
        let args = ["--until", "pack", "--store", store];
        let first = place.done(&args);
        assert!(first.stderr.contains("1 file to train on, 1 held out"), "{}", first.screen());
        let second = place.done(&args);
        nothing_to_do(&second);
    }
    let place = on("store/stages/*/train/*.parquet");
    place.edit("store/stages", "cache/stages");
    write(&place, &["cache/stages/0/train/a.parquet", "cache/last/b.parquet"]);
    let refused = place.go(&["--until", "pack"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("this program keeps its own copies"), "{}", refused.screen());
}

#[test]
fn what_is_held_out_is_named_by_plan_screen_and_report() {
    let place = on("text");
    write(&place, &["text/train-0.parquet", "text/test-0.parquet", "text/validation-0.parquet"]);
    let said = "text/validation-0.parquet (by name the validation split)";
    let plan = place.done(&["--plan"]);
    assert!(plan.stdout.contains(&format!("held out  {said}")), "{}", plan.screen());
    let left = "text/test-0.parquet: it is by name the test split";
    assert!(plan.stdout.contains(&format!("left out  {left}")), "{}", plan.screen());
    // The report is not told of it by any stage in between.
    let run = place.done(&[]);
    assert!(run.stderr.contains(&format!("held out: {said}")), "{}", run.screen());
    assert!(run.stderr.contains(&format!("left out: {left}")), "{}", run.screen());
    assert!(run.stderr.contains("nothing to evaluate: there are no tasks"), "{}", run.screen());
    let report = fs::read_to_string(place.last_run().join("report.md")).unwrap();
    assert!(report.contains("text/validation-0.parquet"), "{report}");
    assert!(!report.contains("## Tasks"), "{report}");
    nothing_to_do(&place.done(&[]));
    // The same text under names that say nothing is divided otherwise, and reported otherwise.
    fs::rename(place.path("text/validation-0.parquet"), place.path("text/zzz.parquet")).unwrap();
    let again = place.done(&["--until", "pack"]);
    assert_eq!(again.ran(), ["fetch", "tokenizer", "pack"]);
}

#[test]
fn the_same_files_by_another_path_are_the_same_source() {
    let place = on("text");
    two(&place);
    assert_eq!(place.done(&["--until", "fetch"]).ran(), ["fetch"]);
    let whole = place.path("text").to_str().unwrap().to_owned();
    let url = format!("file://{whole}");
    fs::create_dir(place.path("sub")).unwrap();
    fs::rename(place.path("text"), place.path("sub/moved")).unwrap();
    // Moved: what was made of it serves by its old name, and it is found by its new one.
    assert!(place.done(&["--until", "fetch"]).ran().is_empty());
    let moved = place.done(&["--until", "fetch", "--set", "fetch.source='sub/moved'"]);
    assert!(moved.ran().is_empty(), "{}", moved.screen());
    fs::rename(place.path("sub/moved"), place.path("text")).unwrap();
    for source in
        ["text/", "./text", "text/*.parquet", "sub/../text", &whole, &url, "text/[ab].parquet"]
    {
        let set = format!("fetch.source='{source}'");
        let again = place.done(&["--until", "fetch", "--set", &set]);
        assert!(again.ran().is_empty(), "{source}: {}", again.screen());
    }
    let entries = fs::read_dir(place.path("store/stages")).unwrap().count();
    let runs = fs::read_dir(place.path("runs/nano")).unwrap().count();
    assert_eq!((entries, runs), (1, 1));
    // Fewer files, or the same ones otherwise divided, are another source.
    for set in ["fetch.source='text/a.parquet'", "fetch.shards={ val = 0 }"] {
        assert_eq!(place.done(&["--until", "fetch", "--set", set]).ran(), ["fetch"], "{set}");
    }
}

#[test]
fn one_file_is_enough() {
    let place = on("mine.parquet");
    write(&place, &["mine.parquet"]);
    let run = place.done(&["--until", "pack"]);
    let said = "held out: the last rows of mine.parquet, 1 in 10 (there is one file)";
    assert!(run.stderr.contains(said), "{}", run.screen());
    nothing_to_do(&place.done(&["--until", "pack"]));
    // A second file that is held out is another division of the first one, not the same.
    write(&place, &["mine/a.parquet"]);
    for copy in ["mine/a.parquet", "mine/b.parquet"] {
        fs::copy(place.path("mine.parquet"), place.path(copy)).unwrap();
    }
    let folder = place.done(&["--until", "pack", "--set", "fetch.source='mine'"]);
    assert!(folder.ran().contains(&"fetch".to_owned()));
}

#[test]
fn strangers_in_the_store_damage_nothing_and_are_not_read() {
    let place = on("text");
    two(&place);
    let first = place.done(&["--until", "pack"]);
    let (fetch, pack) = (place.entry("fetch"), place.entry("pack"));
    for stray in [".DS_Store", ".nfs0001", "._manifest.json", ".manifest.json.swp", "notes~", "x"] {
        fs::write(pack.join("train").join(stray), "stray").unwrap();
        fs::write(fetch.join("val").join(stray), "stray").unwrap();
    }
    // One that would be read, if the folder were what counts.
    fs::copy(place.path("text/b.parquet"), fetch.join("train/zz.parquet")).unwrap();
    for args in [&["--until", "pack"][..], &["--until", "pack", "--verify"]] {
        nothing_to_do(&place.done(args));
    }
    let again = place.done(&["--only", "pack", "--force", "pack"]);
    let rows = |output: &Output| {
        let line = output.stderr.lines().find(|l| l.contains("train: ")).unwrap().to_owned();
        line.split("train: ").nth(1).unwrap().to_owned()
    };
    assert_eq!(rows(&first), rows(&again));
    // What is recorded has to be there as it was.
    let copy = fetch.join("train/00000-a.parquet");
    let mut bytes = fs::read(&copy).unwrap();
    bytes[100] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let plan = place.done(&["--plan", "--verify"]);
    assert!(
        plan.stdout.contains("the bytes of train/00000-a.parquet changed"),
        "{}",
        plan.screen()
    );
}

#[test]
fn copies_serve_when_the_source_is_gone() {
    let place = on("text");
    two(&place);
    place.done(&["--until", "pack"]);
    fs::rename(place.path("text"), place.path("away")).unwrap();
    let only = place.done(&["--only", "pack", "--force", "pack"]);
    assert_eq!(only.ran(), ["pack"]);
    assert_eq!(only.why("fetch"), "its source is gone; as it was the last time");
    nothing_to_do(&place.done(&["--until", "pack"]));
    // Of another name, or asked for again, there are no copies.
    for args in [&["--force", "fetch"][..], &["--set", "fetch.source='texts'"]] {
        let refused = place.go(args);
        assert_eq!(refused.code, Some(2), "{}", refused.screen());
        assert!(refused.stderr.contains("no file of text matches"), "{}", refused.screen());
    }
    // An empty folder is what a disk leaves that is not mounted.
    fs::create_dir(place.path("text")).unwrap();
    nothing_to_do(&place.done(&["--until", "pack"]));
    // What is there and cannot be read is no reason not to do what does not need it.
    write(&place, &["text/a.parquet"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/nowhere", place.path("text/b.parquet")).unwrap();
        assert_eq!(place.done(&["--only", "pack", "--force", "pack"]).ran(), ["pack"]);
        let refused = place.go(&["--until", "pack"]);
        assert_eq!(refused.code, Some(2), "{}", refused.screen());
        assert!(refused.stderr.contains("text/b.parquet is a link to /nowhere"));
    }
}

#[test]
fn a_tokenizer_that_is_gone_serves_under_its_own_name_alone() {
    let place = on("text");
    two(&place);
    place.done(&["--until", "tokenizer"]);
    fs::copy(place.entry("tokenizer").join("bpe"), place.path("mine.json")).unwrap();
    let text = fs::read_to_string(place.path("p.toml")).unwrap();
    let old =
        "uses       = \"train-bpe\"\ninputs     = { text = \"fetch.train\" }\nvocab_size = 400\n";
    assert!(text.contains(old));
    let text = text.replace(old, "uses = \"use-tokenizer\"\npath = \"mine.json\"\n");
    place.file(&text.replace(", tokenizer = \"tokenizer.metrics\"", ""));
    place.done(&["--until", "pack"]);
    fs::remove_file(place.path("mine.json")).unwrap();
    nothing_to_do(&place.done(&["--until", "pack"]));
    let typo = place.go(&["--until", "pack", "--set", "tokenizer.path=\"other.json\""]);
    assert_eq!(typo.code, Some(2), "{}", typo.screen());
}

#[test]
fn what_a_footer_says_is_said_before_anything_is_copied_and_of_the_users_file() {
    let place = on("text");
    two(&place);
    for (key, what) in [
        ("tokenizer.text_column=txt", "text/a.parquet has no column `txt`"),
        ("pack.text_column=score", "column `score` of"),
        ("pack.filter={min_score=1,score_column=\"id\"}", "column `id` of"),
    ] {
        for args in [&["--set", key][..], &["--plan", "--set", key]] {
            let refused = place.go(args);
            assert_eq!(refused.code, Some(2), "{key}: {}", refused.screen());
            let all = format!("{}{}", refused.stdout, refused.stderr);
            assert!(all.contains(what) && all.contains("text/a.parquet"), "{}", refused.screen());
            assert!(!place.path("store").exists(), "something was copied");
        }
    }
    for bytes in [&b"Once upon a time"[..], b"", b"PAR1 cut off"] {
        fs::write(place.path("text/c.parquet"), bytes).unwrap();
        for args in [&[][..], &["--plan"]] {
            let refused = place.go(args);
            assert_eq!(refused.code, Some(2), "{}", refused.screen());
            let all = format!("{}{}", refused.stdout, refused.stderr);
            assert!(all.contains("text/c.parquet"), "{}", refused.screen());
            assert!(!place.path("store").exists(), "something was copied");
        }
    }
}

#[test]
fn damage_that_only_reading_finds_is_named_by_the_users_file() {
    let place = on("text");
    two(&place);
    let path = place.path("text/a.parquet");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle..middle + 400].fill(0xFF);
    fs::write(&path, bytes).unwrap();
    let failed = place.go(&["--until", "pack"]);
    assert_eq!(failed.code, Some(1), "{}", failed.screen());
    assert!(failed.stderr.contains("text/a.parquet: its copy in the store"), "{}", failed.screen());
    assert!(failed.stderr.contains("row group"), "{}", failed.screen());
}

#[test]
fn a_plan_without_a_store_reads_no_source() {
    let place = on("text");
    two(&place);
    let plan = place.done(&["--plan"]);
    let line = plan.stdout.lines().find(|l| l.trim_start().starts_with("fetch ")).unwrap();
    assert!(line.contains("will run") && line.ends_with("never run"), "{line}");
    assert_eq!(line.split_whitespace().count(), 6, "a key takes reading: {line}");
    assert!(!place.path("store").exists());
    place.done(&["--until", "pack"]);
    assert!(place.done(&["--plan", "--until", "pack"]).stdout.contains("3 cached"));
}

#[test]
fn small_text_gives_a_small_vocabulary_and_says_so() {
    let place = on("text");
    two(&place);
    let run = place.done(&["--until", "pack", "--set", "tokenizer.vocab_size=60000"]);
    assert!(run.stderr.contains("entries, 60,000 were asked for"), "{}", run.screen());
}

#[test]
fn values_of_the_environment_are_text_where_text_is_wanted() {
    let place = on("text/${env:DAY}/*.parquet");
    write(&place, &["text/2024-05-01/a.parquet", "text/2024-05-01/b.parquet"]);
    let with = |args: &[&str], vars: &[(&str, &str)]| {
        let all: Vec<&str> = ["p.toml"].iter().chain(args).copied().collect();
        let output = place.output(place.spawn_with(&all, vars));
        assert_eq!(output.code, Some(0), "{}", output.screen());
        output.stdout
    };
    let day = [("DAY", "2024-05-01")];
    assert!(with(&["--plan"], &day).contains("text/2024-05-01/b.parquet"));
    write(&place, &["1_000/a.parquet", "1_000/b.parquet", "0x10/a.parquet", "0x10/b.parquet"]);
    write(&place, &["1e5/a.parquet", "1e5/b.parquet", "12:30:00/a.parquet", "12:30:00/b.parquet"]);
    write(&place, &["true/a.parquet", "true/b.parquet", "007/a.parquet", "007/b.parquet"]);
    for name in ["1_000", "0x10", "1e5", "12:30:00", "true", "007", "2024-05-01"] {
        if name == "2024-05-01" {
            fs::rename(place.path("text/2024-05-01"), place.path(name)).unwrap();
        }
        let vars = [("DAY", "x"), ("NAME", name)];
        // Alone, and inside of a longer string.
        for source in ["\"${env:NAME}\"", "\"./${env:NAME}/*.parquet\""] {
            let set = format!("fetch.source={source}");
            let plan = with(&["--plan", "--set", &set], &vars);
            assert!(plan.contains(&format!("{name}/b.parquet")), "{plan}");
        }
    }
    // A number stays one where a number is wanted.
    let vars = [("DAY", "x"), ("NAME", "007"), ("V", "300")];
    with(
        &["--plan", "--set", "tokenizer.vocab_size=\"${env:V}\"", "--set", "fetch.source=\"007\""],
        &vars,
    );
    // Vars of the file, and names that look like numbers.
    let text = fs::read_to_string(place.path("p.toml")).unwrap();
    place.file(&format!("{text}\n[vars]\nday = 2024-05-01\n"));
    for source in ["\"${day}\"", "\"${day}/*.parquet\""] {
        let set = format!("fetch.source={source}");
        assert!(with(&["--plan", "--set", &set], &day).contains("2024-05-01/b.parquet"));
        let set_var = "vars.day=2024-05-01";
        assert!(with(&["--plan", "--set", set_var, "--set", &set], &day).contains("2024-05-01/b"));
    }
    let title = with(
        &["--plan", "--set", "report.title=\"${env:JOB}\"", "--set", "fetch.source=\"007\""],
        &[("DAY", "2024-05-01"), ("JOB", "4711")],
    );
    assert!(title.contains("report"), "{title}");
}

#[test]
fn pipelines_in_other_encodings_are_named() {
    let place = Place::new();
    let text = NANO.replace("[pipeline]", "# für mich\n[pipeline]");
    let write = |bytes: &[u8]| fs::write(place.path("p.toml"), bytes).unwrap();
    let utf16 = |mark: &str| -> Vec<u8> {
        format!("{mark}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let refused = |what: &str| {
        let output = place.go(&["--plan"]);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        assert!(output.stderr.contains(what), "{}", output.screen());
        assert!(output.stderr.contains("hint: save it as UTF-8"), "{}", output.screen());
    };
    write(&utf16("\u{feff}"));
    refused("encoded as UTF-16");
    write(&utf16(""));
    refused("encoded as UTF-16");
    let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
    write(&latin);
    refused("line 1, column 4 has the byte 0xFC");
    // With a mark, as some editors write it, it is UTF-8 all the same.
    write(format!("\u{feff}{text}").as_bytes());
    place.done(&["--plan"]);
}

#[test]
fn faults_are_coloured_only_where_that_is_welcome() {
    let place = Place::new();
    place.edit("vocab_size", "vocab_sise");
    let coloured = |vars: &[(&str, &str)]| {
        let output = place.output(place.spawn_with(&["p.toml"], vars));
        assert_eq!(output.code, Some(2));
        output.stderr.contains("\u{1b}[")
    };
    assert!(!coloured(&[]), "it is no terminal");
    assert!(coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert!(!coloured(&[("TERM", "dumb")]));
}

#[test]
fn no_threads_are_refused_with_a_reason() {
    let place = Place::new();
    for args in [["--threads", "0"], ["--threads", "all"], ["--threads", ""]] {
        let output = place.go(&args);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        assert!(output.stderr.contains("every core"), "{}", output.screen());
    }
    place.edit("exec   = { checkpoint_every_s = 0.2 }", "resources = { threads = 0 }");
    let output = place.go(&[]);
    assert!(output.stderr.contains("`threads = 0`, expected at least 1"), "{}", output.screen());
}

#[test]
fn the_home_folder_is_understood() {
    let place = on("~/text");
    two(&place);
    let home = place.path("").to_str().unwrap().to_owned();
    for source in ["~/text", "~/text/*.parquet", "~/te*/a.parquet"] {
        let set = format!("fetch.source='{source}'");
        let vars = [("HOME", home.as_str())];
        let plan = place.output(place.spawn_with(&["p.toml", "--plan", "--set", &set], &vars));
        assert_eq!(plan.code, Some(0), "{}", plan.screen());
        assert!(plan.stdout.contains("held out"), "{}", plan.screen());
    }
    assert!(Path::new(&home).join("text").is_dir());
}

#[cfg(target_os = "linux")]
#[test]
fn screens_that_cannot_be_written_are_no_success() {
    let place = on("text");
    two(&place);
    for args in [&["p.toml", "--plan"][..], &["p.toml", "--graph", "dot"], &["list"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_runner"))
            .args(args)
            .current_dir(place.path(""))
            .stdout(fs::File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("cannot write to standard output: No space left"), "{error}");
    }
}

#[test]
fn text_that_does_not_fill_a_row_is_named_by_the_users_file() {
    let place = on("text");
    two(&place);
    let failed = place.go(&["--until", "pack", "--set", "pack.row_tokens=1000000"]);
    assert_eq!(failed.code, Some(1), "{}", failed.screen());
    assert!(failed.stderr.contains("do not fill one row of 1000001"), "{}", failed.screen());
    assert!(failed.stderr.contains("text/a.parquet"), "{}", failed.screen());
    // Parts of it are said to be parts.
    write(&place, &["text/a.parquet", "text/b.parquet", "text/c.parquet"]);
    let failed = place.go(&["--until", "pack", "--set", "pack.row_tokens=1000000"]);
    assert!(failed.stderr.contains("text/a.parquet"), "{}", failed.screen());
    assert!(failed.stderr.contains(" and 1 more"), "{}", failed.screen());
}
