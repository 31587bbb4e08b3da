//! The bundle of tasks that `eval-core` reads where no stage gives it one: the published one, or another on the web, pinned in the lock
//! file, or a folder or a zip on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use farthing_data::{Fetcher, Pin, Silent};
use farthing_eval::Error;
use farthing_eval::core::Bundle;

use super::watch::{Watched, cut_off};
use crate::progress::format::amount;
use crate::{At, Ctx, Extras, LockFile, Result};

/// Where the tasks of CORE are published, with the settings that nanochat evaluates them in (`EVAL_BUNDLE_URL` of its `base_eval`).
pub(crate) const PUBLISHED: &str =
    "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip";

/// Whether a bundle is on a network.
fn is_far(bundle: &str) -> bool {
    bundle.contains("://")
}

/// Refuses what names no bundle.
pub(super) fn check(bundle: &str) -> Result<()> {
    if bundle.is_empty() {
        let fault = At::new("bundle", "it is empty");
        return Err(fault
            .hint("name a folder, a zip or a URL; leave it out for the published bundle")
            .into());
    }
    if is_far(bundle) {
        Fetcher::from_env().pinned_file(bundle).map_err(|error| At::of("bundle", &error))?;
    }
    Ok(())
}

/// The files on this machine that it is made of.
pub(super) fn sources(bundle: &str) -> Result<Vec<PathBuf>> {
    if is_far(bundle) { Ok(Vec::new()) } else { Ok(Bundle::open(bundle)?.sources()) }
}

/// A fetcher that knows what the lock file pins.
fn fetcher(extras: &Extras) -> Result<Fetcher> {
    let mut fetcher = Fetcher::from_env();
    fetcher.pins = extras.get().map_or_else(|| Ok(Vec::new()), LockFile::read)?;
    Ok(fetcher)
}

/// The digest that it is pinned to; `None` where it should be and is not.
pub(super) fn pins(bundle: &str, extras: &Extras) -> Result<Option<Vec<String>>> {
    if !is_far(bundle) || extras.get::<LockFile>().is_none() {
        return Ok(Some(Vec::new()));
    }
    let pinned = fetcher(extras)?.pinned_file(bundle)?;
    Ok(pinned.map(|file| vec![file.digest]))
}

/// What of a file that was downloaded is no bundle.
fn look(path: &Path) -> Result<(), String> {
    Bundle::open(path).map(drop).map_err(|error| match error {
        Error::Archive { reason, .. } | Error::Tasks { reason, .. } => reason,
        other => other.to_string(),
    })
}

/// Downloads and pins it.
pub(super) fn resolve(bundle: &str, ctx: &Ctx) -> Result<()> {
    let Some(lock) = ctx.extra::<LockFile>() else { return Ok(()) };
    let mut fetcher = fetcher(ctx.extras())?;
    fetcher.fetch_file(bundle, &look, &mut Watched::new(ctx, "bytes")).map_err(cut_off)?;
    let Some(pin) = fetcher.pins.into_iter().find(|pin| pin.is_of(bundle)) else {
        return Ok(());
    };
    let what = described(&pin);
    if lock.add(pin)? {
        ctx.log(format!("{bundle}: {what}, pinned in {}", lock.path().display()));
    }
    Ok(())
}

/// Size and digest, in few words.
fn described(pin: &Pin) -> String {
    let bytes = pin.files.iter().map(|file| file.bytes).sum();
    let digest = pin.files.first().map_or("", |file| file.digest.as_str());
    format!("{}, {}…", amount(bytes, "bytes"), digest.get(..15).unwrap_or(digest))
}

/// What is known of it without asking a network.
pub(super) fn planned(bundle: &str, extras: &Extras) -> Result<String> {
    if !is_far(bundle) {
        return match Bundle::open(bundle) {
            Ok(found) => Ok(format!("{bundle}: {} tasks", found.tasks().len())),
            // What is not there keeps nobody from planning.
            Err(error @ Error::Read { .. }) => Ok(error.to_string()),
            Err(error) => Err(error.into()),
        };
    }
    let fetcher = fetcher(extras)?;
    let Some(pin) = fetcher.pins.iter().find(|pin| pin.is_of(bundle)) else {
        let lock = extras.get::<LockFile>();
        let lock = lock
            .map_or_else(String::new, |lock| format!(" and pins it in {}", lock.path().display()));
        return Ok(format!("{bundle}: not pinned yet; the run downloads it{lock}"));
    };
    let here = if fetcher.has_file(bundle)? { "in the cache" } else { "the run downloads it" };
    Ok(format!("{bundle}: {}; {here}", described(pin)))
}

/// Refuses one that is known not to be there, or to be none.
pub(super) fn preflight(bundle: &str, extras: &Extras) -> Result<()> {
    if !is_far(bundle) {
        let found = Bundle::open(bundle)?;
        for file in found.sources() {
            std::fs::metadata(&file).with_context(|| {
                format!("{bundle} names a file that is not there: {}", file.display())
            })?;
        }
        return Ok(());
    }
    let mut fetcher = fetcher(extras)?;
    if fetcher.settings.offline && !fetcher.has_file(bundle)? {
        // Offline this asks nobody, and says what is missing.
        fetcher.fetch_file(bundle, &look, &mut Silent)?;
    }
    Ok(())
}

/// Opens it; what is on a network is downloaded, or found in the cache, and verified.
pub(super) fn open(bundle: &str, ctx: &Ctx) -> Result<Bundle> {
    if !is_far(bundle) {
        return Ok(Bundle::open(bundle)?);
    }
    let mut fetcher = fetcher(ctx.extras())?;
    let lock = ctx.extra::<LockFile>();
    if let Some(lock) = lock.filter(|_| !matches!(fetcher.pinned_file(bundle), Ok(Some(_)))) {
        // The key of this work is that of other bytes than would be pinned now.
        let path = lock.path().display();
        return Err(anyhow!(
            "{path} pinned `{bundle}` a moment ago and does not now\nhint: run again"
        ));
    }
    let fetched = fetcher.fetch_file(bundle, &look, &mut Watched::new(ctx, "bytes"));
    let path = fetched.map_err(|error| {
        let error = cut_off(error);
        match lock.filter(|_| error.downcast_ref::<crate::Cancelled>().is_none()) {
            Some(lock) => error.context(format!("{bundle}, pinned in {}", lock.path().display())),
            None => error,
        }
    })?;
    Bundle::open(path).with_context(|| format!("reading {bundle}"))
}

/// Opens one for who has no lock file; `told` hears which bytes those of a network are.
pub(crate) fn open_unpinned(
    bundle: &str,
    progress: &mut dyn farthing_data::Progress,
    told: &dyn Fn(&str),
) -> Result<Bundle> {
    if !is_far(bundle) {
        return Ok(Bundle::open(bundle)?);
    }
    let mut fetcher = Fetcher::from_env();
    let path = fetcher.fetch_file(bundle, &look, progress).map_err(cut_off)?;
    if let Some(pin) = fetcher.pins.iter().find(|pin| pin.is_of(bundle)) {
        told(&format!("{bundle}: {}", described(pin)));
    }
    Bundle::open(path).with_context(|| format!("reading {bundle}"))
}
