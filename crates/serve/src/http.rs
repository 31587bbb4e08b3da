//! The door: connections with limits, a guard before every request, and the answers.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Router, extract};
use farthing_base::random::mix;
use farthing_data::Tokenizer;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, Semaphore};

use crate::api::{self, Choice, Form, Prompt, Refusal, Source, Told, json_response};
use crate::engine::{Job, Said};
use crate::stall::Stall;
use crate::{Error, Result, Settings, guard, page};

/// Bytes of a request, at most.
const MOST_BODY_BYTES: usize = 1 << 20;
/// How long the head of a request may take, how long a connection may be idle, and how long an answer may wait for who reads it; how long the body may take.
const HEAD: Duration = Duration::from_secs(30);
const BODY: Duration = Duration::from_secs(30);
/// Connections at a time; others wait to be let in.
const MOST_CONNECTIONS: usize = 256;

/// What handlers share.
pub(crate) struct State {
    settings: Settings,
    tokenizer: Tokenizer,
    jobs: Sender<Job>,
    /// Prompts that may wait for a place.
    queue: Arc<Semaphore>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
    /// Requests so far.
    count: AtomicU64,
    started: SystemTime,
}

impl State {
    pub(crate) fn new(
        settings: Settings,
        tokenizer: Tokenizer,
        jobs: Sender<Job>,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        let queue = Arc::new(Semaphore::new(settings.queue));
        let (count, started) = (AtomicU64::new(0), SystemTime::now());
        Self { settings, tokenizer, jobs, queue, tell, count, started }
    }
}

type Shared = extract::State<Arc<State>>;

/// Lets connections in until it is told to stop.
pub(crate) fn run(listener: TcpListener, state: State, stop: &Notify) -> Result<()> {
    let io = |what| move |source| Error::Io { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("starting the server"))?;
    let state = Arc::new(state);
    let router = Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/", get(async || page::file("/")))
        .route("/page.js", get(async || page::file("/page.js")))
        .route("/page.css", get(async || page::file("/page.css")))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(from_fn_with_state(Arc::clone(&state), guarded))
        .with_state(state);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(io("listening"))?;
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
            let accepted = tokio::select! {
                () = stop.notified() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Too many open files, as a rule: others have to end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10);
                // What a client does wrong is its own affair.
                let _ =
                    http.serve_connection(TokioIo::new(Stall::new(stream, HEAD)), service).await;
                drop(permit);
            });
        }
    })
}

/// The headers of every answer: nothing is framed, guessed or kept, and what runs in a page is the page's own files and asks nobody else.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Before and after every request.
async fn guarded(extract::State(state): Shared, request: Request, next: Next) -> Response<Body> {
    let about = format!("{} {}", request.method(), request.uri().path());
    let mut response =
        match guard::check(&state.settings, request.method(), request.uri(), request.headers()) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.response(),
        };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let shown: String = about.chars().filter(|c| !c.is_control()).take(80).collect();
    (state.tell)(&format!("{shown}: {}", response.status().as_u16()));
    response
}

async fn nothing() -> Response<Body> {
    let message =
        "there is nothing here; POST /v1/completions or /v1/chat/completions, GET /v1/models";
    Refusal::new(StatusCode::NOT_FOUND, message).response()
}

async fn not_so(method: Method) -> Response<Body> {
    let message = format!("{method} is not for this path");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, &message).response()
}

async fn models(extract::State(state): Shared) -> Response<Body> {
    let model = json!({
        "id": state.settings.name, "object": "model", "created": seconds(state.started), "owned_by": "farthing",
        "context": state.settings.context, "chats": state.settings.chats,
    });
    json_response(StatusCode::OK, &json!({ "object": "list", "data": [model] }))
}

async fn completions(state: Shared, request: Request) -> Response<Body> {
    answer(&state.0, Form::Text, request).await.unwrap_or_else(|refusal| refusal.response())
}

async fn chat(state: Shared, request: Request) -> Response<Body> {
    answer(&state.0, Form::Chat, request).await.unwrap_or_else(|refusal| refusal.response())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The body as a request.
async fn read(request: Request) -> Result<api::Request, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "the request is no JSON: set `Content-Type: application/json`";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let too_large = || {
        let message = format!("the body is cut off, or larger than {MOST_BODY_BYTES} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, &message)
    };
    // Nobody waits for what is announced to be too much.
    if request.body().size_hint().lower() > MOST_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let body = axum::body::to_bytes(request.into_body(), MOST_BODY_BYTES);
    let body = tokio::time::timeout(BODY, body)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
    let body = body.map_err(|_| too_large())?;
    // A struct is read from a list, too, by whoever does not say otherwise.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::bad("the body is no request: it is no JSON object", None));
    }
    // serde quotes no more than the name or the place of what is wrong; an untagged enum not even that.
    serde_json::from_slice(&body)
        .map_err(|e| Refusal::bad(&format!("the body is no request: {e}"), None))
}

