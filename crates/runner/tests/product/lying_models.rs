//! A model whose file lies about itself, or is no number, stops whoever reads it, within little memory.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Place, json as read_json};
use crate::hostile::{GIGABYTES_4, within};

/// Replaces what a record says of a file's size, after somebody changed the file.
fn admit(entry: &Path, port: &str, name: &str) {
    let path = entry.join("stage.json");
    let mut record = read_json(&path);
    for file in record["outputs"][port]["files"].as_array_mut().unwrap() {
        if file["path"] == name {
            file["bytes"] = fs::metadata(entry.join(port).join(name)).unwrap().len().into();
        }
    }
    fs::write(path, record.to_string()).unwrap();
}

/// A model's file after a change of its header and its data, whole again.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let bytes = fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let mut data = bytes[8 + n..].to_vec();
    change(&mut header, &mut data);
    let mut json = header.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let new = [&(json.len() as u64).to_le_bytes()[..], &json, &data].concat();
    fs::write(path, sealed(new)).unwrap();
}

/// A model's bytes with the checksum that they have now, if there is room for one.
pub(crate) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mark = b"\"farthing.blake3\":\"";
    let at = bytes
        .windows(mark.len())
        .position(|w| w == mark)
        .map_or(usize::MAX / 2, |at| at + mark.len());
    if at + 64 <= bytes.len() {
        bytes[at..at + 64].fill(b'0');
        let digest = blake3::hash(&bytes).to_hex();
        bytes[at..at + 64].copy_from_slice(digest.as_bytes());
    }
    bytes
}

type Change = Box<dyn FnOnce(&mut Value, &mut Vec<u8>)>;

#[test]
fn a_model_that_lies_or_is_no_number_stops_whoever_reads_it() {
    let place = Place::until("train");
    let text = fs::read_to_string(place.path("p.toml")).unwrap();
    place.file(&format!("{text}\n[stage.export]\nuses = \"export-model\"\ninputs = {{ model = \"train.checkpoint\", bpe = \"tokenizer.bpe\" }}\n"));
    let entry = place.entry("train");
    let path = entry.join("checkpoint/model.safetensors");
    let good = fs::read(&path).unwrap();
    let stages = ["bpb", "core", "sample", "export"];
    let config = |key: &'static str, value: Value| {
        move |header: &mut Value, _: &mut Vec<u8>| {
            let text = header["__metadata__"]["farthing.config"].as_str().unwrap().to_owned();
            let mut config: Value = serde_json::from_str(&text).unwrap();
            config[key] = value;
            header["__metadata__"]["farthing.config"] = config.to_string().into();
        }
    };
    let fill = |value: f32| {
        move |_: &mut Value, data: &mut Vec<u8>| {
            for element in data.chunks_exact_mut(4) {
                element.copy_from_slice(&value.to_le_bytes());
            }
        }
    };
    let changes: Vec<(Change, &str)> = vec![
        (Box::new(fill(f32::NAN)), "is NaN"),
        (Box::new(fill(f32::NEG_INFINITY)), "is -inf"),
        (
            Box::new(|_, data| {
                let n = data.len();
                data[n - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
            }),
            "is inf",
        ),
        (Box::new(config("heads", json!(1 << 20))), "has shape"),
        (Box::new(config("vocab_size", json!(1 << 30))), "has shape"),
        (Box::new(config("depth", json!(1 << 20))), "1048576 layers"),
    ];
    for (change, what) in changes {
        fs::write(&path, &good).unwrap();
        rewrite(&path, change);
        admit(&entry, "checkpoint", "model.safetensors");
        for stage in stages {
            let output = within(&place, GIGABYTES_4, &["--only", stage, "--threads", "2"]);
            assert_eq!(output.code, Some(1), "{what} {stage}: {}", output.screen());
            assert!(output.stderr.contains(what), "{what} {stage}: {}", output.stderr);
            assert!(output.stderr.contains("hint: "), "{}", output.stderr);
        }
    }
}
