//! What a run of the bundle's `run.sh` left in `summary.json`, and what it says of one kernel.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The part of the file that documents take up. What did not run is null there.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
    pub(super) date: String,
    /// The GPU's name.
    gpu: Option<String>,
    toy: bool,
    pub(super) command: String,
    pub(super) commit: String,
    conformance: Option<Bodies>,
    /// The same at real sizes.
    large: Option<Bodies>,
    same_bits: Option<SameBits>,
    pub(super) d24: Option<Step>,
    pub(super) ratio: Ratios,
}

#[derive(Debug, Deserialize)]
struct Bodies {
    bodies: Vec<Body>,
}

/// One operation's comparison with the reference.
#[derive(Debug, Deserialize)]
struct Body {
    name: String,
    /// Absent where it could not run.
    passed: Option<bool>,
    why: Option<String>,
    #[serde(default)]
    kernels: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct SameBits {
    kernels: Vec<Bits>,
}

/// One kernel's launches on the GPU and in the emulator.
#[derive(Debug, Deserialize)]
struct Bits {
    name: String,
    exact: bool,
    launches: u64,
    differ: u64,
}

/// A timed step.
#[derive(Debug, Deserialize)]
pub(super) struct Step {
    /// By the rows of the estimate on paper.
    pub(super) paper: Vec<Measured>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Measured {
    pub(super) row: String,
    pub(super) ms: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ratios {
    pub(super) d12: Ratio,
    pub(super) d24: Ratio,
}

/// Milliseconds of a micro-batch, ours and nanochat's, and the first over the second.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Ratio {
    pub(super) ours_ms: Option<f64>,
    pub(super) nanochat_bf16_ms: Option<f64>,
    pub(super) bf16: Option<f64>,
    pub(super) nanochat_fp8_ms: Option<f64>,
    pub(super) fp8: Option<f64>,
}

impl Summary {
    /// Reads the file's text; the GPU's name apart, since what has none enters no document.
    pub(super) fn parse(text: &str) -> Result<(Self, String)> {
        let summary: Self =
            serde_json::from_str(text).context("cannot read the results' summary.json")?;
        if summary.toy {
            bail!(
                "the results are of a toy run, which is no measurement\n  hint: ./run.sh RESULTS without --toy"
            );
        }
        match summary.gpu.clone() {
            Some(gpu) => Ok((summary, gpu)),
            None => bail!(
                "the results are of no GPU: nothing is entered\n  hint: ./run.sh RESULTS on a machine that has one"
            ),
        }
    }

