//! A metrics file as TensorBoard reads it: each number of a record that has a step is a point of the curve `record/name`. The format is TensorFlow's: a file of
//! length-prefixed records with checksums, each a message `Event` of Protocol Buffers, of which a few fields are needed.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// The event file of a metrics file: beside it, with a name that TensorBoard looks for.
pub(super) fn path(metrics: &Path) -> PathBuf {
    let port = metrics.file_stem().unwrap_or_default().to_string_lossy();
    metrics.with_file_name(format!("events.out.tfevents.{port}"))
}

/// Appends to an event file.
pub(super) struct Events {
    file: File,
}

impl Events {
    /// Starts a file afresh.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut events = Self { file: File::create(path)? };
        let mut first = Vec::new();
        double(&mut first, WALL_TIME, now());
        bytes(&mut first, FILE_VERSION, b"brain.Event:2");
        events.record(&first)?;
        Ok(events)
    }

    /// Adds the numbers of a line of a metrics file, if it is a record with a step.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let Ok(Value::Object(record)) = serde_json::from_slice(line) else { return Ok(()) };
        let Some(step) = record.get("step").and_then(Value::as_u64) else { return Ok(()) };
        let kind = record.get("record").and_then(Value::as_str);
        let mut summary = Vec::new();
        for (name, value) in record.iter().filter(|(name, _)| *name != "step") {
            let Some(number) = value.as_f64() else { continue };
            let tag = kind.map_or_else(|| name.clone(), |kind| format!("{kind}/{name}"));
            let mut point = Vec::new();
            bytes(&mut point, TAG, tag.as_bytes());
            key(&mut point, SIMPLE_VALUE, 5);
            point.extend((number as f32).to_le_bytes());
            bytes(&mut summary, VALUE, &point);
        }
        if summary.is_empty() {
            return Ok(());
        }
        let mut event = Vec::new();
        double(&mut event, WALL_TIME, now());
        key(&mut event, STEP, 0);
        varint(&mut event, step);
        bytes(&mut event, SUMMARY, &summary);
        self.record(&event)
    }

    /// A length, its checksum, the bytes and theirs, in one write.
    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] =
            [&length, &masked(&length).to_le_bytes(), data, &masked(data).to_le_bytes()];
        self.file.write_all(&parts.concat())
    }
}

// Field numbers of `Event`, `Summary` and `Summary.Value`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;

/// A checksum as the format has it: turned and moved, so that a checksum of data with a checksum in it is no special case.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A field's number and how it is encoded.
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn double(out: &mut Vec<u8>, field: u64, x: f64) {
    key(out, field, 1);
    out.extend(x.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
    key(out, field, 2);
    varint(out, data.len() as u64);
    out.extend(data);
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a file of records, once their checksums agree.
    fn parts(mut file: &[u8]) -> Vec<&[u8]> {
        let mut parts = Vec::new();
        while !file.is_empty() {
            let (length, rest) = file.split_at(8);
            let n = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(rest[..4], masked(length).to_le_bytes());
            let (data, rest) = rest[4..].split_at(n);
            assert_eq!(rest[..4], masked(data).to_le_bytes());
            parts.push(data);
            file = &rest[4..];
        }
        parts
    }

    #[test]
    fn numbers_of_records_with_a_step_are_points() {
        // RFC 3720, B.4: the CRC32C of 32 zeros is 8a9136aa.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir.path().join("metrics.jsonl"));
        assert!(path.ends_with("events.out.tfevents.metrics"));
        let mut events = Events::create(&path).unwrap();
        for line in [
            r#"{"record":"step","step":300,"loss":0.5,"note":"text"}"#,
            r#"{"record":"run","model":{"depth":4}}"#,
            r#"{"letters":2.0,"step":0}"#,
            "not a record",
        ] {
            events.line(line.as_bytes()).unwrap();
        }
        let file = std::fs::read(&path).unwrap();
        let parts = parts(&file);
        assert_eq!(parts.len(), 3);
        assert!(parts[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // Step 300 is the varint ac 02; a value of 0.5 is 0000003f.
        assert_eq!(&parts[1][9..], b"\x10\xac\x02\x2a\x12\x0a\x10\x0a\x09step/loss\x15\0\0\0\x3f");
        assert_eq!(&parts[2][9..], b"\x10\x00\x2a\x10\x0a\x0e\x0a\x07letters\x15\0\0\0\x40");
    }
}
