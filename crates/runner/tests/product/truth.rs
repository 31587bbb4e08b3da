//! A plan is the truth: what would refuse the run, the plan shows, all of it, and ends with the same code. A long plan stays readable, and seeds are an axis.

use crate::harness::{NANO, Place};

/// What a run is refused for before anything runs, a plan says too.
#[test]
fn a_plan_refuses_what_a_run_would() {
    for (args, said) in [
        (
            &["--set", "fetch.source='nope/*.parquet'"][..],
            "no file of text matches `nope/*.parquet`",
        ),
        (&["--from", "train", "--until", "bpb"], "which is left out and not in the cache"),
        (&["--only", "sample"], "`train.checkpoint`, which is left out and not in the cache"),
        (&["--set", "train.exec.checkpoint_every_s=-1"], "exec.checkpoint_every_s is -1"),
        (&["--set", "train.exec.micro_batch_rows=3"], "exec.micro_batch_rows is 3"),
        (&["--set", "train.resources={ranks=3}"], "which 3 ranks cannot share evenly"),
        (&["--set", "train.seq_len=32"], "a sequence of 32 tokens is shorter"),
        (&["--set", "core.bundle='no-such-folder'"], "no-such-folder"),
    ] {
        let text = NANO.replace(
            "world  = { train_shards = 1, documents_per_shard = 300, val_documents = 40 }\n",
            "",
        );
        let place = Place::new();
        if args.iter().any(|arg| arg.starts_with("fetch.source")) {
            place.file(&text);
        }
        if args.iter().any(|arg| arg.starts_with("core.bundle")) {
            place.edit(", tasks = \"fetch.tasks\" }", " }");
        }
        let run = place.go(args);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.screen());
        let plan = place.go(&[args, &["--plan"]].concat());
        assert_eq!(plan.code, Some(2), "{args:?}: {}", plan.screen());
        for screen in [&run.stderr, &plan.stdout] {
            assert!(screen.contains(said), "{args:?}: {said}: {}\n{}", run.screen(), plan.screen());
        }
        assert!(plan.stdout.contains("      cannot run: "), "{}", plan.screen());
        assert!(!place.path("store").exists());
    }
}

#[test]
fn all_of_it_is_said_and_a_machine_is_another_matter() {
    let place = Place::new();
    let sets = [
        "train.exec.checkpoint_every_s=-1",
        "core.max_per_task=3",
        "bpb.resources={device=\"cuda\"}",
        "sample.resources={device=\"cuda\"}",
    ];
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let plan = place.go(&[&args[..], &["--plan"]].concat());
    assert_eq!(plan.code, Some(2), "{}", plan.screen());
    assert_eq!(plan.stdout.matches("  cannot run: ").count(), 1, "{}", plan.screen());
    assert_eq!(plan.stdout.matches("this machine cannot run it: ").count(), 2, "{}", plan.screen());
    let run = place.go(&args);
    assert_eq!(run.stderr.matches("cannot run\n").count(), 3, "{}", run.screen());

    // Two of one stage, and the machine's lack beside them.
    let sets = [
        "train.exec.checkpoint_every_s=-1",
        "train.exec.micro_batch_rows=3",
        "train.resources={device=\"cuda\"}",
    ];
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    for args in [&[&args[..], &["--plan"]].concat()[..], &args] {
        let refused = place.go(args);
        assert_eq!(refused.code, Some(2), "{}", refused.screen());
        for said in ["checkpoint_every_s is -1", "micro_batch_rows is 3", "`device = \"cuda\"`"] {
            assert!(refused.screen().contains(said), "{said}: {}", refused.screen());
        }
    }

    let other = place.go(&["--set", "bpb.resources={device=\"cuda\"}", "--plan"]);
    assert_eq!(other.code, Some(0), "{}", other.screen());
    assert!(other.stdout.contains("this machine cannot run it: "), "{}", other.screen());
    assert_eq!(place.go(&["--set", "bpb.resources={device=\"cuda\"}"]).code, Some(2));
}

/// A matrix over the training, and nothing that reads it.
fn swept(matrix: &str, uses: &str) -> Place {
    let place = Place::new();
    let until = NANO.split("[stage.bpb]").next().unwrap();
    let at = "[stage.train.model]";
    place.file(&until.replace(at, &format!("{matrix}\n{uses}\n{at}")));
    place
}

