//! Who and what is turned away: other names, other origins, no key, no JSON, too much.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use farthing_serve::{Error, Server, Settings};
use serde_json::json;

use crate::client::{CONTEXT, Toy, model, settings};

const GOOD: &str = r#"{"prompt": "the", "max_tokens": 2}"#;
const ASK: &str = "POST /v1/completions";

#[test]
fn other_names_and_other_origins_are_turned_away() {
    let toy = Toy::new(Settings { allow_hosts: vec!["model.lan".into()], ..settings() });
    let port = toy.address.port();
    let status = |headers: &str| toy.send(ASK, headers, GOOD).status;
    for host in ["localhost", "127.0.0.1", "[::1]:80", "model.lan", "MODEL.lan:1"] {
        assert_eq!(status(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in ["evil.example", "10.0.0.1", "localhost.evil.example", "", "model.lan.evil"] {
        assert_eq!(status(&format!("Host: {host}\r\n")), 403, "{host}");
    }
    assert_eq!(status("Host: localhost\r\nHost: evil.example\r\n"), 403);
    assert_eq!(
        toy.send("POST http://evil.example/v1/completions", "Host: localhost\r\n", GOOD).status,
        403
    );
    let from = |origin: &str| status(&format!("Host: localhost:{port}\r\nOrigin: {origin}\r\n"));
    assert_eq!(from(&format!("http://localhost:{port}")), 200);
    for origin in
        ["http://evil.example", "null", "http://localhost", "file://", "http://localhost:1"]
    {
        assert_eq!(from(origin), 403, "{origin}");
    }
    // Nothing is shared across origins, and a browser's question whether it may is no path.
    let answer = toy.send("OPTIONS /v1/completions", "", "");
    assert_eq!(answer.status, 405, "{answer:?}");
    for answer in [answer, toy.ask(&json!({"prompt": "x"})), toy.send("GET /x", "", "")] {
        assert!(!answer.head.contains("access-control"), "{answer:?}");
        for header in ["content-security-policy: default-src 'none'", "nosniff", "no-store"] {
            assert!(answer.head.contains(header), "{answer:?}");
        }
    }
}

#[test]
fn a_key_is_asked_for_where_there_is_one_and_needed_beyond_loopback() {
    let key = "a key of many bytes";
    let toy = Toy::new(Settings { api_key: Some(key.into()), ..settings() });
    for (headers, status) in [
        ("", 401),
        ("Authorization: Bearer a key of many byte\r\n", 401),
        ("Authorization: a key of many bytes\r\n", 401),
        ("Authorization: Bearer a key of many bytes\r\n", 200),
    ] {
        assert_eq!(toy.send(ASK, headers, GOOD).status, status, "{headers}");
        assert_eq!(toy.send("GET /v1/models", headers, "").status, status, "{headers}");
    }
    // The page says nothing of the model, and is where a key is typed; it is for those who call the server by its name all the same.
    for path in ["/", "/page.js", "/page.css"] {
        assert_eq!(toy.send(&format!("GET {path}"), "", "").status, 200, "{path}");
        assert_eq!(toy.send(&format!("GET {path}"), "Host: evil.example\r\n", "").status, 403);
    }
    assert_eq!(toy.send("POST /", "", "").status, 401);
    for (address, api_key) in [
        ("0.0.0.0:0", None),
        ("0.0.0.0:0", Some("short".to_owned())),
        ("127.0.0.1:0", Some(String::new())),
    ] {
        let listener = TcpListener::bind(address).unwrap();
        let refused = Server::start(listener, model(), Settings { api_key, ..settings() }, |_| {});
        assert!(matches!(refused.err(), Some(Error::Open { .. })), "{address}");
    }
}

#[test]
fn what_is_no_request_is_told_so() {
    let toy = Toy::new(settings());
    let said = |status: u16, body: &str| toy.send(ASK, "", body).refusal(status);
    for (body, what) in [
        ("", "the body is no request"),
        ("{", "the body is no request"),
        ("[]", "the body is no request"),
        (r#"{"prompt": 7}"#, "the body is no request"),
        (r#"{"max_tokens": 3}"#, "missing field `prompt`"),
        (r#"{"prompt": "x", "echo": true}"#, "unknown field `echo`"),
        (r#"{"prompt": "x", "logprobs": true}"#, "logprobs is a number here"),
        (r#"{"prompt": "x", "logprobs": 21}"#, "at most 20 are told"),
        (r#"{"prompt": "x", "messages": []}"#, "messages is for /v1/chat/completions"),
        (r#"{"prompt": "x", "max_tokens": 0}"#, "max_tokens is 0"),
        (r#"{"prompt": "x", "max_tokens": -1}"#, "the body is no request"),
        (r#"{"prompt": "x", "max_tokens": 18446744073709551615}"#, "that fit here"),
        (r#"{"prompt": "x", "n": 0}"#, "n is 0"),
        (r#"{"prompt": "x", "n": 5}"#, "n is 5, at most 4"),
        (r#"{"prompt": "x", "n": 18446744073709551615}"#, "at most 4"),
        (r#"{"prompt": [], "n": 1}"#, "0 "),
        (r#"{"prompt": ["a", "b", "c"], "n": 2}"#, "3 prompts with n = 2"),
        (r#"{"prompt": "x", "temperature": -1}"#, "temperature is -1"),
        (r#"{"prompt": "x", "top_p": 7}"#, "top_p is 7"),
        (
            r#"{"prompt": "x", "stop": ["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"]}"#,
            "at most 16 stop strings",
        ),
    ] {
        let message = said(400, body);
        assert!(message.contains(what), "{body}: {message}");
    }
    let chat = |body: &str| toy.send("POST /v1/chat/completions", "", body).refusal(400);
    let user = r#"{"role": "user", "content": "x"}"#;
    for (body, what) in [
        ("{}".to_owned(), "missing field `messages`"),
        (format!(r#"{{"messages": [{user}], "prompt": "x"}}"#), "prompt is for /v1/completions"),
        (r#"{"messages": []}"#.to_owned(), "it has no turn of a user"),
        (format!(r#"{{"messages": [{user}, {user}]}}"#), "message 2 is the user's"),
        (
            format!(r#"{{"messages": [{user}, {{"role": "assistant", "content": "x"}}]}}"#),
            "the last message is not the user's",
        ),
        (r#"{"messages": [{"role": "tool", "content": "x"}]}"#.to_owned(), "unknown variant"),
        (format!(r#"{{"messages": [{user}], "logprobs": 3}}"#), "logprobs is true or false here"),
        (format!(r#"{{"messages": [{user}], "tools": []}}"#), "unknown field `tools`"),
        (
            json!({ "messages": [{ "role": "user", "content": "x".repeat(3_000) }] }).to_string(),
            "that fit here",
        ),
    ] {
        let message = chat(&body);
        assert!(message.contains(what), "{body}: {message}");
    }
    let long = json!({ "prompt": "x".repeat(3_000), "max_tokens": 5 }).to_string();
    assert!(said(400, &long).contains(&format!("more than the {CONTEXT} that fit here")));
    let tokens = said(400, r#"{"prompt": [1, 2, 9999], "max_tokens": 5}"#);
    assert!(tokens.contains("9999"), "{tokens}");
    let large = "x".repeat((1 << 20) + 1);
    assert!(said(413, &large).contains("larger than 1048576 bytes"));
    let claimed = toy.send(ASK, "Content-Length: 99999999999\r\n", "");
    assert_eq!(claimed.status, 413, "{claimed:?}");
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let answer = toy.send(ASK, &format!("Content-Type: {kind}\r\n"), GOOD);
        assert_eq!(answer.status, 415, "{kind}");
    }
    assert_eq!(
        toy.send(ASK, "Content-Type: application/json; charset=utf-8\r\n", GOOD).status,
        200
    );
    assert_eq!(toy.send("GET /v1/completions", "", "").status, 405);
    assert_eq!(toy.send("GET /../etc/passwd", "", "").status, 404);
    let models = toy.send("GET /v1/models", "", "").json();
    assert_eq!(models["data"][0]["id"], "toy");
    // What is no HTTP at all ends its own connection, and nobody else's.
    let long = vec![b'x'; 200_000];
    for noise in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", &long] {
        let mut stream = TcpStream::connect(toy.address).unwrap();
        let _ = stream.write_all(noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(toy.send(ASK, "", GOOD).status, 200);
}
