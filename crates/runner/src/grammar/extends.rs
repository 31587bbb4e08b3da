//! `extends = "gpt2.toml"`: lays a pipeline over another file, which may itself extend one. All the files are found and read before any of them is interpreted. Every value keeps its file, line and
//! column.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

/// Files that stand behind each other; more are a slip.
const MOST: usize = 8;

/// A file of a pipeline.
#[derive(Clone)]
pub(crate) struct PipelineText {
    /// As it is shown.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The files of a pipeline, the one that is named last; `read` gives a file's text, or what is wrong and a hint.
///
/// # Errors
/// A file that cannot be read or stands behind itself, as an error screen.
pub(crate) fn chain(
    file: &Path,
    text: String,
    read: impl Fn(&Path) -> Result<String, String>,
) -> Result<Vec<PipelineText>, String> {
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut seen: Vec<PathBuf> = vec![whole(file)];
    let mut chain = vec![PipelineText { name: file.display().to_string(), text }];
    let mut child = file.to_owned();
    while let Some(given) = chain.last().and_then(|last| named(&last.text)) {
        let shown = child.display();
        let parent = child.parent().unwrap_or(Path::new("")).join(&given);
        let refused = |what: String, hint: &str| {
            Err(format!("error: {shown} extends `{given}`, {what}\nhint: {hint}\n"))
        };
        if seen.contains(&whole(&parent)) {
            return refused("which is laid over it".to_owned(), "take one `extends` out");
        }
        if chain.len() == MOST {
            let hint = "lay it over one of the files behind";
            return refused(format!("the {MOST}th file behind another"), hint);
        }
        let text = match read(&parent) {
            Ok(text) => text,
            Err(what) => {
                let what = format!("which cannot be read: {what}");
                return Err(format!("error: {shown} extends `{given}`, {what}\n"));
            }
        };
        seen.push(whole(&parent));
        chain.push(PipelineText { name: parent.display().to_string(), text });
        child = parent;
    }
    chain.reverse();
    Ok(chain)
}

/// What a file extends, as far as it can be read; what is wrong with it is said later.
fn named(text: &str) -> Option<String> {
    let (root, _) = DeTable::parse_recoverable(text);
    Some(root.get_ref().get("extends")?.get_ref().as_str()?.to_owned())
}
