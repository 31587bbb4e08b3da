//! The records of a training's metrics, one definition for who writes and who reads them. As JSON each has its kind under `record`. A number
//! that is not finite is written as null and read as nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line of the metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Record {
    /// What is about to be trained.
    Run(RunRecord),
    /// A step.
    Step(StepRecord),
    /// A look at held-out text.
    Eval(EvalRecord),
    /// The figures at the end.
    Final(FinalRecord),
    /// A kind that this version does not know.
    #[serde(other, skip_serializing)]
    Other,
}

/// What is trained, written before the first step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRecord {
    /// The keys of the run, as whoever started it has them.
    pub config: Value,
    /// The model as it was built, derived sizes included.
    pub model: Value,
    /// Parameters of each optimizer group.
    pub parameters: BTreeMap<String, u64>,
    /// Each optimizer group's learning rate, before the factor that a step has.
    pub lr: BTreeMap<String, f64>,
    /// What the first weights and the order of the rows follow from, if the caller says it.
    pub seed: Option<u64>,
    /// Tokens of all steps.
    pub tokens: Option<u64>,
    /// Steps of the run.
    pub steps: Option<u64>,
    /// Tokens of a step.
    pub batch_tokens: Option<u64>,
    /// FLOPs of a token, forward and backward.
    pub flops_per_token: Option<f64>,
}

/// One step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// The mean loss before the update, nats per token.
    pub loss: Option<f64>,
    /// ‖gradient‖ over all parameters.
    pub grad_norm: Option<f64>,
    /// The factor on all learning rates.
    pub lr: Option<f64>,
    /// Muon's momentum.
    pub momentum: Option<f64>,
    /// The factor on all weight decays.
    pub weight_decay: Option<f64>,
    /// Tokens seen since the first step.
    pub tokens: Option<u64>,
    /// The rate of this step.
    pub tokens_per_s: Option<f64>,
    /// Seconds since the first step, over all attempts, evaluations included.
    pub seconds: Option<f64>,
}

/// One look at held-out text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Steps done.
    pub step: u64,
    /// Bits per byte.
    pub val_bpb: Option<f64>,
    /// Nats per token.
    pub val_loss: Option<f64>,
}

/// The figures at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FinalRecord {
    /// Steps done.
    pub step: Option<u64>,
    /// The last step's loss, nats per token.
    pub loss: Option<f64>,
    /// Bits per byte before the first step.
    pub bpb_start: Option<f64>,
    /// Bits per byte after the last.
    pub bpb_end: Option<f64>,
    /// Tokens trained on.
    pub tokens: Option<u64>,
    /// The mean rate inside steps.
    pub tokens_per_s: Option<f64>,
    /// Seconds inside steps.
    #[serde(alias = "seconds")]
    pub train_seconds: Option<f64>,
    /// Weights, gradients, optimizer state and a micro-batch's activations.
    pub memory_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let step =
            StepRecord { step: 3, loss: Some(2.5), tokens: Some(96), ..StepRecord::default() };
        for record in [
            Record::Run(RunRecord { steps: Some(7), ..RunRecord::default() }),
            Record::Step(step),
            Record::Eval(EvalRecord { step: 3, val_bpb: Some(1.25), val_loss: None }),
            Record::Final(FinalRecord { memory_bytes: Some(1 << 40), ..FinalRecord::default() }),
        ] {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
        }
    }

    #[test]
    fn a_gap_and_an_unknown_kind_are_read() {
        let nan =
            Record::Step(StepRecord { step: 1, loss: Some(f64::NAN), ..StepRecord::default() });
        let line = serde_json::to_string(&nan).unwrap();
        assert!(line.starts_with(r#"{"record":"step","step":1,"loss":null,"#), "{line}");
        let read = serde_json::from_str::<Record>(&line).unwrap();
        assert!(matches!(read, Record::Step(StepRecord { step: 1, loss: None, .. })));
        let new = serde_json::from_str::<Record>(r#"{"record":"gradients","x":1}"#).unwrap();
        assert_eq!(new, Record::Other);
    }
}
