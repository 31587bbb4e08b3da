//! Faults of pipeline files and of the command line, each as its screen.

use insta::assert_snapshot;

use crate::harness::Place;

/// The screen of a file that must be refused.
fn refused(stages: &str, args: &[&str]) -> String {
    let output = Place::with(stages).go(args);
    assert_eq!(output.code, 2, "{}", output.screen());
    assert_eq!(output.stdout, "");
    output.screen()
}

const HI: &str = "[stage.hi]\nuses = \"write\"\ntext = \"hello\"\n";

#[test]
fn toml_syntax() {
    assert_snapshot!(refused("[stage.hi]\nuses = write\ntext = \"a\nlines = 2\nlines = 3\n", &[]));
}

#[test]
fn duplicates() {
    assert_snapshot!(refused(
        "[stage.hi]\nuses = \"write\"\ntext = \"a\"\ntext = \"b\"\n[stage.hi]\n",
        &[]
    ));
}

#[test]
fn unknown_keys_and_types_all_in_one_run() {
    assert_snapshot!(refused(
        "[stage.hi]\nuses = \"write\"\ntxet = \"a\"\nlines = \"3\"\n\n[stage.hi.style]\nuper = true\nweight = \"bold\"\n\n\
         [stage.lo]\nuses = \"write\"\nlines = 3\n\n[stage.slow]\nuses = \"slow\"\nsteps = -1\nexec = { sleep = 2 }\n",
        &[]
    ));
}

#[test]
fn unknown_tables() {
    assert_snapshot!(refused(&format!("{HI}[vasr]\na = 1\n[train]\n"), &[]));
}

#[test]
fn kinds_ports_and_stages() {
    assert_snapshot!(refused(
        &format!(
            "{HI}\n[stage.a]\nuses = \"wriet\"\n\n[stage.b]\nuses = \"trim\"\ninputs = {{ txt = \"hi.text\" }}\n\n\
             [stage.c]\nuses = \"trim\"\ninputs = {{ text = \"ho.text\" }}\n\n\
             [stage.d]\nuses = \"trim\"\ninputs = {{ text = \"hi.txt\" }}\n\n\
             [stage.e]\nuses = \"trim\"\n\n[stage.f]\nuses = \"trim\"\ninputs = {{ text = \"hi\" }}\n\n\
             [stage.g]\ntext = \"b\"\n\n[stage.h]\nuses = \"trim\"\ninputs = {{ text = 3 }}\nneeds = [\"hy\"]\n"
        ),
        &[]
    ));
}

#[test]
fn wrong_kind_of_port() {
    assert_snapshot!(refused(
        &format!(
            "{HI}\n[stage.slow]\nuses = \"slow\"\nsteps = 1\n\n[stage.count]\nuses = \"count\"\n\
             inputs = {{ text = \"slow.rows\", rows = \"slow.rows\" }}\n"
        ),
        &[]
    ));
}

#[test]
fn cycle_shows_its_path_beside_other_faults() {
    assert_snapshot!(refused(
        "[stage.a]\nuses = \"trim\"\ninputs = { text = \"c.text\" }\n\n[stage.b]\nuses = \"trim\"\n\
         inputs = { text = \"a.text\" }\n\n[stage.c]\nuses = \"trim\"\ninputs = { text = \"b.text\" }\nlimes = 3\n",
        &[]
    ));
}

#[test]
fn a_stage_that_needs_itself() {
    assert_snapshot!(refused(&format!("{HI}needs = [\"hi\"]\n"), &[]));
}

#[test]
fn reserved_keys_are_refused_and_not_ignored() {
    assert_snapshot!(refused(&format!("{HI}extends = \"x\"\n"), &[]));
}

#[test]
fn resources() {
    assert_snapshot!(refused(
        &format!(
            "{HI}resources = {{ device = \"cud\", gpu = 1 }}\n[stage.b]\nuses = \"write\"\ntext = \"\"\n\
             resources = {{ gpus = 2 }}\n"
        ),
        &[]
    ));
}

