//! Certificates: whose are trusted, and that one which is not is final at once.

use crate::hub::fixture::parquet;
use farthing_base::Hint;
use farthing_data::{Error, FetchSettings, Fetcher, Files, HubSettings, Silent};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Serves two parquet files on this machine with a certificate of the tests' own authority; returns the port.
fn serve() -> u16 {
    let chain = vec![CertificateDer::from_pem_file(fixture("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let Ok(tcp) = tcp else { return };
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let Ok(tls) = rustls::ServerConnection::new(config) else { return };
                let mut stream = rustls::StreamOwned::new(tls, tcp);
                let mut request = Vec::new();
                let mut some = [0; 1024];
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut some) {
                        Ok(n) if n > 0 => request.extend(&some[..n]),
                        _ => return,
                    }
                }
                let body = parquet(u64::from(request.starts_with(b"GET /s_1")));
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    port
}

fn fetch(port: u16, vars: &[(&str, &Path)]) -> Result<Files, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = HubSettings::from_vars(|name| {
        let home = || dir.path().to_str().unwrap().to_owned();
        let found = vars.iter().find(|(n, _)| *n == name);
        found.map(|(_, v)| v.to_str().unwrap().to_owned()).or((name == "HOME").then(home))
    });
    settings.first_wait = std::time::Duration::from_mins(10);
    let source = format!("https://localhost:{port}/s_{{0..1}}.parquet");
    let what = FetchSettings { source, ..FetchSettings::default() };
    Fetcher::new(settings).fetch(&what, dir.path(), &dir.path().join("out"), &mut Silent)
}

#[test]
fn the_authorities_of_the_environment_are_trusted() {
    let port = serve();
    let (file, folder) = (fixture("ca.pem"), tempfile::tempdir().unwrap());
    std::fs::copy(&file, folder.path().join("house.pem")).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "no certificate").unwrap();
    for (variable, path) in [
        ("SSL_CERT_FILE", file.as_path()),
        ("SSL_CERT_DIR", folder.path()),
        ("REQUESTS_CA_BUNDLE", &file),
        ("CURL_CA_BUNDLE", &file),
    ] {
        let files = fetch(port, &[(variable, path)]).unwrap_or_else(|e| panic!("{variable}: {e}"));
        assert_eq!((files.train.len(), files.val.len()), (1, 1));
    }
    // One that is missing beside one that is there is no matter.
    let nowhere = Path::new("/nowhere");
    assert!(fetch(port, &[("SSL_CERT_FILE", &file), ("SSL_CERT_DIR", nowhere)]).is_ok());
}

#[test]
fn a_certificate_that_is_refused_is_final_at_once_and_says_what_to_set() {
    let port = serve();
    let error = fetch(port, &[]).unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    let text = error.with_hint();
    assert!(text.contains("of an authority that is not known here"), "{text}");
    assert!(text.contains("hint: ") && text.contains("SSL_CERT_FILE"), "{text}");
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (path, what) in
        [(Path::new("/nowhere/ca.pem"), "No such file"), (empty.path(), "there is no certificate")]
    {
        let error = fetch(1, &[("SSL_CERT_FILE", path)]).unwrap_err();
        assert!(matches!(error, Error::Certificates { variable: "SSL_CERT_FILE", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains(what), "{text}");
    }
}