async fn answer(
    state: &Arc<State>,
    form: Form,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let request = read(request).await?;
    let number = state.count.fetch_add(1, Ordering::Relaxed);
    let nanos = state.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let (id, seed) = (
        mix(nanos ^ number.wrapping_mul(farthing_base::random::PHI)),
        mix(nanos.wrapping_add(number)),
    );
    let wanted = request.wanted(form, seed)?;
    let Settings { places, context, .. } = state.settings;
    if wanted.n > places {
        return Err(Refusal::bad(&format!("n is {}, at most {places} here", wanted.n), Some("n")));
    }
    let (prompts, ends) = tokens(state, &wanted.source).await?;
    let texts = prompts.len().saturating_mul(wanted.n);
    if texts == 0 || texts > places {
        let message = format!(
            "{} prompts with n = {}: from 1 to {places} texts at once here",
            prompts.len(),
            wanted.n
        );
        return Err(Refusal::bad(&message, Some("prompt")));
    }
    for prompt in &prompts {
        let (long, more) = (prompt.len(), wanted.max_tokens(prompt.len(), context));
        if long.saturating_add(more) > context {
            let message = format!(
                "the prompt has {long} tokens and max_tokens is {more}: more than the {context} that fit here"
            );
            return Err(Refusal::bad(&message, Some("max_tokens")));
        }
    }
    let mut answer = Answer {
        state: Arc::clone(state),
        form,
        id: format!("{}-{id:016x}", if form == Form::Chat { "chatcmpl" } else { "cmpl" }),
        created: seconds(SystemTime::now()),
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
        replies: vec![],
        open: texts,
        tokens: 0,
        each: wanted.n,
        begun: vec![false; texts],
        include_usage: wanted.include_usage,
    };
    for prompt in prompts {
        let (reply, said) = unbounded_channel();
        let waits = Arc::clone(&state.queue).try_acquire_owned().map_err(|_| {
            let message = "too many requests wait already; try again in a moment";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
        })?;
        let tasks = wanted.tasks(wanted.max_tokens(prompt.len(), context), &ends);
        let job = Job { prompt, tasks, reply, waits };
        state
            .jobs
            .send(job)
            .map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the model has ended"))?;
        answer.replies.push(said);
    }
    if wanted.stream { Ok(answer.stream()) } else { answer.whole().await }
}

/// The tokens of each prompt, and those at which its texts end; the encoder works beside the requests of others.
async fn tokens(state: &Arc<State>, source: &Source) -> Result<(Vec<Vec<u32>>, Vec<u32>), Refusal> {
    let tokenizer = state.tokenizer.clone();
    let encoded = match source {
        Source::Prompt(Prompt::Tokens(tokens)) => {
            let vocab = state.tokenizer.vocab_size();
            let wrong =
                tokens.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab));
            return match wrong {
                None => Ok((vec![tokens.clone()], vec![])),
                Some(id) => {
                    let message = format!("token {id} is not of the vocabulary, which has {vocab}");
                    Err(Refusal::bad(&message, Some("prompt")))
                }
            };
        }
        Source::Messages(messages) => {
            let messages = messages.clone();
            tokio::task::spawn_blocking(move || {
                let (prompt, ends) = farthing_talk::turn(&tokenizer, &messages)?;
                Ok((vec![prompt], ends))
            })
            .await
        }
        Source::Prompt(prompt) => {
            let texts = match prompt {
                Prompt::One(text) => vec![text.clone()],
                Prompt::Many(texts) => texts.clone(),
                Prompt::Tokens(_) => vec![],
            };
            tokio::task::spawn_blocking(move || {
                let all = texts.iter().map(|text| {
                    let mut tokens = vec![tokenizer.bos()];
                    tokenizer.encode_to(text, &mut tokens)?;
                    Ok(tokens)
                });
                Ok((all.collect::<farthing_data::Result<_>>()?, vec![]))
            })
            .await
        }
    };
    let encoded: Result<farthing_talk::Result<_>, _> = encoded;
    match encoded {
        Ok(Ok(tokens)) => Ok(tokens),
        Ok(Err(e)) => Err(Refusal::bad(&e.to_string(), None)),
        Err(_) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the encoder failed")),
    }
}

