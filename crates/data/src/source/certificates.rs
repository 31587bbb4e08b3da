//! Decides whose certificates are trusted: those that the environment names, as curl, Python and cargo do; without them Mozilla's
//! authorities, which are built in, and the system's.

use super::settings::HubSettings;
use crate::Error;
use farthing_base::files;
use rustls::CertificateError;
use std::fs;
use std::path::{Path, PathBuf};
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// The variables that name authorities: the first that is set counts. Files in PEM format, but for the second, a folder of them.
pub(crate) const VARIABLES: [&str; 4] =
    ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// What is wrong with certificates that were named.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) variable: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

/// The authorities that the settings name; `None` if they name none.
///
/// # Errors
/// They cannot be read.
pub(crate) fn named(settings: &HubSettings) -> Result<Option<RootCerts>, Certificates> {
    let (mut found, mut fault) = (Vec::new(), None);
    for (variable, path) in &settings.certificates {
        let reason = match add(path, &mut found) {
            Ok(()) => "there is no certificate in it".into(),
            Err(error) => error.to_string(),
        };
        fault = fault.or(Some(Certificates { variable, path: path.clone(), reason }));
    }
    // One that is missing beside one that is not is no matter: images of containers often name both.
    match fault {
        Some(fault) if found.is_empty() => Err(fault),
        _ => Ok((!found.is_empty()).then(|| found.into())),
    }
}

/// Those of a file, or of every file of a folder.
fn add(path: &Path, found: &mut Vec<Certificate<'static>>) -> std::io::Result<()> {
    if path.is_dir() {
        let mut files =
            fs::read_dir(path)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        // Keys and notes may lie beside them, and each certificate may have a link named by its digest.
        files.iter().filter(|file| file.is_file()).for_each(|file| drop(add(file, found)));
        return Ok(());
    }
    let items = files::read(path)?;
    for item in parse_pem(&items) {
        let item = item.map_err(|e| std::io::Error::other(e.to_string()))?;
        if let PemItem::Certificate(certificate) = item
            && !found.iter().any(|known| known.der() == certificate.der())
        {
            found.push(certificate);
        }
    }
    Ok(())
}

/// The authorities of this system; `None` if it has none.
pub(crate) fn of_system() -> Option<RootCerts> {
    let found = rustls_native_certs::load_native_certs().certs;
    let certificates = found.iter().map(|der| Certificate::from_der(der).to_owned());
    let certificates: Vec<_> = certificates.collect();
    (!certificates.is_empty()).then(|| certificates.into())
}

/// Why a server's certificate was refused, if that is what happened.
pub(crate) fn refusal(error: &ureq::Error) -> Option<&CertificateError> {
    let inner = match error {
        ureq::Error::Rustls(inner) => inner,
        ureq::Error::Io(io) => io.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    match inner {
        rustls::Error::InvalidCertificate(refused) => Some(refused),
        _ => None,
    }
}

/// Whether more authorities could help.
pub(crate) fn is_unknown(refused: &CertificateError) -> bool {
    matches!(refused, CertificateError::UnknownIssuer)
}

/// The error of a refusal.
pub(crate) fn untrusted(url: String, refused: &CertificateError) -> Error {
    use CertificateError as E;
    let (reason, hint) = match refused {
        E::UnknownIssuer => (
            "its certificate is of an authority that is not known here".to_owned(),
            "where a company or a cluster has an authority of its own, set SSL_CERT_FILE to its certificates (PEM), or add them to the system's",
        ),
        E::Expired | E::ExpiredContext { .. } => (
            "its certificate has expired".to_owned(),
            "look at this machine's clock; if it is right, the server's keeper has to renew the certificate",
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            ("its certificate is not valid yet".to_owned(), "look at this machine's clock")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => (
            "its certificate is of another host".to_owned(),
            "check the host's name, and that no login page or proxy answers in its place",
        ),
        other => (
            format!("its certificate is refused: {other:?}"),
            "set SSL_CERT_FILE to certificates (PEM) of authorities that you trust, or ask the server's keeper",
        ),
    };
    Error::Untrusted { url, reason, hint }
}
