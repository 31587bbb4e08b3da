//! A stand-in for the Hub on this machine: a listing in pages, downloads that redirect to a second host, and faults on
//! demand. Shared by the tests of several crates; no network is needed.
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The only dataset there is.
pub(crate) const REPO: &str = "org/name";

/// What a server does instead of answering well.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Nothing unusual.
    Well,
    /// This status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    Truncate(usize),
    /// Nothing more comes after so many bytes of the body.
    Hang(usize),
    /// After so many bytes of the body the others come one by one, twenty in a second.
    Drip(usize),
    /// One byte of the body is another one.
    Flip,
    /// A `Range` is answered with everything.
    IgnoreRange,
    /// Another `ETag`.
    Etag(&'static str),
    /// The body is this.
    Body(Vec<u8>),
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `hub` or `cdn`.
    pub(crate) host: &'static str,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

#[derive(Default)]
struct State {
    /// Commit → path → bytes.
    commits: Vec<(String, BTreeMap<String, Vec<u8>>)>,
    /// The commit that `main` is.
    main: usize,
    log: Vec<Request>,
    /// What happens at requests whose path holds the key; the last act stays when `forever`.
    acts: HashMap<String, (VecDeque<Act>, bool)>,
    hub: String,
    cdn: String,
}

/// The servers; they live as long as the process.
#[derive(Clone)]
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    pub(crate) endpoint: String,
    /// Where redirects lead, and where files that are not the Hub's are: `{cdn}/web/NAME`.
    pub(crate) cdn: String,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn git_sha1(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Files below this size are in Git itself, not behind a pointer.
const LARGE: usize = 100;

impl Hub {
    /// Serves one commit with these files.
    pub(crate) fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let cdn = TcpListener::bind("localhost:0").unwrap();
        let endpoint = format!("http://127.0.0.1:{}", hub.local_addr().unwrap().port());
        let cdn_url = format!("http://localhost:{}", cdn.local_addr().unwrap().port());
        let state = State { hub: endpoint.clone(), cdn: cdn_url.clone(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        for (name, listener) in [("hub", hub), ("cdn", cdn)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (stream, state) = (stream.unwrap(), Arc::clone(&state));
                    // A client that leaves early is what many tests are about.
                    std::thread::spawn(move || drop(serve(name, stream, &state)));
                }
            });
        }
        let server = Self { state, endpoint, cdn: cdn_url };
        server.commit(files);
        server
    }

    /// A new commit, which `main` is from now on. Returns its name.
    pub(crate) fn commit(&self, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> String {
        let mut state = self.state.lock().unwrap();
        let name = format!("{:040x}", 0x00c0_ffee + state.commits.len());
        state.commits.push((name.clone(), files.into_iter().collect()));
        state.main = state.commits.len() - 1;
        name
    }

    /// Other bytes under the name of an old commit, which nobody but an attacker or a fault can do.
    pub(crate) fn tamper(&self, path: &str, bytes: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        let main = state.main;
        state.commits[main].1.insert(path.into(), bytes);
    }

    /// What happens at the next requests whose path or query holds `at`, one after another; then all is well.
    pub(crate) fn script(&self, at: &str, acts: impl IntoIterator<Item = Act>) {
        let acts = (acts.into_iter().collect(), false);
        self.state.lock().unwrap().acts.insert(at.into(), acts);
    }

    /// What happens at every request whose path or query holds `at`.
    pub(crate) fn always(&self, at: &str, act: Act) {
        self.state.lock().unwrap().acts.insert(at.into(), ([act].into(), true));
    }

    /// Nothing unusual happens any more, and the log is empty.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.acts.clear();
        state.log.clear();
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    /// The requests for bytes of a file.
    pub(crate) fn downloads(&self, path: &str) -> Vec<Request> {
        let mark = format!("file={path}");
        let mut log = self.log();
        log.retain(|r| r.host == "cdn" && (r.path.ends_with(&mark) || r.path.ends_with(path)));
        log
    }
}

fn serve(host: &'static str, stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { host, path: path.clone(), range: None, authorization: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let (act, reply) = {
        let mut state = state.lock().unwrap();
        state.log.push(request.clone());
        let mut act = Act::Well;
        let key = state.acts.keys().find(|at| path.contains(at.as_str())).cloned();
        if let Some((acts, forever)) = key.and_then(|key| state.acts.get_mut(&key)) {
            act = if *forever { acts.front().cloned() } else { acts.pop_front() }.unwrap_or(act);
        }
        (act, if host == "hub" { hub_reply(&state, &path) } else { cdn_reply(&state, &path) })
    };
    answer(stream, &request, act, reply, first.starts_with("HEAD "))
}

/// Status, headers, body.
type Reply = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn not_found(code: &str) -> Reply {
    (404, vec![("x-error-code", code.into())], b"not here".to_vec())
}