/// An answer on its way. Dropped with the client's connection, it ends its texts.
struct Answer {
    state: Arc<State>,
    form: Form,
    id: String,
    created: u64,
    prompt_tokens: usize,
    /// One for each prompt.
    replies: Vec<UnboundedReceiver<Said>>,
    /// Texts that have not ended.
    open: usize,
    tokens: usize,
    /// Texts of each prompt.
    each: usize,
    /// Of which texts an event was sent.
    begun: Vec<bool>,
    /// Whether a stream ends with what it took.
    include_usage: bool,
}

impl Answer {
    /// What comes next of any text; `None` after the last.
    async fn next(&mut self) -> Option<Result<Choice, Refusal>> {
        if self.open == 0 {
            return None;
        }
        let failed =
            |message: &str| Some(Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)));
        let each = self.each;
        let replies = self.replies.iter_mut().enumerate();
        let waits = replies.map(|(i, reply)| Box::pin(async move { (i, reply.recv().await) }));
        // A prompt whose texts have ended has a closed channel, and is out of the question.
        let mut waits: Vec<_> = waits.collect();
        loop {
            if waits.is_empty() {
                return failed("the model has ended");
            }
            let ((i, said), _, rest) = futures_util::future::select_all(waits).await;
            match said {
                Some(Said::Made { which, token, text, finish, likely }) => {
                    self.tokens += 1;
                    self.open -= usize::from(finish.is_some());
                    // What ends a turn is no token of its text.
                    let special = self.state.tokenizer.is_special(token);
                    let told = likely
                        .map(|likely| if special { vec![] } else { vec![Told { token, likely }] });
                    let index = i * each + which;
                    return Some(Ok(Choice { index, text, finish, told, goes_on: false }));
                }
                Some(Said::Failed(what)) => return failed(&what),
                None => waits = rest,
            }
        }
    }

    fn body(&self, stream: bool, choices: &[Choice]) -> Value {
        let object = match (self.form, stream) {
            (Form::Text, _) => "text_completion",
            (Form::Chat, false) => "chat.completion",
            (Form::Chat, true) => "chat.completion.chunk",
        };
        let tokenizer = &self.state.tokenizer;
        let choices: Vec<Value> =
            choices.iter().map(|choice| choice.json(self.form, stream, tokenizer)).collect();
        json!({
            "id": self.id, "object": object, "created": self.created,
            "model": self.state.settings.name, "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        })
    }

    async fn whole(mut self) -> Result<Response<Body>, Refusal> {
        let of = |index| Choice { index, ..Choice::default() };
        let mut choices: Vec<Choice> = (0..self.open).map(of).collect();
        while let Some(piece) = self.next().await {
            let Choice { index, text, finish, told, .. } = piece?;
            let choice = &mut choices[index];
            choice.text.push_str(&text);
            choice.finish = finish;
            if let Some(told) = told {
                choice.told.get_or_insert_default().extend(told);
            }
        }
        let mut body = self.body(false, &choices);
        body["usage"] = self.usage();
        Ok(json_response(StatusCode::OK, &body))
    }

    /// The next event: pieces without text wait for one that has some, since nobody sees them.
    async fn event(&mut self, waiting: &mut [Vec<Told>]) -> Option<Result<Value, Refusal>> {
        loop {
            let mut choice = match self.next().await? {
                Ok(choice) => choice,
                Err(refusal) => return Some(Err(refusal)),
            };
            let index = choice.index;
            if let Some(told) = choice.told.take() {
                waiting[index].extend(told);
                if choice.text.is_empty() && choice.finish.is_none() {
                    continue;
                }
                choice.told = Some(std::mem::take(&mut waiting[index]));
            } else if choice.text.is_empty() && choice.finish.is_none() {
                continue;
            }
            choice.goes_on = std::mem::replace(&mut self.begun[index], true);
            return Some(Ok(self.body(true, &[choice])));
        }
    }

    /// Server-sent events, one for each piece of text.
    fn stream(self) -> Response<Body> {
        let event = |data: String| Ok::<_, Infallible>(Bytes::from(format!("data: {data}\n\n")));
        let waiting: Vec<Vec<Told>> = vec![vec![]; self.open];
        let pieces = futures_util::stream::unfold(Some((self, waiting)), move |going| async move {
            let (mut answer, mut waiting) = going?;
            match answer.event(&mut waiting).await {
                Some(Ok(body)) => Some((event(body.to_string()), Some((answer, waiting)))),
                Some(Err(refusal)) => Some((event(refusal.body().to_string()), None)),
                None if answer.include_usage => {
                    let mut body = answer.body(true, &[]);
                    body["usage"] = answer.usage();
                    answer.include_usage = false;
                    Some((event(body.to_string()), Some((answer, waiting))))
                }
                None => Some((event("[DONE]".into()), None)),
            }
        });
        let mut response = Response::new(Body::from_stream(pieces));
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
