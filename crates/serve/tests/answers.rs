//! Answers: the model's own texts, whole and streamed, alone and among others.

use std::io::{BufRead, BufReader};

use farthing_data::{Message, Role};
use farthing_model::Sampling;
use farthing_talk::{Session, TextRequest};
use serde_json::{Value, json};

use crate::client::{CONTEXT, Toy, model, settings};

/// What the model says by itself.
fn alone(prompt: &str, max_tokens: usize, seed: u64) -> String {
    let model = model();
    let mut session = Session::new(&model, 1, CONTEXT).unwrap();
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
    let task = TextRequest::new(sampling, max_tokens);
    session.start(&model.prompt(prompt).unwrap(), vec![task]).unwrap();
    let mut text = String::new();
    while !session.is_idle() {
        session.step(&mut |made| text.push_str(&made.text)).unwrap();
    }
    text
}

/// The texts that a stream's events make, and how each ended.
fn joined(events: &[Value], n: usize) -> Vec<(String, Value)> {
    let mut texts = vec![(String::new(), Value::Null); n];
    for event in events {
        let choice = &event["choices"][0];
        let text = &mut texts[choice["index"].as_u64().unwrap() as usize];
        assert!(text.1.is_null(), "{event} after the end");
        text.0.push_str(choice["text"].as_str().unwrap());
        text.1 = choice["finish_reason"].clone();
    }
    texts
}

#[test]
fn an_answer_is_the_models_own_text_whole_or_streamed() {
    let toy = Toy::new(settings());
    let mut body =
        json!({ "model": "any", "prompt": "the cat", "max_tokens": 40, "seed": 5, "n": 3 });
    let whole = toy.ask(&body);
    let expected: Vec<String> = (5..8).map(|seed| alone("the cat", 40, seed)).collect();
    assert_eq!(whole.texts(), expected);
    let answer = whole.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("toy")));
    let usage = &answer["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    assert_eq!(count("prompt_tokens") as usize, model().prompt("the cat").unwrap().len());
    assert!(count("completion_tokens") <= 120, "{usage}");
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));

    body["stream"] = json!(true);
    let streamed = toy.ask(&body);
    assert!(streamed.head.contains("content-type: text/event-stream"), "{streamed:?}");
    let events = streamed.events();
    assert!(events.len() > 10, "{events:?}");
    for (i, (text, finish)) in joined(&events, 3).into_iter().enumerate() {
        assert_eq!(text, expected[i]);
        assert_eq!(finish, answer["choices"][i]["finish_reason"]);
    }

    // Several prompts, tokens in place of text, a stop string, another seed each time where none is given.
    let two = json!({ "prompt": ["the cat", "über"], "max_tokens": 9, "seed": 1, "n": 2 });
    let expected = [("the cat", 1), ("the cat", 2), ("über", 1), ("über", 2)];
    let expected: Vec<String> = expected.iter().map(|(p, seed)| alone(p, 9, *seed)).collect();
    assert_eq!(toy.ask(&two).texts(), expected);
    let tokens = model().prompt("the cat").unwrap();
    let by_tokens = json!({ "prompt": tokens, "max_tokens": 9, "seed": 1 });
    assert_eq!(toy.ask(&by_tokens).texts(), expected[..1]);
    let stop: String = expected[0].chars().skip(2).take(2).collect();
    let stopped = json!({ "prompt": "the cat", "max_tokens": 9, "seed": 1, "stop": stop });
    let answer = toy.ask(&stopped);
    assert_eq!(answer.texts(), [&expected[0][..expected[0].find(&stop).unwrap()]]);
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
    let any = json!({ "prompt": "the cat", "max_tokens": 30 });
    assert_ne!(toy.ask(&any).texts(), toy.ask(&any).texts());
}

#[test]
fn fifty_at_once_each_get_their_own_and_prompts_are_never_logged() {
    let toy = Toy::new(settings());
    let secret = "the dog";
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..50u64)
            .map(|i| {
                let toy = &toy;
                scope.spawn(move || {
                    let stream = i % 2 == 0;
                    let body = json!({ "prompt": secret, "max_tokens": 5 + i % 7, "seed": i, "stream": stream });
                    let answer = toy.ask(&body);
                    if stream { joined(&answer.events(), 1).remove(0).0 } else { answer.texts().remove(0) }
                })
            })
            .collect();
        for (i, asking) in asking.into_iter().enumerate() {
            assert_eq!(asking.join().unwrap(), alone(secret, 5 + i % 7, i as u64), "request {i}");
        }
    });
    let told = toy.told.lock().unwrap().clone();
    assert_eq!(told.len(), 50);
    assert!(told.iter().all(|line| line == "POST /v1/completions: 200"), "{told:?}");
}

