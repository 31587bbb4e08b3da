//! Which parameter goes to which group: the recipe's table, overriding, and what is refused.

use std::collections::BTreeMap;

use farthing_base::Hint;
use farthing_kernels::{ParamId, Shape, SlabSpec};
use farthing_optim::{
    Error, Group, GroupKeys, Listed, OptimPreset, Origin, Overrides, Registry, Result, Scale, Size,
    merge, resolve, summarize,
};
use proptest::prelude::*;

/// Names and shapes of the recipe's model at depth 4 (C 256, 2 heads, value embeddings in layers 1 and 3).
fn model(smear: bool) -> Vec<(String, Shape)> {
    let mut list = vec![("transformer.wte.weight".to_owned(), Shape::from([1024, 256]))];
    for i in 0..4 {
        let mut add = |name: &str, shape: [usize; 2]| {
            list.push((format!("transformer.h.{i}.{name}.weight"), shape.into()));
        };
        for name in ["attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj"] {
            add(name, [256, 256]);
        }
        if i % 2 == 1 {
            add("attn.ve_gate", [2, 12]);
        }
        add("mlp.c_fc", [1024, 256]);
        add("mlp.c_proj", [256, 1024]);
    }
    list.push(("lm_head.weight".into(), [1024, 256].into()));
    list.push(("resid_lambdas".into(), [4].into()));
    list.push(("x0_lambdas".into(), [4].into()));
    for i in [1, 3] {
        list.push((format!("value_embeds.{i}.weight"), [1024, 256].into()));
    }
    if smear {
        list.push(("smear_gate.weight".into(), [1, 24].into()));
        list.push(("smear_lambda".into(), [1].into()));
        list.push(("backout_lambda".into(), [1].into()));
    }
    list
}

fn listed(model: &[(String, Shape)]) -> Vec<Listed<'_>> {
    model.iter().enumerate().map(|(i, (name, shape))| (&**name, *shape, ParamId(i))).collect()
}

fn file(json: &str) -> BTreeMap<String, GroupKeys> {
    serde_json::from_str(json).unwrap()
}

/// July's groups with a file's, resolved on the whole model.
fn resolved(json: &str) -> Result<Vec<SlabSpec>> {
    let groups = merge(OptimPreset::July2026.groups(), &file(json))?;
    resolve(&groups, &listed(&model(true)))
}

fn said<T>(result: Result<T>) -> String {
    result.map_or_else(|e| e.with_hint(), |_| "accepted".into())
}

/// "group (shape): names", without the common parts of names.
fn table(specs: &[SlabSpec]) -> Vec<String> {
    let short = |name: &String| name.replace("transformer.h.", "h.").replace(".weight", "");
    let line = |spec: &SlabSpec| {
        let names: Vec<String> = spec.names.iter().map(short).collect();
        format!("{} {}: {}", spec.group, spec.shape, names.join(" "))
    };
    specs.iter().map(line).collect()
}

#[test]
fn the_recipes_table() {
    let specs = resolved("{}").unwrap();
    assert_eq!(
        table(&specs),
        [
            "lm_head (1024, 256): lm_head",
            "wte (1024, 256): transformer.wte",
            "value_embeds (1024, 256): value_embeds.1 value_embeds.3",
            "resid_lambdas (4): resid_lambdas",
            "x0_lambdas (4): x0_lambdas",
            "smear (1, 24): smear_gate",
            "smear (1): smear_lambda backout_lambda",
            "matrices (256, 256): h.0.attn.c_q h.0.attn.c_k h.0.attn.c_v h.0.attn.c_proj \
             h.1.attn.c_q h.1.attn.c_k h.1.attn.c_v h.1.attn.c_proj \
             h.2.attn.c_q h.2.attn.c_k h.2.attn.c_v h.2.attn.c_proj \
             h.3.attn.c_q h.3.attn.c_k h.3.attn.c_v h.3.attn.c_proj",
            "matrices (1024, 256): h.0.mlp.c_fc h.1.mlp.c_fc h.2.mlp.c_fc h.3.mlp.c_fc",
            "matrices (256, 1024): h.0.mlp.c_proj h.1.mlp.c_proj h.2.mlp.c_proj h.3.mlp.c_proj",
            "matrices (2, 12): h.1.attn.ve_gate h.3.attn.ve_gate",
        ]
    );
    let ids: Vec<usize> = specs.iter().flat_map(|spec| &spec.params).map(|id| id.0).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..model(true).len()).collect::<Vec<_>>());
}

#[test]
fn slabs_do_not_depend_on_the_order_of_the_list() {
    let model = model(true);
    let groups = OptimPreset::July2026.groups();
    let mut reversed = listed(&model);
    reversed.reverse();
    assert_eq!(resolve(&groups, &reversed).unwrap(), resolve(&groups, &listed(&model)).unwrap());
}

