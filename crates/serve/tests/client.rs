//! A small model being served, and a client that speaks HTTP by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use farthing_base::random::Stream;
use farthing_data::{BpeSettings, Tokenizer};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, ModelConfig, Preset};
use farthing_serve::{Server, Settings};
use farthing_talk::Model;
use serde_json::Value;

pub(crate) const CONTEXT: usize = 400;

/// Random weights, large enough that texts vary, over bytes and a few words.
pub(crate) fn model() -> Model {
    let text = "the cat sat on the mat, the dog on the log; über Öl, 🦀".to_owned();
    let settings = BpeSettings { vocab_size: 285, ..BpeSettings::default() };
    let (tokenizer, _) = Tokenizer::train(std::iter::once(Ok(text)), &settings).unwrap();
    let keys = ModelConfig {
        head_dim: Some(16),
        aspect_ratio: Some(16),
        ..ModelConfig::new(Preset::Nanochat202607, 2)
    };
    let gpt = Gpt::new(keys.resolve(tokenizer.vocab_size(), 64).unwrap()).unwrap();
    let dev: Box<dyn Device> = Box::new(Cpu::new(1).unwrap());
    let mut params = Params::new(dev.as_ref(), gpt.single_group()).unwrap();
    for spec in gpt.params() {
        let stream = Stream::new(1, &spec.name);
        let values: Vec<f64> =
            (0..spec.shape.elements()).map(|i| 0.3 * stream.normal(i as u64)).collect();
        dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
    }
    params.refresh_compute(dev.as_ref()).unwrap();
    Model { dev, gpt, params, tokenizer }
}

pub(crate) fn settings() -> Settings {
    Settings {
        name: "toy".into(),
        allow_hosts: vec![],
        api_key: None,
        chats: false,
        places: 4,
        context: CONTEXT,
        queue: 64,
    }
}

/// A server, and what it told.
pub(crate) struct Toy {
    server: Option<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) told: Arc<Mutex<Vec<String>>>,
}

impl Toy {
    pub(crate) fn new(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = Arc::clone(&told);
        let tell = move |line: &str| tells.lock().unwrap().push(line.to_owned());
        let server = Server::start(listener, model(), settings, tell).unwrap();
        Self { address: server.address(), server: Some(server), told }
    }

    /// A request that is all as it should be, with this body.
    pub(crate) fn ask(&self, body: &Value) -> Answer {
        self.send("POST /v1/completions", "", &body.to_string())
    }

    /// Sends a request and reads the answer; `headers` come before those that are usual, and in their place.
    pub(crate) fn send(&self, line: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.begin(line, headers, body);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Answer::of(&String::from_utf8(answer).unwrap())
    }

    /// Sends a request and leaves the answer to the caller.
    pub(crate) fn begin(&self, line: &str, headers: &str, body: &str) -> TcpStream {
        let mut head = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}");
        let has = |name: &str| headers.to_lowercase().contains(&format!("{name}:"));
        if !has("host") {
            head = format!("{head}Host: {}\r\n", self.address);
        }
        if !has("content-type") {
            head += "Content-Type: application/json\r\n";
        }
        if !has("content-length") {
            head = format!("{head}Content-Length: {}\r\n", body.len());
        }
        let mut stream = TcpStream::connect(self.address).unwrap();
        // A server that has heard enough may close before all is sent.
        let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
        stream
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            let ended = server.wait();
            assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn of(all: &str) -> Self {
        let (head, body) = all.split_once("\r\n\r\n").unwrap_or((all, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let head = head.to_lowercase();
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        Self { status, head, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The message of an answer that is an error of this status.
    pub(crate) fn refusal(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The texts of an answer that is one.
    pub(crate) fn texts(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{self:?}");
        let json = self.json();
        let choices = json["choices"].as_array().unwrap().clone();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    }

    /// The events of a stream, without the last, which says that it is done.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        let mut events: Vec<&str> =
            self.body.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{self:?}");
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}
