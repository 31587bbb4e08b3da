//! Texts under way beside each other: each is what it would be alone, whoever starts and ends meanwhile.

use farthing_data::{BpeSettings, Tokenizer};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::reference::Reference;
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, ModelConfig, Preset, Sampling, save_model};
use farthing_talk::{Error, Finish, Made, Model, Session, TextRequest};

/// Random weights large enough that a text varies, over a tokenizer with bytes that are no characters by themselves.
fn model(dev: Box<dyn Device>) -> Model {
    let text = "the cat sat on the mat, the dog on the log; über Öl, 🦀".to_owned();
    let settings = BpeSettings { vocab_size: 285, ..BpeSettings::default() };
    let (tokenizer, _) = Tokenizer::train(std::iter::once(Ok(text)), &settings).unwrap();
    let keys = ModelConfig {
        head_dim: Some(16),
        aspect_ratio: Some(16),
        short_window: Some(5),
        ..ModelConfig::new(Preset::Nanochat202607, 2)
    };
    let gpt = Gpt::new(keys.resolve(tokenizer.vocab_size(), 20).unwrap()).unwrap();
    let mut params = Params::new(dev.as_ref(), gpt.single_group()).unwrap();
    for spec in gpt.params() {
        let stream = farthing_base::random::Stream::new(1, &spec.name);
        let values: Vec<f64> =
            (0..spec.shape.elements()).map(|i| 0.4 * stream.normal(i as u64)).collect();
        dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
    }
    params.refresh_compute(dev.as_ref()).unwrap();
    Model { dev, gpt, params, tokenizer }
}

fn task(seed: u64, max_tokens: usize) -> TextRequest {
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
    TextRequest::new(sampling, max_tokens)
}

/// A text by itself: its tokens, its text, how it ended.
fn alone(model: &Model, prompt: &str, task: TextRequest) -> (Vec<u32>, String, Finish) {
    let mut session = Session::new(model, 1, 200).unwrap();
    session.start(&model.prompt(prompt).unwrap(), vec![task]).unwrap();
    let (mut tokens, mut text, mut finish) = (vec![], String::new(), None);
    while !session.is_idle() {
        session
            .step(&mut |made| {
                tokens.push(made.token);
                text.push_str(&made.text);
                finish = made.finish;
            })
            .unwrap();
    }
    (tokens, text, finish.unwrap())
}

fn together_is_alone(dev: Box<dyn Device>) {
    let model = model(dev);
    let prompts =
        ["the cat", "", "über", "a much longer prompt than the others, over the window", "x"];
    let mut session = Session::new(&model, 3, 200).unwrap();
    let mut waiting: Vec<usize> = (0..prompts.len()).rev().collect();
    let mut who = [0; 3];
    let mut texts = vec![(vec![], String::new(), None); prompts.len()];
    loop {
        while session.free() > 0 {
            let Some(i) = waiting.pop() else { break };
            let prompt = model.prompt(prompts[i]).unwrap();
            let places = session.start(&prompt, vec![task(i as u64, 10 + 7 * i)]).unwrap();
            who[places[0]] = i;
        }
        if session.is_idle() {
            break;
        }
        session
            .step(&mut |Made { place, token, text, finish, .. }| {
                let to = &mut texts[who[place]];
                to.0.push(token);
                to.1.push_str(&text);
                to.2 = finish;
            })
            .unwrap();
    }
    for (i, (tokens, text, finish)) in texts.into_iter().enumerate() {
        let expected = alone(&model, prompts[i], task(i as u64, 10 + 7 * i));
        assert_eq!((tokens, text, finish.unwrap()), expected, "text {i}");
    }
}

#[test]
fn a_text_among_others_is_the_text_alone() {
    together_is_alone(Box::new(Reference::new()));
    together_is_alone(Box::new(Cpu::new(2).unwrap()));
}

#[test]
fn samples_of_one_prompt_are_those_that_each_seed_makes() {
    let model = model(Box::new(Reference::new()));
    let mut session = Session::new(&model, 4, 200).unwrap();
    let tasks = (0..4).map(|seed| task(seed, 30)).collect();
    assert_eq!(session.start(&model.prompt("the").unwrap(), tasks).unwrap(), [0, 1, 2, 3]);
    let mut texts = vec![String::new(); 4];
    while !session.is_idle() {
        session.step(&mut |made| texts[made.place].push_str(&made.text)).unwrap();
    }
    for (seed, text) in texts.iter().enumerate() {
        assert_eq!(*text, alone(&model, "the", task(seed as u64, 30)).1);
    }
    assert!(texts.windows(2).any(|two| two[0] != two[1]));
}

#[test]
fn a_text_is_that_of_its_tokens_and_ends_before_a_stop_string() {
    let model = model(Box::new(Reference::new()));
    for seed in 0..20 {
        let (tokens, text, finish) = alone(&model, "the", task(seed, 60));
        let said: Vec<u32> =
            tokens.iter().copied().filter(|id| *id != model.tokenizer.bos()).collect();
        assert_eq!(text, model.tokenizer.decode(&said));
        assert_eq!(finish == Finish::Length, said.len() == 60);
        // Some characters in the middle of the text, as a stop string.
        let characters: Vec<char> = text.chars().collect();
        let from = characters.len() / 2;
        let stop: String = characters[from..characters.len().min(from + 3)].iter().collect();
        let stopping = TextRequest { stop: vec![stop.clone()], ..task(seed, 60) };
        let (_, stopped, finish) = alone(&model, "the", stopping);
        assert_eq!(finish, Finish::Stop);
        assert_eq!(stopped, text[..text.find(&stop).unwrap()]);
    }
}

