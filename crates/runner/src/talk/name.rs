//! What a model is called by who serves it: its pipeline, or its folder. Where it is on this machine is nobody else's business.

use std::path::Path;

use serde::Deserialize;

use super::find::RUN;
use crate::cache::files::read_json;
use crate::cache::identity::Identity;

/// Of a model that has no name of its own.
const NONE: &str = "model";

/// Names that the runner gives to folders and files, whatever is in them.
const GIVEN: [&str; 8] =
    ["checkpoint", "best", "export", "model", "stages", "store", "runs", ".scratch"];

/// The name of the model in a folder: of a run that of its pipeline, in a store that of the pipeline and the stage which made it last, anywhere else the folder's or the file's.
pub(super) fn of(dir: &Path, stage: Option<&str>) -> String {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    for place in dir.ancestors() {
        if let Some(pipeline) = pipeline_of(place) {
            return stage.map_or(pipeline.clone(), |stage| format!("{pipeline}/{stage}"));
        }
        if let Some(made) = made_by(place) {
            return made;
        }
        let name = if place.is_file() { place.file_stem() } else { place.file_name() };
        let name = name.unwrap_or_default().to_string_lossy();
        let key = name.trim_end_matches(".partial");
        let is_key = key.len() == KEY && key.bytes().all(|b| b.is_ascii_hexdigit());
        let is_step = name.strip_prefix("step-").is_some_and(|n| n.parse::<u64>().is_ok());
        if !(name.is_empty() || is_key || is_step || GIVEN.contains(&&*name)) {
            return farthing_base::shown::printable(&name).into_owned();
        }
    }
    NONE.to_owned()
}

/// Digits of a key, which is an entry's name.
const KEY: usize = 32;

/// The pipeline of a run's folder.
fn pipeline_of(run: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        pipeline: String,
    }
    read_json::<Named>(&run.join(RUN)).map(|run| run.pipeline)
}

/// The pipeline and the stage that an entry of a store was made by the last time that they ran.
fn made_by(entry: &Path) -> Option<String> {
    let key = entry.file_name()?.to_str()?.trim_end_matches(".partial");
    let stages = entry.parent().filter(|parent| parent.ends_with("stages"))?;
    let mut found = Vec::new();
    for pipeline in std::fs::read_dir(stages.parent()?.join("last")).ok()?.flatten() {
        for stage in std::fs::read_dir(pipeline.path()).into_iter().flatten().flatten() {
            let identity: Option<Identity> = read_json(&stage.path());
            if identity.is_some_and(|identity| identity.key().as_deref() == Some(key)) {
                let (pipeline, stage) = (pipeline.file_name(), stage.path());
                let stage = stage.file_stem().unwrap_or_default();
                found.push(format!("{}/{}", pipeline.display(), stage.display()));
            }
        }
    }
    found.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_its_folder_and_not_by_where_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home of ann/project");
        let key = "85686d1211a01a7aaf5ccd2d18281103";
        let folders = [
            "exports/tom-and-ann".to_owned(),
            "exports/small/export".to_owned(),
            format!("store/stages/{key}/checkpoint"),
            format!("store/stages/{key}.partial/.scratch"),
            "runs/tiny/2026-11-30T10-00-00-1".to_owned(),
        ];
        for folder in &folders {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        for file in ["exports/tom-and-ann/model.safetensors", "exports/gpt.safetensors"] {
            std::fs::write(home.join(file), "").unwrap();
        }
        let lineage = r#"{"pipeline": "tiny", "stages": []}"#;
        std::fs::write(home.join(&folders[4]).join(RUN), lineage).unwrap();
        for (at, stage, name) in [
            ("exports/tom-and-ann", None, "tom-and-ann"),
            ("exports/tom-and-ann/model.safetensors", None, "tom-and-ann"),
            ("exports/gpt.safetensors", None, "gpt"),
            (folders[1].as_str(), None, "small"),
            // An entry that no pipeline made the last time.
            (folders[2].as_str(), None, "project"),
            (folders[3].as_str(), None, "project"),
            (folders[4].as_str(), None, "tiny"),
            (folders[4].as_str(), Some("chat"), "tiny/chat"),
            ("runs/tiny", None, "tiny"),
        ] {
            assert_eq!(of(&home.join(at), stage), name, "{at}");
        }
        assert_eq!(of(Path::new("/"), None), NONE);
    }
}
