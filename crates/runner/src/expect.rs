//! `expect`: bounds on the figures that a stage's inputs gave. Checked on every run, cached or not.

use anyhow::anyhow;

use crate::cache::Record;
use crate::grammar::{Expectation, Pipeline};
use crate::progress::format;
use crate::{Figure, Result};

/// Checks a stage's expectations.
///
/// # Errors
/// Each one that is not met, or whose figure is not there.
pub(crate) fn check(pipeline: &Pipeline, index: usize, outputs: &[Option<Record>]) -> Result<()> {
    let stage = &pipeline.stages[index];
    let mut missed = Vec::new();
    for expectation in &stage.expect {
        // All of those behind a port that takes many.
        for edge in stage.inputs.iter().filter(|e| e.port.name == expectation.port) {
            let summary = outputs[edge.from].as_ref().map_or(&[][..], |r| &r.summary);
            let missed_here = judge(expectation, summary);
            missed.extend(missed_here.map(|m| match &edge.variant {
                Some((_, label)) => format!("{label}: {m}"),
                None => m,
            }));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(anyhow!("{}", missed.join("\n"))) }
}

/// Why an expectation is not met.
fn judge(expectation: &Expectation, summary: &[(String, Figure)]) -> Option<String> {
    let Expectation { port, figure, min, max } = expectation;
    let name = format!("expect \"{port}.{figure}\"");
    let Some((_, found)) = summary.iter().find(|(key, _)| key == figure) else {
        let known: Vec<&str> = summary.iter().map(|(key, _)| key.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Some(format!("{name}: there is no such figure; the figures are: {known}"));
    };
    let Some(x) = found.number() else {
        return Some(format!("{name}: `{found}` is not a number"));
    };
    // A NaN meets no bound.
    let above = min.is_none_or(|min| x >= min);
    let below = max.is_none_or(|max| x <= max);
    if above && below && !x.is_nan() {
        return None;
    }
    let bound = |word: &str, x: &Option<f64>| x.map(|x| format!("{word} {}", format::number(x)));
    let bounds: Vec<String> =
        [bound("at least", min), bound("at most", max)].into_iter().flatten().collect();
    Some(format!("{name}: got {}, expected {}", format::number(x), bounds.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let judge = |min, max, x: f64| {
            let expectation = Expectation { port: "p".into(), figure: "f".into(), min, max };
            judge(&expectation, &[("f".to_owned(), Figure::Number(x))])
        };
        assert_eq!(judge(Some(1.0), Some(2.0), 1.0), None);
        assert_eq!(judge(None, Some(2.0), 2.0), None);
        let missed = judge(Some(0.5), None, 0.25).unwrap();
        assert_eq!(missed, "expect \"p.f\": got 0.25, expected at least 0.5");
        assert!(judge(Some(0.5), None, f64::NAN).is_some());
    }
}
