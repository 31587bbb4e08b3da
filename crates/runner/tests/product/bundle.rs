//! `eval-core` without an input `tasks`: a bundle on the web is pinned and fetched once; a folder or a zip on this machine is read where
//! it is.

use std::fs;
use std::io::{Cursor, Write};

use zip::write::{SimpleFileOptions, ZipWriter};

use crate::harness::{Output, Place, json, json_lines};
use crate::server::Hub;

const NAME: &str = "eval_bundle.zip";

/// The lists and the items of a bundle with one task, in the published form.
fn files(items: usize) -> Vec<(&'static str, String)> {
    let item =
        |i| format!(r#"{{"query": "{i} plus 1 is", "choices": ["{}", "no"], "gold": 0}}"#, i + 1);
    let yaml = "icl_tasks:\n-\n  label: sums\n  dataset_uri: in/sums.jsonl\n  num_fewshot: [2]\n  icl_task_type: multiple_choice\n";
    vec![
        ("core.yaml", yaml.into()),
        ("eval_meta_data.csv", "Eval Task,Random baseline\nsums,50\nothers,25\n".into()),
        ("eval_data/in/sums.jsonl", (0..items).map(item).collect::<Vec<_>>().join("\n")),
    ]
}

fn packed(items: usize) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files(items) {
        zip.start_file(format!("eval_bundle/{name}"), SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A trained model whose pipeline reads `bundle`, and a server for it.
struct Far {
    place: Place,
    hub: Hub,
}

impl Far {
    fn new() -> Self {
        let far =
            Self { place: Place::until("train"), hub: Hub::start([(NAME.into(), packed(9))]) };
        far.place.edit(", tasks = \"fetch.tasks\"", "");
        let url = format!("max_per_task = 20\nbundle = \"{}/web/{NAME}\"", far.hub.cdn);
        far.place.edit("max_per_task = 20", &url);
        far
    }

    fn go(&self, args: &[&str], more: &[(&str, &str)]) -> Output {
        self.hub.heal();
        let caches = self.place.path("caches");
        let mut vars = vec![("XDG_CACHE_HOME", caches.to_str().unwrap())];
        vars.extend(more);
        let all: Vec<&str> = ["p.toml", "--until", "core"].iter().chain(args).copied().collect();
        self.place.output(self.place.spawn_with(&all, &vars))
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.place.path("p.lock")).unwrap_or_default()
    }

    /// Removes what evaluating left.
    fn forget(&self) {
        fs::remove_dir_all(self.place.entry("core")).unwrap();
    }
}

#[test]
fn a_bundle_on_the_web_is_pinned_and_fetched_once() {
    let far = Far::new();
    let plan = far.go(&["--plan"], &[]);
    assert_eq!(plan.code, Some(0), "{}", plan.screen());
    let line = "eval_bundle.zip: not pinned yet; the run downloads it and pins it in p.lock";
    assert!(plan.stdout.contains(line), "{}", plan.screen());
    let offline = [("HF_HUB_OFFLINE", "1")];
    let refused = far.go(&[], &offline);
    assert_eq!(refused.code, Some(2), "{}", refused.screen());
    assert!(refused.fault().contains("run once where there is a network"), "{}", refused.fault());
    assert_eq!(far.hub.log(), [], "a plan needs no network");

    let first = far.go(&[], &[]);
    assert_eq!(first.ran(), ["core"]);
    assert_eq!(far.hub.log().len(), 1, "{:?}", far.hub.log());
    assert!(first.stderr.contains("…, pinned in p.lock"), "{}", first.stderr);
    assert!(far.lock().contains(NAME) && far.lock().contains("sha256:"), "{}", far.lock());
    let results = far.place.last_run().join("stages/core");
    let table = fs::read_to_string(results.join("core.csv")).unwrap();
    let rows: Vec<&str> =
        table.lines().map(|line| line.split(',').next().unwrap().trim()).collect();
    assert_eq!(rows, ["Task", "sums", "CORE"]);
    let numbers = json(&results.join("core.json"));
    assert_eq!(numbers["core_metric"], numbers["centered_results"]["sums"]);
    let items = json_lines(&far.place.entry("core").join("items"));
    assert_eq!(items.len(), 9);
    for item in &items {
        assert_eq!((&item["task"], &item["gold"]), (&"sums".into(), &0.into()));
        let losses: Vec<f64> =
            item["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
        assert_eq!(item["correct"], losses[0] <= losses[1], "{item}");
    }

    // Again: nobody is asked, also where it changed on the server; and offline from the cache.
    far.hub.tamper(NAME, packed(8));
    assert!(far.go(&[], &[]).ran().is_empty());
    let plan = far.go(&["--plan"], &[]);
    assert!(plan.stdout.contains("; in the cache"), "{}", plan.screen());
    far.forget();
    assert_eq!(far.go(&[], &offline).ran(), ["core"]);
    assert_eq!(far.hub.log(), []);

    // Without the cache the change shows, and is refused.
    far.forget();
    fs::remove_dir_all(far.place.path("caches")).unwrap();
    let changed = far.go(&[], &[]);
    assert_eq!(changed.code, Some(1), "{}", changed.screen());
    let fault = changed.fault();
    assert!(fault.contains("is not what it should be: found "), "{fault}");
    assert!(fault.contains("remove its pin from the lock file"), "{fault}");
    fs::remove_file(far.place.path("p.lock")).unwrap();
    assert_eq!(far.go(&[], &[]).ran(), ["core"]);
    assert_eq!(json_lines(&far.place.entry("core").join("items")).len(), 8);
}

#[test]
fn what_is_no_bundle_is_not_pinned() {
    let far = Far::new();
    far.hub.tamper(NAME, b"<html>please log in</html>".to_vec());
    let output = far.go(&[], &[]);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    let fault = output.fault();
    assert!(
        fault.contains("it is no zip: it begins with \"<html>please log in</html>\""),
        "{fault}"
    );
    assert!(fault.contains("hint: look at the URL in a browser"), "{fault}");
    assert_eq!(far.lock(), "");
    far.hub.tamper(NAME, packed(9));
    assert_eq!(far.go(&[], &[]).ran(), ["core"]);
}

#[test]
fn a_folder_and_a_zip_here_are_read_and_watched() {
    let far = Far::new();
    let place = &far.place;
    let folder = place.path("mine");
    for (name, text) in files(9) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(place.path("mine.zip"), packed(9)).unwrap();
    let mine = ["--set", "core.bundle=mine"];
    let plan = far.go(&["--plan", mine[0], mine[1]], &[]);
    assert!(plan.stdout.contains("mine: 1 tasks"), "{}", plan.screen());
    assert_eq!(far.go(&mine, &[]).ran(), ["core"]);
    // Where it is does not matter, what it holds does.
    fs::rename(&folder, place.path("other")).unwrap();
    let other = ["--set", "core.bundle=other"];
    assert!(far.go(&other, &[]).ran().is_empty());
    let items = place.path("other/eval_data/in/sums.jsonl");
    fs::write(&items, files(7).pop().unwrap().1).unwrap();
    assert_eq!(far.go(&other, &[]).ran(), ["core"]);
    assert_eq!(far.go(&["--set", "core.bundle=mine.zip"], &[]).ran(), ["core"]);
    assert_eq!(far.hub.log(), []);
    assert_eq!(far.lock(), "", "what is here is not pinned");

    fs::remove_file(&items).unwrap();
    for (bundle, what) in [
        ("other", "sums.jsonl"),
        ("nowhere", "cannot read nowhere: No such file"),
        ("p.toml", "it is no zip: it begins with \"[pipeline]"),
        ("store", "there is no tasks.json and no core.yaml in it"),
        ("hf://datasets/a/b", "it is not the URL of one file"),
        ("http://example.org/b.zip", "from this machine alone"),
        ("''", "it is empty"),
    ] {
        let output = far.go(&["--set", &format!("core.bundle={bundle}")], &[]);
        assert_eq!(output.code, Some(2), "{bundle}: {}", output.screen());
        let fault = output.fault();
        assert!(fault.contains(what), "{bundle}: {fault}");
    }
    let both = far.go(&["--set", "core.inputs.tasks=fetch.tasks"], &[]);
    assert_eq!(both.code, Some(2), "{}", both.screen());
    assert!(both.fault().contains("the input `tasks` names tasks already"), "{}", both.fault());
}