#[test]
fn what_cannot_be_started_is_refused_and_leaves_all_as_it_was() {
    let model = model(Box::new(Reference::new()));
    let mut session = Session::new(&model, 2, 20).unwrap();
    let prompt = model.prompt("the cat").unwrap();
    let full = session.start(&prompt, vec![task(0, 3); 3]).unwrap_err();
    assert!(matches!(full, Error::Full { wanted: 3, free: 2 }), "{full}");
    let long = session.start(&prompt, vec![task(0, 200)]).unwrap_err();
    assert!(matches!(long, Error::Room { room: 20, .. }), "{long}");
    let wrong = Sampling { temperature: -1.0, ..Sampling::GREEDY };
    let refused =
        session.start(&prompt, vec![task(0, 3), TextRequest { sampling: wrong, ..task(0, 3) }]);
    assert!(matches!(refused, Err(Error::Model(_))));
    assert!(matches!(session.start(&[], vec![task(0, 3)]), Err(Error::Model(_))));
    assert!(matches!(session.start(&[9_999], vec![task(0, 3)]), Err(Error::Model(_))));
    assert!(session.is_idle() && session.start(&prompt, vec![]).unwrap().is_empty());
    session.start(&prompt, vec![task(0, 3)]).unwrap();
    session.end(0);
    session.end(7);
    assert!(session.is_idle());
}

#[test]
fn a_model_is_its_file_and_its_own_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let (file, json) = (dir.path().join("m.safetensors"), dir.path().join("t.json"));
    let made = model(Box::new(Cpu::new(1).unwrap()));
    let (dev, weights) = (made.dev.as_ref(), made.params.weights());
    save_model(&file, &made.gpt, dev, weights, 1, &[], &std::collections::BTreeMap::new()).unwrap();
    made.tokenizer.save(&json).unwrap();
    let open = || Model::open(&file, &json, Box::new(Cpu::new(1).unwrap()));
    let opened = open().unwrap();
    assert_eq!(opened.context(), 20);
    assert_eq!(alone(&opened, "the", task(1, 9)), alone(&made, "the", task(1, 9)));
    let settings = BpeSettings { vocab_size: 270, ..BpeSettings::default() };
    let texts = std::iter::once(Ok("the cat sat on the mat, the dog on the log".to_owned()));
    Tokenizer::train(texts, &settings).unwrap().0.save(&json).unwrap();
    let Err(error) = open() else { panic!("another tokenizer is taken") };
    assert!(matches!(error, Error::Vocabulary { model: 285, tokenizer: 270, .. }), "{error}");
}

#[test]
fn a_chat_models_turn_ends_where_it_says_and_probabilities_are_the_models_own() {
    let model = model(Box::new(Cpu::new(1).unwrap()));
    let chat = model.chat().unwrap();
    let said = [farthing_data::Message::new(farthing_data::Role::User, "the cat")];
    let (prompt, ends) = model.turn(&said).unwrap();
    assert_eq!(*prompt.last().unwrap(), chat.assistant[0]);
    assert!(ends.contains(&chat.assistant[1]) && ends.contains(&chat.user[0]));

    let run = |task: TextRequest| {
        let mut session = Session::new(&model, 1, 200).unwrap();
        session.start(&prompt, vec![task]).unwrap();
        let mut all = vec![];
        while !session.is_idle() {
            session.step(&mut |made| all.push(made)).unwrap();
        }
        all
    };
    let plain = run(task(3, 12));
    let likely = run(TextRequest { likely: Some(4), ..task(3, 12) });
    assert_eq!(likely.len(), plain.len());
    for (made, plain) in likely.iter().zip(&plain) {
        assert_eq!((made.token, &made.text), (plain.token, &plain.text), "asking changes nothing");
        assert_eq!(plain.likely, None);
        let told = made.likely.as_ref().unwrap();
        assert_eq!(told.top.len(), 4);
        assert!(told.top.windows(2).all(|two| two[0].1 >= two[1].1));
        let whole: f64 = told.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!(told.logprob <= told.top[0].1 && whole <= 1.0 + 1e-9, "{told:?}");
        if let Some((_, logprob)) = told.top.iter().find(|(id, _)| *id == made.token) {
            assert_eq!(*logprob, told.logprob);
        }
    }
    let all = run(TextRequest { likely: Some(usize::MAX), ..task(3, 1) });
    let whole: f64 = all[0].likely.as_ref().unwrap().top.iter().map(|(_, x)| x.exp()).sum();
    assert!((whole - 1.0).abs() < 1e-9, "{whole}");

    // Any token can be an end; it is not part of the text.
    let end = plain[5].token;
    let first = plain.iter().position(|made| made.token == end).unwrap();
    let ended = run(TextRequest { ends: vec![end], ..task(3, 12) });
    assert_eq!(ended.len(), first + 1);
    assert_eq!(ended.last().unwrap().finish, Some(Finish::Stop));
    let text = |all: &[Made]| all.iter().map(|made| made.text.as_str()).collect::<String>();
    assert!(text(&plain).starts_with(text(&ended).trim_end_matches('\u{fffd}')));
}
