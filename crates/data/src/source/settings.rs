//! How the Hub is reached and where its files are kept: Hugging Face's own environment variables, read here and nowhere else.

use super::certificates::VARIABLES;
use farthing_base::files;
use farthing_base::shown::without_secrets;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the Hub is when `HF_ENDPOINT` does not say.
const ENDPOINT: &str = "https://huggingface.co";

/// How the Hub is reached, and with how much patience.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubSettings {
    /// The Hub or a mirror of it: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Sent to the endpoint and to no other host: `HF_TOKEN`, else the file `$HF_HOME/token`.
    pub token: Option<String>,
    /// Whether the token is sent to another machine without encryption, too: `FARTHING_OPEN_TOKEN`.
    pub open_token: bool,
    /// Hugging Face's cache, shared with Python: `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// Files from elsewhere on the web: `$XDG_CACHE_HOME/farthing/downloads`, else `~/.cache/farthing/downloads`.
    pub downloads: PathBuf,
    /// Whether only what is in the caches may be used: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// Certificates of the only authorities to trust, each with the variable that names it: a file in PEM format, or a folder of
    /// them. `SSL_CERT_FILE`, `SSL_CERT_DIR`, else `REQUESTS_CA_BUNDLE`, else `CURL_CA_BUNDLE`. Where there are none, Mozilla's
    /// and the system's are trusted.
    pub certificates: Vec<(&'static str, PathBuf)>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for the next byte.
    pub stall_timeout: Duration,
    /// Attempts in a row that bring nothing before a file is given up.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles from there, and a server's `Retry-After` goes before it.
    pub first_wait: Duration,
    /// No wait is longer than this, whatever a server asks for.
    pub longest_wait: Duration,
}

impl HubSettings {
    /// Settings for this endpoint and these folders, without a token.
    pub fn new(
        endpoint: impl Into<String>,
        cache: impl Into<PathBuf>,
        downloads: impl Into<PathBuf>,
    ) -> Self {
        Self {
            endpoint: endpoint.into().trim_end_matches('/').to_owned(),
            token: None,
            open_token: false,
            cache: cache.into(),
            downloads: downloads.into(),
            certificates: vec![],
            offline: false,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(20),
            attempts: 6,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(5),
        }
    }

    /// The settings of this process's environment.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The settings that variables give; a variable that is set but empty counts as absent.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let user = var("HOME").or_else(|| var("USERPROFILE")).unwrap_or_default();
        let path = |text: String| match text.strip_prefix("~/") {
            Some(rest) => Path::new(&user).join(rest),
            None => PathBuf::from(text),
        };
        let caches = var("XDG_CACHE_HOME").map_or_else(|| Path::new(&user).join(".cache"), &path);
        let home = var("HF_HOME").map_or_else(|| caches.join("huggingface"), &path);
        // The second name is the one that older versions of Hugging Face's library read.
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let mut settings = Self::new(
            endpoint.trim(),
            cache.map_or_else(|| home.join("hub"), &path),
            caches.join("farthing").join("downloads"),
        );
        let file = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), &path);
        let token = var("HF_TOKEN").or_else(|| files::read_to_string(&file).ok());
        settings.token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let named = |name: &'static str| Some((name, path(var(name)?)));
        let [file, folder, others @ ..] = VARIABLES;
        let folders = named(folder).map_or_else(Vec::new, |(name, list)| {
            std::env::split_paths(&list).map(|folder| (name, folder)).collect()
        });
        settings.certificates = named(file).into_iter().chain(folders).collect();
        if settings.certificates.is_empty() {
            settings.certificates = others.into_iter().find_map(named).into_iter().collect();
        }
        let is_on = |name: &str| {
            var(name).is_some_and(|v| {
                ["1", "ON", "YES", "TRUE"].contains(&v.trim().to_uppercase().as_str())
            })
        };
        settings.offline = is_on("HF_HUB_OFFLINE");
        settings.open_token = is_on("FARTHING_OPEN_TOKEN");
        settings
    }
}

/// The token is not shown.
impl std::fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &without_secrets(&self.endpoint))
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache", &self.cache)
            .field("downloads", &self.downloads)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        HubSettings::from_vars(find)
    }

    #[test]
    fn the_variables_and_their_order() {
        let plain = from(&[("HOME", "/u")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(plain.downloads, Path::new("/u/.cache/farthing/downloads"));
        assert!(plain.token.is_none() && !plain.offline);

        let xdg = from(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x"), ("HF_TOKEN", " t\n")]);
        assert_eq!(xdg.cache, Path::new("/x/huggingface/hub"));
        assert_eq!(xdg.token.as_deref(), Some("t"));
        let home = from(&[("HOME", "/u"), ("HF_HOME", "~/h"), ("HF_ENDPOINT", "https://m/")]);
        assert_eq!(home.cache, Path::new("/u/h/hub"));
        assert_eq!(home.endpoint, "https://m");
        let cache = from(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!(cache.cache, Path::new("/c"));
        assert!(cache.offline);
        assert!(!from(&[("HF_HUB_OFFLINE", "0"), ("HF_TOKEN", "")]).offline);
    }

    #[test]
    fn the_token_comes_from_a_file_and_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_secret\n").unwrap();
        let settings = from(&[("HF_HOME", dir.path().to_str().unwrap())]);
        assert_eq!(settings.token.as_deref(), Some("hf_secret"));
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