#[test]
fn more_than_may_wait_are_turned_away_and_who_hangs_up_makes_room() {
    let toy =
        Toy::new(farthing_serve::Settings { places: 1, queue: 1, context: 100_000, ..settings() });
    let long = json!({ "prompt": "the", "max_tokens": 90_000, "stream": true, "temperature": 0 })
        .to_string();
    let begin = || {
        let mut reader = BufReader::new(toy.begin("POST /v1/completions", "", &long));
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (reader, line)
    };
    // The most likely text goes round in circles: it is far from its end when the others come.
    let (mut first, line) = begin();
    assert!(line.contains(" 200 "), "{line}");
    while !line_of(&mut first).starts_with("data: ") {}
    let (second, line) = begin();
    assert!(line.contains(" 200 "), "{line}");
    let refused = toy.ask(&json!({ "prompt": "the", "max_tokens": 3 }));
    assert!(refused.refusal(503).contains("too many requests wait"), "{refused:?}");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    drop((first, second));
    // Nobody reads the two any more; they are given up.
    let answer = loop {
        let answer = toy.ask(&json!({ "prompt": "the", "max_tokens": 3, "seed": 1 }));
        if answer.status != 503 {
            break answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert_eq!(answer.texts(), [alone("the", 3, 1)]);
}

/// What the model answers by itself.
fn turn(said: &[Message], max_tokens: usize, seed: u64) -> String {
    let model = model();
    let mut session = Session::new(&model, 1, CONTEXT).unwrap();
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
    let (prompt, ends) = model.turn(said).unwrap();
    let task = TextRequest { ends, ..TextRequest::new(sampling, max_tokens) };
    session.start(&prompt, vec![task]).unwrap();
    let mut text = String::new();
    while !session.is_idle() {
        session.step(&mut |made| text.push_str(&made.text)).unwrap();
    }
    text
}

#[test]
fn a_chat_is_answered_as_the_model_answers() {
    let toy = Toy::new(settings());
    let said = [
        Message::new(Role::System, "be brief"),
        Message::new(Role::User, "the cat"),
        Message::new(Role::Assistant, "sat"),
        Message::new(Role::User, "on the mat?"),
    ];
    let mut body = json!({
        "messages": [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"},
            {"role": "assistant", "content": "sat"},
            {"role": "user", "content": [{"type": "text", "text": "on the "}, {"type": "text", "text": "mat?"}]},
        ],
        "max_completion_tokens": 30, "seed": 4, "n": 2, "logprobs": true, "top_logprobs": 2,
    });
    let ask = |body: &Value| toy.send("POST /v1/chat/completions", "", &body.to_string());
    let expected: Vec<String> = (4..6).map(|seed| turn(&said, 30, seed)).collect();
    let whole = ask(&body);
    assert_eq!(whole.status, 200, "{whole:?}");
    let answer = whole.json();
    assert_eq!(answer["object"], "chat.completion");
    let choices = answer["choices"].as_array().unwrap();
    for (choice, expected) in choices.iter().zip(&expected) {
        assert_eq!(choice["message"], json!({ "role": "assistant", "content": expected }));
        let told = choice["logprobs"]["content"].as_array().unwrap();
        let bytes: Vec<u8> = told
            .iter()
            .flat_map(|one| serde_json::from_value::<Vec<u8>>(one["bytes"].clone()).unwrap())
            .collect();
        assert_eq!(String::from_utf8_lossy(&bytes), *expected);
        for one in told {
            assert_eq!(one["top_logprobs"].as_array().unwrap().len(), 2);
            assert!(one["logprob"].as_f64().unwrap() <= 0.0);
        }
    }

    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let mut events = ask(&body).events();
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &answer["usage"]));
    let (mut texts, mut told) = (vec![String::new(); 2], [0, 0]);
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        let first = texts[index].is_empty() && told[index] == 0;
        assert_eq!(choice["delta"].get("role").is_some(), first, "{event}");
        texts[index].push_str(choice["delta"]["content"].as_str().unwrap());
        told[index] += choice["logprobs"]["content"].as_array().unwrap().len();
    }
    assert_eq!(texts, expected);
    for (choice, told) in choices.iter().zip(told) {
        assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), told);
    }
    // Without a number of tokens it is what is left of the context, and one is not asked for what it is not.
    assert_eq!(ask(&json!({ "messages": [{"role": "user", "content": "x"}] })).status, 200);
}

#[test]
fn a_completion_tells_its_tokens_probabilities() {
    let toy = Toy::new(settings());
    let body = json!({ "prompt": "the cat", "max_tokens": 8, "seed": 2, "logprobs": 3 });
    let answer = toy.ask(&body);
    let told = answer.json()["choices"][0]["logprobs"].clone();
    let list = |key: &str| told[key].as_array().unwrap().clone();
    let tokens: String = list("tokens").iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    assert!(!tokens.is_empty() && list("tokens").len() == list("token_logprobs").len());
    if !tokens.contains('\u{fffd}') {
        assert_eq!(answer.texts(), [tokens]);
    }
    assert!(
        list("top_logprobs").iter().all(|top| (1..=3).contains(&top.as_object().unwrap().len()))
    );
    let plain = json!({ "prompt": "the cat", "max_tokens": 8, "seed": 2 });
    assert_eq!(toy.ask(&plain).texts(), answer.texts());
    assert!(toy.ask(&plain).json()["choices"][0]["logprobs"].is_null());
}

fn line_of(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended");
    line
}