fn hub_reply(state: &State, path: &str) -> Reply {
    let api = format!("/api/datasets/{REPO}/");
    let resolve = format!("/datasets/{REPO}/resolve/");
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let main = &state.commits[state.main].0;
    if let Some(revision) = path.strip_prefix(&format!("{api}revision/")) {
        let known = state.commits.iter().any(|(name, _)| name == revision);
        return match revision {
            "main" | "refs%2Fconvert%2Fparquet" => json(format!("{{\"sha\": \"{main}\"}}")),
            _ if known => json(format!("{{\"sha\": \"{revision}\"}}")),
            _ => not_found("RevisionNotFound"),
        };
    }
    if path == format!("{api}refs") {
        return json(
            "{\"branches\": [{\"name\": \"main\"}], \"tags\": [{\"name\": \"v1.0\"}]}".into(),
        );
    }
    if let Some(rest) = path.strip_prefix(&format!("{api}tree/")) {
        let (commit, folder) = rest.split_once('/').unwrap_or((rest, ""));
        return tree(state, commit, folder, query);
    }
    if let Some(rest) = path.strip_prefix(&resolve) {
        let (commit, file) = rest.split_once('/').unwrap_or((rest, ""));
        let file = file.replace("%20", " ");
        let commit = if commit == "main" { main } else { commit };
        let found = state.commits.iter().find(|(name, _)| name == commit);
        let Some(bytes) = found.and_then(|(_, files)| files.get(&file)) else {
            return not_found("EntryNotFound");
        };
        if bytes.len() < LARGE {
            return (200, vec![("etag", format!("\"{}\"", git_sha1(bytes)))], bytes.clone());
        }
        let sha = sha256(bytes);
        let headers = vec![
            (
                "location",
                format!("{}/blob/{commit}/{sha}?signature=x&file={file}", state.cdn)
                    .replace(' ', "%20"),
            ),
            ("x-linked-etag", format!("\"{sha}\"")),
            ("x-linked-size", bytes.len().to_string()),
            ("x-repo-commit", commit.to_owned()),
        ];
        return (302, headers, vec![]);
    }
    (404, vec![("x-error-code", "RepoNotFound".into())], vec![])
}

fn tree(state: &State, commit: &str, folder: &str, query: &str) -> Reply {
    const PAGE: usize = 2;
    let Some((_, files)) = state.commits.iter().find(|(name, _)| name == commit) else {
        return not_found("RevisionNotFound");
    };
    let inside = |path: &str| folder.is_empty() || path.starts_with(&format!("{folder}/"));
    let listed: Vec<_> = files.iter().filter(|(path, _)| inside(path)).collect();
    if listed.is_empty() {
        return not_found("EntryNotFound");
    }
    let cursor = query.split('&').find_map(|part| part.strip_prefix("cursor="));
    let from: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
    let mut entries = vec![
        "{\"type\": \"directory\", \"oid\": \"0\", \"size\": 0, \"path\": \"dir\"}".to_owned(),
    ];
    for (path, bytes) in listed.iter().skip(from).take(PAGE) {
        let (size, oid) = (bytes.len(), git_sha1(bytes));
        let lfs = format!(
            ", \"lfs\": {{\"oid\": \"{}\", \"size\": {size}, \"pointerSize\": 130}}",
            sha256(bytes)
        );
        let lfs = if size < LARGE { "" } else { &lfs };
        entries.push(format!("{{\"type\": \"file\", \"oid\": \"{oid}\", \"size\": {size}, \"path\": \"{path}\"{lfs}}}"));
    }
    let mut headers = vec![];
    if listed.len() > from + PAGE {
        let slash = if folder.is_empty() { "" } else { "/" };
        let next = format!(
            "{}/api/datasets/{REPO}/tree/{commit}{slash}{folder}?recursive=true&cursor={}",
            state.hub,
            from + PAGE
        );
        headers.push(("link", format!("<{next}>; rel=\"next\"")));
    }
    (200, headers, format!("[{}]", entries.join(", ")).into_bytes())
}

fn json(text: String) -> Reply {
    (200, vec![], text.into_bytes())
}

fn cdn_reply(state: &State, path: &str) -> Reply {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let file =
        query.split('&').find_map(|part| part.strip_prefix("file=")).map(|f| f.replace("%20", " "));
    let commit = path.strip_prefix("/blob/").and_then(|rest| rest.split('/').next());
    let main = state.commits[state.main].0.as_str();
    let (commit, file) = match (commit, file, path.strip_prefix("/web/")) {
        (Some(commit), Some(file), _) => (commit, file),
        (_, _, Some(file)) => (main, file.to_owned()),
        _ => return not_found(""),
    };
    let files = state.commits.iter().find(|(name, _)| name == commit).unwrap();
    match files.1.get(&file) {
        Some(bytes) => {
            (200, vec![("etag", format!("\"{}\"", &sha256(bytes)[..16]))], bytes.clone())
        }
        None => not_found(""),
    }
}

fn answer(
    mut stream: TcpStream,
    request: &Request,
    act: Act,
    reply: Reply,
    head_only: bool,
) -> std::io::Result<()> {
    let (mut status, mut headers, mut body) = reply;
    let (mut sent, mut hang, mut drip) = (usize::MAX, false, false);
    let mut ranged = true;
    match act {
        Act::Well => {}
        Act::Status(other, with) => (status, headers, body) = (other, with, b"no".to_vec()),
        Act::Truncate(bytes) => sent = bytes,
        Act::Hang(bytes) => (sent, hang) = (bytes, true),
        Act::Drip(bytes) => (sent, drip) = (bytes, true),
        Act::Flip => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Act::IgnoreRange => ranged = false,
        Act::Etag(etag) => {
            headers.retain(|(name, _)| *name != "etag");
            headers.push(("etag", etag.into()));
        }
        Act::Body(other) => body = other,
    }
    let from = request.range.as_ref().filter(|_| ranged && status == 200);
    let from =
        from.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    if let Some(from) = from {
        let all = body.len();
        if from >= all {
            (status, body) = (416, vec![]);
        } else {
            headers.push(("content-range", format!("bytes {from}-{}/{all}", all - 1)));
            (status, body) = (206, body.split_off(from));
        }
    }
    let mut head =
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if head_only {
        return stream.flush();
    }
    stream.write_all(&body[..sent.min(body.len())])?;
    stream.flush()?;
    for byte in body.iter().skip(sent).filter(|_| drip) {
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&[*byte])?;
    }
    if hang && sent < body.len() {
        std::thread::sleep(Duration::from_mins(5));
    }
    Ok(())
}
