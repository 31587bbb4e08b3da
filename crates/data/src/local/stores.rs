//! Recognises folders of a store, in which this program keeps its own copies. They are never a source, whichever link leads to them.

use super::list::{FILES, Files};
use crate::Error;
use farthing_base::files;
use std::path::Path;

/// Why a store's files are left out.
pub(super) const STORES: &str = "it belongs to a store, in which this program keeps its own copies";

pub(super) fn in_store(path: &Path, store: &Path) -> Error {
    let (path, store) = (path.display(), store.display());
    Error::Source {
        what: format!(
            "{path} is no source: it belongs to the store {store}, in which this program keeps its own copies, held-out text among them"
        ),
        hint: "give the files that were copied there as the source, or move yours out of the store"
            .into(),
    }
}

/// Whether a folder is where a store keeps outputs, one of its entries, or one that an entry is begun in. A store's own folder may be
/// one in which users keep their text, too.
pub(super) fn is_store(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside = |name: &str| dir.with_file_name(name).is_dir();
    if name == "stages" && (beside("locks") || beside("last")) {
        return true;
    }
    let (key, rest) = name.split_at_checked(32).unwrap_or_default();
    let in_stages = dir.parent().and_then(Path::file_name).is_some_and(|name| name == "stages");
    let keyed = key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit());
    if in_stages && keyed && ["", ".partial", ".damaged", ".old"].contains(&rest) {
        return true;
    }
    let record = dir.join("stage.json");
    let Ok(text) = files::read(&record) else { return false };
    let value: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    value.is_some_and(|v| ["key", "stage", "outputs"].iter().all(|name| v.get(name).is_some()))
}

/// Whether fetching filled a folder.
pub(super) fn has_fetched(dir: &Path) -> bool {
    let Ok(text) = files::read(&dir.join(FILES)) else { return false };
    serde_json::from_slice::<Files>(&text).is_ok()
}