#[test]
fn a_long_matrix_plans_in_a_line_for_each_variant() {
    let rates: Vec<String> = (1..=200).map(|i| format!("0.{i:04}")).collect();
    let matrix = format!("[stage.train.matrix]\nlr = [{}]", rates.join(", "));
    let place = swept(&matrix, "[stage.train.optim.matrices]\nlr = \"${lr}\"");
    let plan = place.done(&["--plan"]);
    let lines = plan.stdout.lines().count();
    assert!(lines < 300, "{lines} lines");
    let of = |text: &str| plan.stdout.lines().filter(|line| line.contains(text)).count();
    assert_eq!((of("  train@lr=0."), of("optim.matrices.lr 0.0001 → ")), (200, 199));
    assert!(plan.stdout.contains("199 variants in short; `--plan STAGE` shows one in full"));
    let priced = place.done(&["--plan", "--set", "pipeline.dollars_per_hour=3600000"]);
    let total = |output: &crate::harness::Output| {
        output.stdout.lines().find(|line| line.starts_with("total: about ")).unwrap().to_owned()
    };
    assert!(total(&plan).ends_with(" for 200 trainings"), "{}", total(&plan));
    assert!(total(&priced).contains(" for 200 trainings, $"), "{}", total(&priced));
    // One in full, by its name; the file may stand on either side.
    for args in
        [&["p.toml", "--plan", "train@lr=0.0007"][..], &["--plan", "train@lr=0.0007", "p.toml"]]
    {
        let one = place.run(args);
        assert_eq!(one.code, Some(0), "{}", one.screen());
        assert!(
            one.stdout.contains("FLOPs") && one.stdout.lines().count() < 40,
            "{}",
            one.screen()
        );
        assert_eq!(one.stdout.matches("train@lr").count(), 1, "{}", one.screen());
    }
    assert!(place.run(&["--plan", "p.toml", "--until", "pack"]).code == Some(0));
    let none = place.go(&["--plan", "trian"]);
    assert!(
        none.code == Some(2) && none.stderr.contains("did you mean `train`"),
        "{}",
        none.screen()
    );
}

#[test]
fn a_fault_of_one_variant_is_seen_among_many() {
    let place =
        swept("matrix = { rows = [1, 2, 3, 4] }\nexec = { micro_batch_rows = \"${rows}\" }", "");
    place.edit("exec   = { checkpoint_every_s = 0.2 }\n", "");
    let plan = place.go(&["--plan"]);
    assert_eq!(plan.code, Some(2), "{}", plan.screen());
    assert_eq!(plan.stdout.matches("exec.micro_batch_rows is 3, but a step has 8 rows").count(), 1);
}

#[test]
fn seeds_are_an_axis_and_a_key_of_any_stage_that_draws() {
    let place = swept("seed = \"${seed}\"\nmatrix = { seed = [1, 2] }", "");
    let plan = place.done(&["--plan"]);
    assert!(plan.stdout.contains("seed 1 → 2"), "{}", plan.screen());
    let run = place.done(&["--set", "train.schedule.steps=4"]);
    assert_eq!(run.ran(), ["fetch", "tokenizer", "pack", "train@seed=1", "train@seed=2"]);
    assert!(
        place
            .done(&["--set", "train.schedule.steps=4", "--set", "pipeline.seed=5"])
            .ran()
            .is_empty()
    );

    // The pipeline's seed, spelled out, is the same work; another one trains anew and nothing else.
    let place = Place::until("train");
    assert!(place.done(&["--until", "train", "--set", "train.seed=1337"]).ran().is_empty());
    let other = place.done(&["--until", "train", "--set", "train.seed=3"]);
    assert_eq!(other.ran(), ["train"]);
    assert_eq!(other.why("train"), "seed changed: 1337 → 3");
    for (set, said) in [
        ("pack.seed=3", "a seed changes nothing in `pack-bestfit`"),
        ("train.seed=-3", "expected a whole number, 0 or above"),
        ("train.seed=\"x\"", "`seed` is a string"),
    ] {
        let refused = place.go(&["--set", set]);
        assert!(refused.code == Some(2) && refused.stderr.contains(said), "{}", refused.screen());
    }
}