#[test]
fn a_preset_group_whose_parameters_the_model_lacks_is_dropped() {
    let model = model(false);
    for preset in [OptimPreset::January2026, OptimPreset::July2026] {
        let specs = resolve(&preset.groups(), &listed(&model)).unwrap();
        assert!(specs.iter().all(|spec| spec.group != "smear"));
    }
}

#[test]
fn learning_rates_and_decays_of_both_settings() {
    // At C = 1536, batch 2,097,152: √(batch / 524,288) = 2, (C / 768)^-½ = √½; the table of the recipe by hand.
    let size = Size { scaling_params: 1, reference_scaling_params: 1, model_dim: 1536, depth: 24 };
    let given = Overrides { batch_tokens: Some(2_097_152), steps: Some(1) };
    let both = 2.0 * 0.5f64.sqrt();
    let model = model(true);
    for (preset, table) in [
        (
            OptimPreset::January2026,
            [
                ("lm_head", 0.004 * both, 0.0),
                ("wte", 0.3 * both, 0.0),
                ("value_embeds", 0.3 * both, 0.0),
                ("resid_lambdas", 0.005 * 2.0, 0.0),
                ("x0_lambdas", 0.5 * 2.0, 0.0),
                ("smear", 0.2, 0.0),
                ("matrices", 0.02 * 2.0, 0.2 * 0.25), // (12 / 24)²
            ],
        ),
        (
            OptimPreset::July2026,
            [
                ("lm_head", 0.008 * both, 0.01),
                ("wte", 0.3 * both, 0.001),
                ("value_embeds", 0.15 * both, 0.01),
                ("resid_lambdas", 0.005 * 2.0, 0.05),
                ("x0_lambdas", 0.5 * 2.0, 0.0),
                ("smear", 0.2, 0.0),
                ("matrices", 0.02 * 2.0, 0.28 * 2.0 / 12.0), // tokens: 12 against 12 at depth 12, see below
            ],
        ),
    ] {
        // A horizon twelve times that of depth 12, so that July's factor is 2 / 12.
        let size = Size { scaling_params: 12, ..size };
        let plan = preset.scaling().plan(&size, &given).unwrap();
        let groups = preset.groups();
        let specs = resolve(&groups, &listed(&model)).unwrap();
        let summary = summarize(&groups, &specs, &plan).unwrap();
        let got: Vec<_> = summary.iter().map(|s| (&*s.name, s.lr, s.weight_decay)).collect();
        for (got, expected) in got.iter().zip(table) {
            assert_eq!(got.0, expected.0);
            assert!((got.1 - expected.1).abs() < 1e-15, "{preset:?}: {got:?}, {expected:?}");
            assert!((got.2 - expected.2).abs() < 1e-15, "{preset:?}: {got:?}, {expected:?}");
        }
        assert_eq!(got.len(), table.len());
        let matrices = &summary[6];
        assert_eq!((matrices.parameters, matrices.elements), (26, 12 * 256 * 256 * 4 + 48));
    }
}

#[test]
fn betas_of_both_settings() {
    let betas = |preset: OptimPreset| -> Vec<(String, String)> {
        let groups = preset.groups().into_iter().filter(|g| g.uses == "adamw");
        groups.map(|g| (g.name, g.options["betas"].to_string())).collect()
    };
    let own = |pairs: [(&str, &str); 6]| {
        pairs.map(|(name, betas)| (name.to_owned(), betas.to_owned())).to_vec()
    };
    assert_eq!(
        betas(OptimPreset::January2026),
        own([
            ("lm_head", "[0.8,0.95]"),
            ("wte", "[0.8,0.95]"),
            ("value_embeds", "[0.8,0.95]"),
            ("resid_lambdas", "[0.8,0.95]"),
            ("x0_lambdas", "[0.96,0.95]"),
            ("smear", "[0.8,0.95]"),
        ])
    );
    assert_eq!(
        betas(OptimPreset::July2026),
        own([
            ("lm_head", "[0.8,0.96]"),
            ("wte", "[0.8,0.995]"),
            ("value_embeds", "[0.8,0.995]"),
            ("resid_lambdas", "[0.8,0.95]"),
            ("x0_lambdas", "[0.96,0.95]"),
            ("smear", "[0.8,0.95]"),
        ])
    );
    let registry = Registry::standard();
    for group in OptimPreset::ALL.iter().flat_map(|preset| preset.groups()) {
        registry.check(&group.uses, &group.options).unwrap();
        assert!(group.uses != "adamw" || group.options["eps"] == 1e-10);
    }
}

