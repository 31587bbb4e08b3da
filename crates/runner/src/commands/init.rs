//! `runner init`: a commented pipeline for text of one's own. Asks nothing.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail};

use crate::Result;

/// The pipeline that comes with farthing.
const OWN_TEXT: &str = include_str!("../../../../pipelines/own-text.toml");

/// Writes it to a file that is not there, and says how to go on.
///
/// # Errors
/// Something is there, or the folder cannot be written.
pub(super) fn write(path: &Path) -> Result<String> {
    let shown = path.display();
    let mut file = match File::create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{shown} is there already, and stays as it is\nhint: name another file: `runner init FILE`"
            );
        }
        other => other.with_context(|| format!("writing {shown}"))?,
    };
    file.write_all(OWN_TEXT.as_bytes()).with_context(|| format!("writing {shown}"))?;
    Ok(format!(
        "wrote {shown}: text from the folder `text` to a model, samples and a report\n\n\
         put your text into the folder `text`, or name another one with\n  \
         runner {shown} --set 'vars.text=\"FOLDER\"' --plan\n\
         then see what would happen, and let it\n  \
         runner {shown} --plan\n  \
         runner {shown}\n"
    ))
}
