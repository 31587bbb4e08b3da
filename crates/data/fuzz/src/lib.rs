//! What is fuzzed: opening a shard, and opening a folder by its manifest. Whatever the bytes, the answer is an error or rows that
//! can be read. The crate's tests run the same functions over the corpus that is kept beside them.

use farthing_data::{MANIFEST, Rows, Shard};
use std::fs;
use std::path::Path;

/// The header of the two shards that [`manifest_folder`] writes: 3 rows of 5 tokens.
const HEADER: &str = r#"{"__metadata__":{"format":"farthing-rows-1","rows":"3","row_tokens":"5","tokenizer":"t","data_blake3":""},"rows":{"dtype":"U16","shape":[3,5],"data_offsets":[0,30]}}"#;

/// Opens `input` as a shard in `dir`. An even first byte: the rest is the file. An odd one: the rest, after another two bytes, is the
/// JSON of a header whose length and padding are right, followed by as many zero bytes as those two say.
pub fn shard_header(input: &[u8], dir: &Path) {
    let file = match input {
        [odd, low, high, json @ ..] if odd % 2 == 1 => {
            shard(json, usize::from(u16::from_le_bytes([*low, *high])))
        }
        [_, file @ ..] => file.to_vec(),
        [] => vec![],
    };
    let path = dir.join("fuzzed.safetensors");
    fs::write(&path, file).expect("the temporary folder can be written");
    if let Ok(shard) = Shard::open(&path) {
        assert!(shard.rows() > 0 && shard.row_tokens() > 1);
        for i in [0, shard.rows() - 1] {
            let row = shard.row(i).expect("a row below the number of rows");
            assert_eq!(row.to_vec().len(), shard.row_tokens());
        }
        assert!(shard.row(shard.rows()).is_none() && shard.row(usize::MAX).is_none());
        let _ = shard.verify();
    }
}

/// Opens a folder whose manifest is `input`; [`manifest_folder`] must have prepared it.
pub fn manifest(input: &[u8], dir: &Path) {
    fs::write(dir.join(MANIFEST), input).expect("the temporary folder can be written");
    if let Ok(rows) = Rows::open(dir) {
        assert!(!rows.is_empty());
        for i in [0, rows.len() - 1] {
            let row = rows.row(i).expect("a row below the number of rows");
            assert_eq!(row.to_vec().len(), rows.row_tokens());
        }
        assert!(rows.row(rows.len()).is_none() && rows.row(u64::MAX).is_none());
        let _ = rows.verify();
    }
}

/// Writes the shards that a fuzzed manifest may name: `a` and `b`, 3 rows of 5 tokens each.
pub fn manifest_folder(dir: &Path) {
    fs::create_dir_all(dir).expect("the temporary folder can be made");
    for name in ["a", "b"] {
        fs::write(dir.join(name), shard(HEADER.as_bytes(), 30)).expect("the folder can be written");
    }
}

fn shard(json: &[u8], data: usize) -> Vec<u8> {
    let width = json.len().next_multiple_of(8);
    let mut file = (width as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.resize(8 + width, b' ');
    file.resize(8 + width + data, 0);
    file
}