#[test]
fn a_file_overrides_single_fields() {
    let json = r#"{ "wte": { "lr": 0.1, "betas": [0.9, 0.9] }, "matrices": { "steps": 3, "scale": { "batch": false } } }"#;
    let preset = OptimPreset::July2026.groups();
    let groups = merge(preset.clone(), &file(json)).unwrap();
    let by_name = |groups: &[Group], name| groups.iter().find(|g| g.name == name).unwrap().clone();
    let wte = by_name(&groups, "wte");
    assert_eq!((wte.lr, wte.weight_decay, wte.origin), (0.1, 0.001, Origin::Adjusted));
    assert_eq!(wte.options["betas"].to_string(), "[0.9,0.9]");
    assert_eq!(wte.options["eps"], 1e-10);
    let matrices = by_name(&groups, "matrices");
    assert_eq!(matrices.scale, Scale { batch: false, width: false, weight_decay: true });
    assert_eq!((&matrices.options["steps"], &matrices.options["beta2"]), (&3.into(), &0.9.into()));
    assert_eq!(by_name(&groups, "lm_head"), by_name(&preset, "lm_head"));
}

#[test]
fn groups_are_checked_and_completed_without_a_device() {
    let registry = Registry::standard();
    let with = |json: &str| registry.complete(merge(OptimPreset::July2026.groups(), &file(json))?);
    let other_order = r#"{ "wte": { "eps": 1e-10, "betas": [0.8, 0.995], "lr": 0.3 } }"#;
    let options = |groups: Vec<Group>| -> Vec<String> {
        groups.iter().map(|g| serde_json::to_string(&g.options).unwrap()).collect()
    };
    assert_eq!(options(with("{}").unwrap()), options(with(other_order).unwrap()));
    let all = with(r#"{ "rest": { "params": ["**"], "uses": "adamw", "lr": 1 } }"#).unwrap();
    assert_eq!(all[7].options["betas"].to_string(), "[0.8,0.95]", "defaults are written out");
    assert_eq!(
        said(with(r#"{ "matrices": { "stepps": 5 } }"#)),
        "group `matrices`: optimizer `normuon` has no key `stepps`\n\
         hint: did you mean `steps`? there are: \
         equilibrate, safety, steps, renormalize, variance_reduction, beta2, cautious"
    );
    assert_eq!(
        said(with(r#"{ "wte": { "uses": "adam", "lr": 1 } }"#)),
        "group `wte`: no optimizer is called `adam`\n\
         hint: did you mean `adamw`? there are: adamw, muon, normuon"
    );
    assert_eq!(
        said(with(r#"{ "matrices": { "beta2": 1 } }"#)),
        "group `matrices`: beta2 is 1\nhint: beta2 is at least 0 and below 1"
    );
}

#[test]
fn another_rule_keeps_the_patterns_and_none_of_the_numbers() {
    let groups = |json| merge(OptimPreset::July2026.groups(), &file(json));
    let changed = groups(r#"{ "matrices": { "uses": "adamw", "lr": 3e-4 } }"#).unwrap();
    let matrices = &changed[6];
    assert_eq!((matrices.lr, matrices.weight_decay), (3e-4, 0.0));
    assert!(matrices.options.is_empty());
    assert_eq!(*matrices.params, ["transformer.h.**"]);
    assert_eq!(
        said(groups(r#"{ "matrices": { "uses": "adamw" } }"#)),
        "group `matrices` has no `lr`\nhint: the preset's 0.02 was meant for `normuon`, not `adamw`"
    );
}

#[test]
fn what_a_file_matches_is_not_offered_to_the_preset() {
    let json = r#"{ "gates": { "params": ["**.ve_gate.weight"], "uses": "adamw", "lr": 0.01 } }"#;
    let specs = resolved(json).unwrap();
    let lines = table(&specs);
    assert_eq!(lines.last().unwrap(), "gates (2, 12): h.1.attn.ve_gate h.3.attn.ve_gate");
    assert_eq!(lines.iter().filter(|line| line.contains("ve_gate")).count(), 1);

    let all = r#"{ "all": { "params": ["**"], "uses": "adamw", "lr": 0.01 } }"#;
    assert!(resolved(all).unwrap().iter().all(|spec| spec.group == "all"));
}

#[test]
fn a_group_of_the_file_that_matches_nothing_is_refused() {
    assert_eq!(
        said(resolved(
            r#"{ "heads": { "params": ["lm_heads.weight"], "uses": "adamw", "lr": 1 } }"#
        )),
        "group `heads` matches no parameter (patterns: lm_heads.weight)\n\
         hint: did you mean `lm_head.weight`? the model has 35 parameters"
    );
    assert_eq!(
        said(resolved(
            r#"{ "moe": { "params": ["transformer.h.*.moe.**"], "uses": "adamw", "lr": 1 } }"#
        )),
        "group `moe` matches no parameter (patterns: transformer.h.*.moe.**)\n\
         hint: its patterns match none of the model's 35 parameters"
    );
    let groups =
        merge(OptimPreset::July2026.groups(), &file(r#"{ "smear": { "lr": 0.1 } }"#)).unwrap();
    assert_eq!(
        said(resolve(&groups, &listed(&model(false)))),
        "group `smear` matches no parameter (patterns: smear_gate.weight, smear_lambda, backout_lambda)\n\
         hint: the model as configured has no such parameter; remove the group from the file"
    );
    let drained = r#"{ "wte": { "lr": 0.1 },
                       "tables": { "params": ["*.wte.weight"], "uses": "adamw", "lr": 1 } }"#;
    assert_eq!(
        said(resolved(drained)),
        "group `wte` matches no parameter (patterns: transformer.wte.weight)\n\
         hint: all that it matches belongs to groups whose `params` the file writes: tables"
    );
}

#[test]
fn a_parameter_in_two_groups_or_none_is_refused() {
    let twice = r#"{ "a": { "params": ["*.wte.*"], "uses": "adamw", "lr": 1 },
                     "b": { "params": ["transformer.**"], "uses": "adamw", "lr": 1 } }"#;
    assert_eq!(
        said(resolved(twice)),
        "parameter transformer.wte.weight is matched by 2 groups: a, b\n\
         hint: narrow the patterns so that one group matches it"
    );
    let less = r#"{ "matrices": { "params": ["transformer.h.*.attn.**"] } }"#;
    assert_eq!(
        said(resolved(less)),
        "parameter transformer.h.0.mlp.c_fc.weight is matched by no group \
         (groups: lm_head, wte, value_embeds, resid_lambdas, x0_lambdas, smear, matrices)\n\
         hint: add a group whose `params` match it"
    );
}

#[test]
fn what_is_no_pattern_number_or_group_is_refused() {
    let with = |pattern: &str| {
        let keys = GroupKeys {
            params: Some(vec![pattern.to_owned()].into()),
            uses: Some("adamw".into()),
            lr: Some(1.0),
            ..GroupKeys::default()
        };
        let groups = merge(vec![], &BTreeMap::from([("g".to_owned(), keys)])).unwrap();
        said(resolve(&groups, &[("a.b", Shape::from([1]), ParamId(0))]))
    };
    let hint = "hint: `*` stands for anything within a segment between dots, `**` for any number of segments";
    for (pattern, what) in [
        ("a.[b", "unclosed character class; missing ']'"),
        ("a/b", "names are segments joined by dots"),
        ("", "names are segments joined by dots"),
        ("a.b**", "`**` must be a whole segment"),
    ] {
        assert_eq!(with(pattern), format!("group `g`: pattern `{pattern}`: {what}\n{hint}"));
    }
    assert_eq!(
        said(merge(vec![], &file(r#"{ "g": { "params": ["**"], "uses": "adamw", "lr": -1 } }"#))),
        "group `g`: lr is -1\nhint: a finite number, 0 or above"
    );
    assert_eq!(
        said(merge(vec![], &file(r#"{ "matrix": { "lr": 0.1 } }"#))),
        "group `matrix` has no `params`\n\
         hint: the preset has no group of this name, so it must say `params`, `uses` and `lr`; or correct the name"
    );
}

/// Segment by segment, as the documentation says it: `**` any number of segments, `*` any one.
fn matches(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=name.len()).any(|n| matches(rest, &name[n..])),
        ([p, rest @ ..], [n, others @ ..]) => (*p == "*" || p == n) && matches(rest, others),
        _ => false,
    }
}

proptest! {
    #[test]
    fn globs_follow_segments(
        pattern in prop::collection::vec(prop_oneof![Just("*"), Just("**"), Just("a"), Just("b_1")], 1..5),
        name in prop::collection::vec(prop_oneof![Just("a"), Just("b_1"), Just("c")], 1..6),
    ) {
        // A trailing `**` needs at least one segment, as `dir/**` does in a shell.
        let mut rule = pattern.clone();
        if rule.len() > 1 && rule.ends_with(&["**"]) {
            rule.push("*");
        }
        let keys = format!(r#"{{ "g": {{ "params": ["{}"], "uses": "adamw", "lr": 1 }} }}"#, pattern.join("."));
        let groups = merge(vec![], &file(&keys)).unwrap();
        let joined = name.join(".");
        let got = resolve(&groups, &[(joined.as_str(), Shape::from([1]), ParamId(0))]);
        match got {
            Ok(_) => prop_assert!(matches(&rule, &name), "{pattern:?} matched {name:?}"),
            Err(Error::Unmatched { .. }) => prop_assert!(!matches(&rule, &name), "{pattern:?} missed {name:?}"),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }
}