    /// What a kernel passed, in the words of its row; `None` if nothing launched it.
    pub(super) fn verdict(&self, kernel: &str) -> Option<String> {
        let launched = |part: &Option<Bodies>| -> Vec<(String, bool, String)> {
            part.iter()
                .flat_map(|part| &part.bodies)
                .filter(|body| body.kernels.iter().any(|name| name == kernel))
                .filter_map(|body| {
                    let why = body.why.clone().unwrap_or_default();
                    Some((body.name.clone(), body.passed?, why))
                })
                .collect()
        };
        let (small, large) = (launched(&self.conformance), launched(&self.large));
        let failed = small.iter().chain(&large).find(|(_, passed, _)| !passed);
        let bits = self.same_bits.iter().flat_map(|part| &part.kernels).find(|b| b.name == kernel);
        let same = bits.is_some_and(|bits| bits.exact && bits.differ == 0);
        if let Some(Bits { differ, launches, .. }) = bits.filter(|bits| bits.exact && !same) {
            return Some(format!(
                "FAILED the emulator's bits, {differ} of {launches} launches differ"
            ));
        }
        match failed {
            // Another kernel's doing: this one computed what the emulator does.
            Some((body, ..)) if same => {
                return Some(format!("same bits ({body} failed, which launches it)"));
            }
            Some((body, _, why)) => return Some(format!("FAILED in {body}: {}", cell(why))),
            None => {}
        }
        let mut passed = Vec::new();
        if !small.is_empty() {
            passed.push("conformance");
        }
        if !large.is_empty() {
            passed.push("real sizes");
        }
        if same {
            passed.push("same bits");
        }
        match (passed.is_empty(), bits) {
            (true, None) => None,
            (true, Some(_)) => Some("launched, compared with nothing".to_owned()),
            // Approximate functions and matrix instructions: the bits may differ, conformance bounds by how much.
            (false, Some(bits)) if !bits.exact => {
                Some(format!("{} (approximate)", passed.join(", ")))
            }
            (false, _) => Some(passed.join(", ")),
        }
    }
}

/// Text that fits a table's cell.
fn cell(text: &str) -> String {
    let line = text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(120).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const SUMMARY: &str = r#"{
"date": "2026-12-01", "device": "cuda:0", "gpu": "NVIDIA H200", "toy": false, "command": "./run.sh out", "commit": "0123abc",
"parts": [{"name": "conformance", "result": "FAILED", "why": "x", "seconds": 3.1}],
"conformance": {"device": {"name": "cuda:0"}, "bodies": [
    {"name": "fill", "passed": true, "error": 0.0, "why": null, "kernels": ["fill", "cast"]},
    {"name": "mean", "passed": false, "error": 3.0, "why": "off by 3 | of\n 2", "kernels": ["mean", "cast"]},
    {"name": "norm", "passed": true, "error": 0.1, "why": null, "kernels": ["norm"]},
    {"name": "lost", "passed": null, "error": null, "why": "the context is lost", "kernels": ["gone"]}]},
"large": {"bodies": [{"name": "norm_2048", "passed": true, "why": null, "kernels": ["norm"]}]},
"same_bits": {"kernels": [
    {"name": "fill", "exact": true, "launches": 3, "differ": 0, "bytes": 0},
    {"name": "cast", "exact": true, "launches": 9, "differ": 0, "bytes": 0},
    {"name": "mean", "exact": false, "launches": 9, "differ": 9, "bytes": 90},
    {"name": "norm", "exact": false, "launches": 9, "differ": 2, "bytes": 8},
    {"name": "swap", "exact": true, "launches": 7, "differ": 2, "bytes": 8},
    {"name": "alone", "exact": false, "launches": 1, "differ": 0, "bytes": 0}]},
"d24": {"micro_ms": 400.5, "paper": [{"row": "head", "ms": 24.06}, {"row": "sum", "ms": 400.5}]},
"ratio": {"d12": {"ours_ms": 60, "nanochat_bf16_ms": null, "bf16": null, "nanochat_fp8_ms": null, "fp8": null},
          "d24": {"ours_ms": 400.5, "nanochat_bf16_ms": 400, "bf16": 1.0012, "nanochat_fp8_ms": 320, "fp8": 1.25}}}"#;

    #[test]
    fn each_kernel_answers_for_itself() {
        let (summary, gpu) = Summary::parse(SUMMARY).unwrap();
        assert_eq!(gpu, "NVIDIA H200");
        for (kernel, expected) in [
            ("fill", Some("conformance, same bits")),
            ("cast", Some("same bits (mean failed, which launches it)")),
            ("mean", Some("FAILED in mean: off by 3 / of 2")),
            ("norm", Some("conformance, real sizes (approximate)")),
            ("swap", Some("FAILED the emulator's bits, 2 of 7 launches differ")),
            ("alone", Some("launched, compared with nothing")),
            ("gone", None),
            ("never", None),
        ] {
            assert_eq!(summary.verdict(kernel).as_deref(), expected, "{kernel}");
        }
    }

    #[test]
    fn what_is_missing_is_null_and_costs_only_its_own() {
        let start = SUMMARY.find("\"large\"").unwrap();
        let end = SUMMARY.find("\"d24\": {\"micro").unwrap();
        let text = format!("{}\"same_bits\": null, {}", &SUMMARY[..start], &SUMMARY[end..]);
        let (summary, _) = Summary::parse(&text).unwrap();
        assert_eq!(summary.verdict("norm").as_deref(), Some("conformance"));
        assert_eq!(summary.verdict("cast").as_deref(), Some("FAILED in mean: off by 3 / of 2"));
        assert_eq!(summary.verdict("swap"), None);
    }

    #[test]
    fn a_toy_run_and_the_emulator_enter_nothing() {
        for (was, is) in [("\"toy\": false", "\"toy\": true"), ("\"NVIDIA H200\"", "null")] {
            let error = Summary::parse(&SUMMARY.replace(was, is)).unwrap_err().to_string();
            assert!(error.contains("hint: ./run.sh RESULTS"), "{error}");
        }
        assert!(Summary::parse("{\"date\": \"2026").is_err());
    }
}
