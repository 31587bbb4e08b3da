//! OpenAI's completions and chat completions: what a request may say, and how answers and refusals are written.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use farthing_data::{Content, Conversation, Message, PartKind, Role, Tokenizer};
use farthing_model::Sampling;
use farthing_talk::{Finish, Likely, TextRequest};
use serde::Deserialize;
use serde_json::{Value, json};

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A text is continued.
    Text,
    /// A turn of a conversation is answered.
    Chat,
}

/// A request of either form. What is not here is refused, not ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// One model is served, whatever it is called here.
    #[serde(default, rename = "model")]
    _model: Option<String>,
    #[serde(default)]
    prompt: Option<Prompt>,
    #[serde(default)]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<usize>,
    #[serde(default)]
    min_p: Option<f64>,
    #[serde(default)]
    repetition_penalty: Option<f64>,
    #[serde(default)]
    n: Option<usize>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    stop: Option<Strings>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
    #[serde(default)]
    top_logprobs: Option<usize>,
    #[serde(default, rename = "user")]
    _user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// How many of the likeliest tokens a completion tells; whether a chat tells any.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Logprobs {
    Tell(bool),
    Most(usize),
}

/// One text, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    One(String),
    Many(Vec<String>),
    Tokens(Vec<u32>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Strings {
    One(String),
    Many(Vec<String>),
}

/// OpenAI's default for a completion.
const MAX_TOKENS: usize = 16;
/// For a chat, what is left of the context, up to this.
const MAX_CHAT_TOKENS: usize = 1_024;
/// Stop strings of a request, and bytes of each.
const MOST_STOPS: (usize, usize) = (16, 256);
/// Likeliest tokens that are told.
const MOST_LIKELY: usize = 20;

/// What a text is made from.
#[derive(Debug)]
pub(crate) enum Source {
    Prompt(Prompt),
    Messages(Vec<Message>),
}

/// A request that makes sense by itself.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) source: Source,
    pub(crate) n: usize,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    max_tokens: Option<usize>,
    task: TextRequest,
}

impl Request {
    /// Refuses what a form does not have, and numbers out of their domains; `seed` is for requests that bring none.
    pub(crate) fn wanted(self, form: Form, seed: u64) -> Result<Wanted, Refusal> {
        let other = |key: &'static str, given: bool| match form {
            _ if !given => Ok(()),
            Form::Text => {
                Err(Refusal::bad(&format!("{key} is for /v1/chat/completions"), Some(key)))
            }
            Form::Chat => Err(Refusal::bad(&format!("{key} is for /v1/completions"), Some(key))),
        };
        let source = match form {
            Form::Text => {
                other("messages", self.messages.is_some())?;
                other("max_completion_tokens", self.max_completion_tokens.is_some())?;
                other("top_logprobs", self.top_logprobs.is_some())?;
                let missing = || Refusal::bad("missing field `prompt`", Some("prompt"));
                Source::Prompt(self.prompt.ok_or_else(missing)?)
            }
            Form::Chat => {
                other("prompt", self.prompt.is_some())?;
                let missing = || Refusal::bad("missing field `messages`", Some("messages"));
                Source::Messages(turns(self.messages.ok_or_else(missing)?)?)
            }
        };
        let likely = match (form, self.logprobs) {
            (_, None) => None,
            (Form::Text, Some(Logprobs::Most(most))) => Some(most),
            (Form::Chat, Some(Logprobs::Tell(tell))) => {
                tell.then_some(self.top_logprobs.unwrap_or(0))
            }
            (Form::Text, _) => {
                return Err(Refusal::bad("logprobs is a number here", Some("logprobs")));
            }
            (Form::Chat, _) => {
                return Err(Refusal::bad("logprobs is true or false here", Some("logprobs")));
            }
        };
        if let Some(most) = likely.filter(|most| *most > MOST_LIKELY) {
            let what = format!("{most} likeliest tokens, at most {MOST_LIKELY} are told");
            return Err(Refusal::bad(&what, Some("logprobs")));
        }
        let stop = match self.stop {
            None => vec![],
            Some(Strings::One(one)) => vec![one],
            Some(Strings::Many(many)) => many,
        };
        let (most, bytes) = MOST_STOPS;
        if stop.len() > most || stop.iter().any(|stop| stop.len() > bytes) {
            let what = format!("at most {most} stop strings of at most {bytes} bytes");
            return Err(Refusal::bad(&what, Some("stop")));
        }
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        if max_tokens == Some(0) {
            return Err(Refusal::bad("max_tokens is 0, expected at least 1", Some("max_tokens")));
        }
        let n = self.n.unwrap_or(1);
        if n == 0 {
            return Err(Refusal::bad("n is 0, expected at least 1", Some("n")));
        }
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.map_or(seed, |seed| seed as u64),
        };
        sampling.check().map_err(|e| Refusal::bad(&e.to_string(), None))?;
        Ok(Wanted {
            source,
            n,
            stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.is_some_and(|options| options.include_usage),
            max_tokens: max_tokens.or((form == Form::Text).then_some(MAX_TOKENS)),
            task: TextRequest { stop, likely, ..TextRequest::new(sampling, 1) },
        })
    }
}

