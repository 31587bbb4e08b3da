use crate::common::packed;
use crate::memory::peak;
use farthing_base::Hint;
use farthing_base::tensors::TensorError;
use farthing_data::{Error, Manifest, Rows, Shard};
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;

/// A good shard's bytes and a folder to write bad ones into.
fn good() -> (tempfile::TempDir, Vec<u8>) {
    let p = packed();
    let bytes = fs::read(p.dir.path().join("rows/rows_00001.safetensors")).unwrap();
    (p.dir, bytes)
}

fn open(dir: &tempfile::TempDir, bytes: &[u8]) -> Result<Shard, Error> {
    let path = dir.path().join("bad.safetensors");
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    Shard::open(&path)
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn padded_to(header: &str, width: usize) -> String {
    format!("{header:<width$}")
}

#[test]
fn truncated_shards_name_both_sizes() {
    let (dir, bytes) = good();
    for keep in [bytes.len() - 1, bytes.len() - 130, bytes.len() / 2, 100] {
        let error = open(&dir, &bytes[..keep]).unwrap_err();
        assert!(matches!(error, Error::Shard(TensorError::Size { .. })), "{error}");
        let text = error.with_hint();
        assert!(text.contains(&format!("has {keep} bytes")), "{text}");
        assert!(text.contains("bad.safetensors") && text.contains("hint: "), "{text}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    let text = open(&dir, &longer).unwrap_err().to_string();
    assert!(text.contains(&format!("expected {}", bytes.len())), "{text}");
    for keep in [0, 7] {
        assert!(matches!(
            open(&dir, &bytes[..keep]),
            Err(Error::Shard(TensorError::Header { .. }))
        ));
    }
}

#[test]
fn a_flipped_byte_anywhere_in_the_data_is_found_and_the_shard_named() {
    let p = packed();
    let dir = p.dir.path().join("rows");
    let path: PathBuf = dir.join("rows_00001.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    for at in [header, header + 1, usize::midpoint(header, bytes.len()), bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bad).unwrap();
        let error = Rows::open(&dir).unwrap().verify().unwrap_err();
        assert!(matches!(error, Error::Shard(TensorError::Checksum { .. })), "{error}");
        assert!(error.to_string().contains("rows_00001.safetensors"), "{error}");
        let error = Shard::open(&path).unwrap().verify().unwrap_err();
        assert!(error.to_string().contains("its data has the checksum"), "{error}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let (dir, bytes) = good();
    for length in [1u64 << 60, u64::MAX, u64::MAX - 7, 1 << 21] {
        let mut bad = bytes.clone();
        bad[..8].copy_from_slice(&length.to_le_bytes());
        let text = open(&dir, &bad).unwrap_err().to_string();
        assert!(text.contains(&length.to_string()), "{text}");
    }
    let metadata = r#""__metadata__":{"format":"farthing-rows-1"}"#;
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(
            r#"{{{metadata},"rows":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#
        )
    };
    let cases = [
        ("", "EOF"),
        ("{}", "__metadata__"),
        ("[1, 2", "bad header"),
        (&tensor("F32", "[2,5]", "[0,40]"), "dtype F32"),
        (&tensor("U16", "[10]", "[0,20]"), "two dimensions"),
        (&tensor("U16", "[2,5]", "[0,22]"), "does not lie in"),
        (&tensor("U16", "[2,5]", "[2,22]"), "does not lie in"),
        (&tensor("U16", "[0,5]", "[0,0]"), "does not lie in"),
        (&tensor("U16", "[5,1]", "[0,10]"), "does not lie in"),
        (&tensor("U16", "[9223372036854775807,4]", "[0,8]"), "does not lie in"),
        (&tensor("U16", "[4611686018427387904,2]", "[0,0]"), "does not lie in"),
        (&tensor("U16", "[-1,5]", "[0,20]"), "invalid value"),
        (&tensor("U16", "[1152921504606846976,5]", "[0,11529215046068469760]"), "bytes, expected"),
        (&tensor("U16", "[2,5]", "[0,20]").replace("rows-1", "rows-9"), "farthing-rows-9"),
        (&tensor("U16", "[2,5]", "[0,20]").replace("}}", "},\"more\":1}"), "unknown field"),
    ];
    for (header, expected) in cases {
        // Padded to 8 bytes as ours are, so that only the lie is wrong.
        let padded = padded_to(header, header.len().next_multiple_of(8));
        let text = open(&dir, &with_header(&padded, 20)).unwrap_err().to_string();
        assert!(text.contains(expected), "{header}: {text}");
    }
    // An odd header puts the data at an odd address.
    let header = tensor("U16", "[2,5]", "[0,20]");
    let odd = padded_to(&header, header.len().next_multiple_of(8) + 1);
    let text = open(&dir, &with_header(&odd, 20)).unwrap_err().to_string();
    assert!(text.contains("cannot be cast"), "{text}");
    let even = padded_to(&header, header.len().next_multiple_of(8));
    assert_eq!(open(&dir, &with_header(&even, 20)).unwrap().rows(), 2);
}

#[test]
fn manifests_that_lie_are_refused() {
    let p = packed();
    let dir = p.dir.path().join("rows");
    let path = dir.join("manifest.json");
    let good = fs::read_to_string(&path).unwrap();
    let refused = |text: &str, expected: &str| {
        fs::write(&path, text).unwrap();
        let error = Rows::open(&dir).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("", "EOF");
    refused(&good[..good.len() / 2], "EOF");
    refused(&good.replace("farthing-manifest-2", "other"), "its format is \"other\"");
    let rows = format!("\"rows\": {},\n  \"settings\"", p.manifest.rows);
    assert!(good.contains(&rows));
    refused(&good.replace(&rows, "\"rows\": 7,\n  \"settings\""), "announces 7 rows");
    refused(&good.replace("rows_00001.", "../rows_00001."), "not the name of a file beside it");
    refused(&good.replace("rows_00001.", "rows_77777."), "rows_77777");
    refused(&good.replace("\"row_tokens\": 65", "\"row_tokens\": 66"), "rows of 66 tokens");
    refused(&good.replace("\"vocab\": 400", "\"vocab\": 70000"), "U32");
    let swapped = good.replace("rows_00001.", "rows_x.").replace("rows_00002.", "rows_00001.");
    let swapped = swapped.replace("rows_x.", "rows_00002.");
    fs::write(&path, swapped).unwrap();
    let rows = Rows::open(&dir);
    assert!(rows.is_err() || rows.unwrap().verify().is_err(), "swapped shards pass");
    fs::write(&path, good).unwrap();
    assert_eq!(Manifest::load(&dir).unwrap(), p.manifest);
}

#[test]
fn no_change_to_a_header_panics_or_allocates() {
    let (dir, bytes) = good();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in 0..end {
        for value in [0, b'9', b'"', bytes[at] ^ 1] {
            let mut bad = bytes.clone();
            bad[at] = value;
            let (result, held) = peak(|| open(&dir, &bad));
            assert!(held < 2 << 20, "byte {at} as {value}: {held} bytes");
            // What still opens is whole rows of the file, and nothing beyond it.
            if let Ok(shard) = result {
                let row = shard.row(shard.rows() - 1).unwrap();
                assert_eq!(row.to_vec().len(), shard.row_tokens());
                assert!(shard.row(shard.rows()).is_none());
            }
        }
    }
}

#[test]
fn a_header_of_2_to_the_60_bytes_costs_nothing() {
    let (dir, bytes) = good();
    for length in [1u64 << 60, u64::MAX, u64::MAX - 7, 1 << 40] {
        let mut bad = bytes.clone();
        bad[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(dir.path().join("bad.safetensors"), &bad).unwrap();
        let (result, held) = peak(|| Shard::open(dir.path().join("bad.safetensors")).map(drop));
        assert!(result.unwrap_err().to_string().contains(&length.to_string()));
        assert!(held < 1 << 16, "{held} bytes");
    }
}

#[test]
fn duplicate_keys_and_extra_fields_are_refused() {
    let (dir, _) = good();
    let metadata = r#""__metadata__":{"format":"farthing-rows-1"}"#;
    let rows = r#""rows":{"dtype":"U16","shape":[2,5],"data_offsets":[0,20]}"#;
    for (header, expected) in [
        (format!("{{{metadata},{rows},{rows}}}"), "`rows` stands twice"),
        (format!("{{{metadata},{metadata},{rows}}}"), "`__metadata__` stands twice"),
        (format!("{{{metadata},{rows},\"more\":{{}}}}"), "unknown field"),
    ] {
        let padded = padded_to(&header, header.len().next_multiple_of(8));
        let text = open(&dir, &with_header(&padded, 20)).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn manifests_that_lie_in_small_things_are_refused_cheaply() {
    let p = packed();
    let dir = p.dir.path().join("rows");
    let path = dir.join("manifest.json");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"row_tokens\": 65", "\"row_tokens\": 18446744073709551615"),
        ("\"row_tokens\": 65", "\"row_tokens\": 18446744073709551616"),
        ("\"row_tokens\": 65", "\"row_tokens\": -65"),
        ("\"vocab\": 400", "\"vocab\": 18446744073709551615"),
        ("\"format\":", "\"more\": 1, \"format\":"),
        ("\"format\":", "\"format\": \"farthing-manifest-2\", \"format\":"),
        ("\"file\": \"rows_00001.", "\"file\": \"/etc/rows_00001."),
        ("\"file\": \"rows_00001.safetensors\"", "\"file\": \"..\""),
        ("\"file\": \"rows_00001.safetensors\"", "\"file\": \"manifest.json\""),
        ("\"file\": \"rows_00001.safetensors\"", "\"file\": \".\""),
        ("\"file\": \"rows_00001.safetensors\"", "\"file\": \"\""),
        ("\"rows\": ", "\"rows\": 9"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        fs::write(&path, &bad).unwrap();
        let (result, held) = peak(|| Rows::open(&dir).map(drop));
        let error = result.expect_err(to).to_string();
        assert!(error.contains("manifest.json") || error.contains("rows"), "{to}: {error}");
        assert!(held < 4 << 20, "{to}: {held} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_bytes_never_open(
        length in 0u64..200, body in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(body);
        prop_assert!(open(&dir, &bytes).is_err());
    }
}
