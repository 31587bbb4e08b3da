//! The dial against nanochat's own: every depth from 4 to 32 in both settings, with the figures that its training script
//! computes and prints.

#[path = "../examples/depth_table/rows.rs"]
mod rows;

use farthing_optim::OptimPreset;
use serde_json::Value;

/// Python's `{:e}`: six decimals, an exponent with a sign and two digits.
fn python_e(x: f64) -> String {
    let text = format!("{x:.6e}");
    let (digits, exponent) = text.split_once('e').unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Python's `{:,}`.
fn commas(n: u64) -> String {
    let digits = n.to_string();
    let pieces: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|p| std::str::from_utf8(p).unwrap()).collect();
    pieces.join(",")
}

#[test]
fn every_figure_is_nanochats() {
    let golden: Value = serde_json::from_str(include_str!("golden/depths.json")).unwrap();
    for (setting, preset) in
        [("january", OptimPreset::January2026), ("july", OptimPreset::July2026)]
    {
        let (mut whole, mut printed, mut equal, mut unequal, mut furthest) = (0, 0, 0, 0, 0.0);
        for depth in 4..=32 {
            let theirs = &golden[setting]["depths"][depth.to_string()];
            let ours = rows::row(preset, depth).unwrap();
            let at = |what: &str| format!("{setting} d{depth}: {what}");
            let mut same = |what: &str, ours: u64, theirs: &Value| {
                assert_eq!(Some(ours), theirs.as_u64(), "{}", at(what));
                whole += 1;
            };
            same("channels", ours.model.model_dim as u64, &theirs["channels"]);
            same("heads", ours.model.heads as u64, &theirs["heads"]);
            same("scaling_params", ours.scaling_params(), &theirs["scaling_params"]);
            same("tokens", ours.plan.tokens, &theirs["tokens"]);
            same("batch_tokens", ours.plan.batch_tokens, &theirs["batch_tokens"]);
            same("steps", ours.plan.steps, &theirs["steps"]);
            same("flops", ours.model.flops_per_token() as u64, &theirs["flops_per_token"]);
            same("parameters", ours.elements(), &theirs["parameters"]["total"]);
            let groups = theirs["groups"].as_object().unwrap();
            assert_eq!(ours.groups.len(), groups.len(), "{}", at("groups"));
            for group in &ours.groups {
                let theirs = &groups[&group.name];
                same(&group.name, group.elements, &theirs["elements"]);
                same(&group.name, group.parameters as u64, &theirs["tensors"]);
                // Products of the same factors in another order: the last place may differ.
                for (ours, key) in [(group.lr, "lr"), (group.weight_decay, "weight_decay")] {
                    let theirs = theirs[key].as_f64().unwrap();
                    let error = (ours - theirs).abs() / theirs.abs().max(f64::MIN_POSITIVE);
                    assert!(error < 1e-15, "{} {key}: {ours}, not {theirs}", at(&group.name));
                    *(if ours == theirs { &mut equal } else { &mut unequal }) += 1;
                    furthest = error.max(furthest);
                }
            }
            let flops = ours.model.flops_per_token();
            let tokens = ours.plan.trained_tokens();
            let lines = [
                ("Total number of training tokens", commas(tokens)),
                ("Estimated FLOPs per token", python_e(flops)),
                ("Total training FLOPs estimate", python_e(flops * tokens as f64)),
                (
                    "Tokens : Scaling params ratio",
                    format!("{:.2}", tokens as f64 / ours.scaling_params() as f64),
                ),
            ];
            for (what, ours) in lines {
                assert_eq!(Some(ours.as_str()), theirs["printed"][what].as_str(), "{}", at(what));
                printed += 1;
            }
        }
        println!("{setting}: {}", golden[setting]["origin"].as_str().unwrap());
        println!("  d4 … d32: {whole} whole numbers and {printed} printed lines, no difference");
        println!(
            "  {equal} rates and weight decays equal to the last bit, {unequal} within {furthest:.1e} of theirs"
        );
    }
}