impl Wanted {
    /// The most tokens to add to a prompt of so many.
    pub(crate) fn max_tokens(&self, prompt: usize, context: usize) -> usize {
        let left = || context.saturating_sub(prompt).clamp(1, MAX_CHAT_TOKENS);
        self.max_tokens.unwrap_or_else(left)
    }

    /// The texts that are made of each prompt.
    pub(crate) fn tasks(&self, max_tokens: usize, ends: &[u32]) -> Vec<TextRequest> {
        let task = |i: usize| {
            let seed = self.task.sampling.seed.wrapping_add(i as u64);
            let sampling = Sampling { seed, ..self.task.sampling };
            TextRequest { sampling, max_tokens, ends: ends.to_vec(), ..self.task.clone() }
        };
        (0..self.n).map(task).collect()
    }
}

/// Messages as a model that chats has them: parts that are text are one text; the last turn is the user's.
fn turns(mut messages: Vec<Message>) -> Result<Vec<Message>, Refusal> {
    for message in &mut messages {
        if let Content::Parts(parts) = &message.content
            && parts.iter().all(|part| part.kind == PartKind::Text)
        {
            message.content = Content::Text(parts.iter().map(|part| part.text.as_str()).collect());
        }
    }
    let talk = Conversation { messages };
    let fault = talk.fault().or_else(|| {
        let last = talk.messages.last().is_some_and(|message| message.role == Role::User);
        (!last).then(|| "the last message is not the user's".to_owned())
    });
    match fault {
        Some(fault) => Err(Refusal::bad(&format!("messages: {fault}"), Some("messages"))),
        None => Ok(talk.messages),
    }
}

/// An answer that is an error, in OpenAI's form.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    message: String,
    param: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: &str) -> Self {
        Self { status, message: message.to_owned(), param: None }
    }

    pub(crate) fn bad(message: &str, param: Option<&'static str>) -> Self {
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "the request shows no `Authorization: Bearer KEY` with the server's key";
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(crate) fn body(&self) -> Value {
        let kind =
            if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": null } })
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = json_response(self.status, &self.body());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

/// JSON with a status.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string() + "\n"));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A token and what the model thought of it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) token: u32,
    pub(crate) likely: Likely,
}

/// A text of an answer, whole or a piece of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) finish: Option<Finish>,
    /// Of its tokens, where they were asked for.
    pub(crate) told: Option<Vec<Told>>,
    /// Whether something came before this piece.
    pub(crate) goes_on: bool,
}

impl Choice {
    /// As the form has it: in a whole answer, or in a stream's event.
    pub(crate) fn json(&self, form: Form, stream: bool, tokenizer: &Tokenizer) -> Value {
        let reason = self.finish.map(|finish| match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        });
        let logprobs = self.told.as_ref().map(|told| logprobs(form, told, tokenizer));
        let mut choice =
            json!({ "index": self.index, "logprobs": logprobs, "finish_reason": reason });
        match (form, stream, self.goes_on) {
            (Form::Text, ..) => choice["text"] = json!(self.text),
            (_, false, _) => {
                choice["message"] = json!({ "role": "assistant", "content": self.text });
            }
            (_, _, false) => choice["delta"] = json!({ "role": "assistant", "content": self.text }),
            _ => choice["delta"] = json!({ "content": self.text }),
        }
        choice
    }
}

fn logprobs(form: Form, told: &[Told], tokenizer: &Tokenizer) -> Value {
    let text = |id: u32| tokenizer.decode(&[id]);
    if form == Form::Chat {
        let of = |id: u32, logprob: f64| json!({ "token": text(id), "logprob": logprob, "bytes": tokenizer.decode_bytes(&[id]) });
        let content = told.iter().map(|Told { token, likely }| {
            let mut one = of(*token, likely.logprob);
            one["top_logprobs"] =
                likely.top.iter().map(|(id, logprob)| of(*id, *logprob)).collect();
            one
        });
        return json!({ "content": content.collect::<Vec<_>>() });
    }
    let top = told.iter().map(|one| {
        let pairs = one.likely.top.iter().map(|(id, logprob)| (text(*id), json!(logprob)));
        Value::Object(pairs.collect())
    });
    json!({
        "tokens": told.iter().map(|one| text(one.token)).collect::<Vec<_>>(),
        "token_logprobs": told.iter().map(|one| one.likely.logprob).collect::<Vec<_>>(),
        "top_logprobs": top.collect::<Vec<_>>(),
    })
}