#[test]
fn expectations() {
    assert_snapshot!(refused(
        &format!(
            "{HI}[stage.n]\nuses = \"count\"\ninputs = {{ text = \"hi.text\" }}\n[stage.r]\nuses = \"report\"\n\
             inputs = {{ count = \"n.metrics\" }}\n[stage.r.expect]\n\"cuont.letters\" = {{ min = 1 }}\n\
             \"count.leters\" = {{ min = 1 }}\n\"count.letters\" = {{ least = 1 }}\nletters = {{ min = 1 }}\n\
             [stage.s]\nuses = \"report\"\ninputs = {{ count = \"n.metrics\" }}\n\
             expect = {{ \"count.letters\" = {{ min = 2, max = 1 }} }}\n"
        ),
        &[]
    ));
}

#[test]
fn vars() {
    assert_snapshot!(refused(
        "[vars]\ncontext = \"long\"\nloop = \"${pool}\"\npool = \"${loop}\"\nlist = [1]\n\n[stage.hi]\nuses = \"write\"\n\
         text = \"${contxt}\"\nlines = \"${context}\"\n\n[stage.b]\nuses = \"write\"\ntext = \"${env:FARTHING_NO_SUCH}\"\n\n\
         [stage.c]\nuses = \"write\"\ntext = \"${loop}\"\n\n[stage.d]\nuses = \"write\"\ntext = \"a ${list}\"\n\n\
         [stage.e]\nuses = \"write\"\ntext = \"${context\"\n",
        &[]
    ));
}

#[test]
fn a_stages_own_check() {
    assert_snapshot!(refused(
        &format!(
            "{HI}lines = 0\n[stage.hi.style]\nweight = inf\n[stage.ho]\nuses = \"write\"\ntext = \"\"\nlines = 0\n"
        ),
        &[]
    ));
}

#[test]
fn set() {
    let sets = [
        "hy.text=a",
        "hi.txt=a",
        "hi.lines=many",
        "vars.a=1",
        "pipeline.sed=1",
        "hi",
        "hi=3",
        "hi.=3",
        "hi.text=[1",
    ];
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    assert_snapshot!(refused(HI, &args));
}

#[test]
fn heading() {
    let place = Place::new();
    let screen = |text: &str| {
        std::fs::write(place.path("p.toml"), text).unwrap();
        place.go(&[]).screen()
    };
    assert_snapshot!("heading_missing", screen("[stage.hi]\nuses = \"write\"\ntext = \"\"\n"));
    assert_snapshot!(
        "heading_format",
        screen(
            "[pipeline]\nname = \"p\"\nformat = 2\nshape = 3\n[stage.hi]\nuses = \"write\"\ntext = \"\"\n"
        )
    );
    assert_snapshot!("heading_keys", screen("[pipeline]\nnaem = \"p\"\nseed = \"x\"\n"));
    assert_snapshot!(
        "heading_name",
        screen(
            "[pipeline]\nname = \"../p\"\nformat = 1\n[stage.\"a b\"]\nuses = \"write\"\ntext = \"\"\n[stage.vars]\nuses = \"write\"\ntext = \"\"\n"
        )
    );
}

#[test]
fn command_line() {
    let place = Place::with(HI);
    assert_snapshot!("missing_file", place.run(&["q.toml"]).screen());
    let absent = place.path("absent/p.toml");
    for (file, hint) in [
        ("p.tml", "did you mean `p.toml`?"),
        ("./p.tomll", "did you mean `./p.toml`?"),
        ("serv", "did you mean the command `serve`?"),
        ("pipeline.toml", "check the path"),
        (absent.to_str().unwrap(), "check the path"),
    ] {
        let screen = place.run(&[file]).screen();
        assert!(screen.contains(&format!("\nhint: {hint}\n")), "{file}: {screen}");
    }
    assert_snapshot!("unknown_flag", place.run(&["p.toml", "--plam"]).screen());
    assert_snapshot!("unknown_selection", place.run(&["p.toml", "--from", "ho"]).screen());
    assert_snapshot!("unknown_force", place.run(&["p.toml", "--force", "train"]).screen());
}

#[test]
fn a_cache_that_cannot_be_written() {
    let place = Place::with(HI);
    std::fs::write(place.path("file"), "").unwrap();
    assert_snapshot!("store_is_a_file", place.go(&["--store", "file"]).screen());
    assert_snapshot!("runs_is_a_file", place.go(&["--runs", "file"]).screen());
}
