//! Writes metrics as JSON lines into a stage's output. Each record is appended as a whole line, so a kill loses at most the line being written, and a resumed stage can cut the file back to the step
//! of its checkpoint.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::Result;

/// Appends records to a metrics file.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    /// Starts an empty file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens the file and drops every record whose `step` is above `last_step`, together with a torn last line. A
    /// record without a step stays if the records before it do.
    pub(crate) fn resume(path: &Path, last_step: u64) -> Result<Self> {
        let about = || format!("resuming {}", path.display());
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(about)?;
        let keep = kept_bytes(&file, last_step).with_context(about)?;
        file.set_len(keep).with_context(about)?;
        file.seek(SeekFrom::End(0)).with_context(about)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one record, which must serialise to a JSON object; give it a `step` if the stage can be resumed.
    /// Numbers keep full precision.
    ///
    /// # Errors
    /// The record does not serialise, or the disk is full.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(record)
            .with_context(|| format!("a record for {} does not serialise", self.path.display()))?;
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("writing {}", self.path.display()))
    }
}

/// Bytes up to the first record past `last_step` or the first line that is not a whole record.
fn kept_bytes(file: &File, last_step: u64) -> std::io::Result<u64> {
    let mut reader = BufReader::new(file);
    let mut keep = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(keep);
        }
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(&line) else {
            return Ok(keep);
        };
        if record.get("step").and_then(serde_json::Value::as_u64).is_some_and(|s| s > last_step) {
            return Ok(keep);
        }
        keep += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_drops_later_steps_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        let mut metrics = Metrics::create(&path).unwrap();
        for step in 0..5u64 {
            metrics.write(&serde_json::json!({ "step": step, "loss": 0.1 + step as f64 })).unwrap();
        }
        metrics.file.write_all(b"{\"step\": 5, \"lo").unwrap();
        drop(metrics);

        let mut metrics = Metrics::resume(&path, 2).unwrap();
        metrics.write(&serde_json::json!({ "step": 3, "loss": 9.5 })).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<_> =
            text.lines().map(|l| l[l.find("step").unwrap() + 6..][..1].to_owned()).collect();
        assert_eq!(steps, ["0", "1", "2", "3"]);
        assert!(text.ends_with("9.5,\"step\":3}\n"), "{text}");
    }

    #[test]
    fn resume_of_nothing_starts_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        Metrics::resume(&path, 10).unwrap().write(&serde_json::json!({ "step": 0 })).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"step\":0}\n");
    }
}
