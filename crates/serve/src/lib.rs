//! Serves a trained model over HTTP with OpenAI's API for completions and chat completions, streamed or whole. Requests that arrive together are decoded together.
//!
//! This is the only crate with async code; the model itself works on a thread of its own. Logs have figures about a request, never its text.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod api;
mod engine;
mod error;
mod guard;
mod http;
mod page;
mod stall;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::thread::JoinHandle;

use farthing_talk::Model;
use tokio::sync::Notify;

pub use error::{Error, Result};

/// How a model is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the model is called.
    pub name: String,
    /// Whether it was finetuned to chat: what the page begins with.
    pub chats: bool,
    /// Names, beside those of this machine's loopback, that a request may call the server by: the `Host` of its address, without a port.
    pub allow_hosts: Vec<String>,
    /// What every request has to show as `Authorization: Bearer KEY`; needed where the address is not loopback.
    pub api_key: Option<String>,
    /// Texts that are made at the same time.
    pub places: usize,
    /// Tokens of a prompt and what is added to it, at most.
    pub context: usize,
    /// Prompts that wait, beyond which others are turned away.
    pub queue: usize,
}

/// Shorter keys are guessed.
const SHORTEST_KEY: usize = 16;

/// A model being served.
pub struct Server {
    address: SocketAddr,
    stop: Arc<Notify>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Server {
    /// Serves on a listener until [`Server::stop`]. `tell` is told of each request, in a line without its text.
    ///
    /// # Errors
    /// [`Error::Open`] for an address that is not loopback, without a key or with a short one; [`Error::Talk`] when there is not the memory; [`Error::Io`].
    pub fn start(
        listener: TcpListener,
        model: Model,
        settings: Settings,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        let io = |what| move |source| Error::Io { what, source };
        let address = listener.local_addr().map_err(io("asking for the address"))?;
        let key = settings.api_key.as_deref();
        if key.is_some_and(|key| key.len() < SHORTEST_KEY)
            || key.is_none() && !address.ip().is_loopback()
        {
            return Err(Error::Open { address, bytes: SHORTEST_KEY });
        }
        listener.set_nonblocking(true).map_err(io("setting up the listener"))?;
        let (jobs, waiting) = channel();
        let tokenizer = model.tokenizer.clone();
        let (places, context) = (settings.places, settings.context);
        let (ready, made) = sync_channel(1);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let engine =
            named("model").spawn(move || engine::run(&model, places, context, &waiting, &ready));
        let mut threads = vec![engine.map_err(io("starting the model's thread"))?];
        if made.recv().is_err() {
            // It ended before it was ready, and says why.
            return match threads.remove(0).join() {
                Ok(result) => Err(result.err().unwrap_or(Error::Ended)),
                Err(_) => Err(Error::Ended),
            };
        }
        let stop = Arc::new(Notify::new());
        let state = http::State::new(settings, tokenizer, jobs, Box::new(tell));
        let until = Arc::clone(&stop);
        let door = named("http").spawn(move || http::run(listener, state, &until));
        threads.push(door.map_err(io("starting the server's thread"))?);
        Ok(Self { address, stop, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nobody in any more and leaves what is under way; [`Server::wait`] returns then.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// Why it ended by itself.
    pub fn wait(self) -> Result<()> {
        // The door first: the model's thread ends when nobody can ask any more.
        for thread in self.threads.into_iter().rev() {
            thread.join().unwrap_or(Err(Error::Ended))?;
        }
        Ok(())
    }
}
