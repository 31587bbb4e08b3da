//! `runner serve`: a model behind OpenAI's completions and chat completions.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use farthing_serve::{Server, Settings};

use super::find::{Kept, Loaded, Which};
use super::options::tell;
use crate::Result;

/// Serves a trained model over HTTP: a page to try it, OpenAI's completions and chat completions
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Every request has to show `Authorization: Bearer KEY` if the environment has FARTHING_API_KEY; without it the address has to be loopback.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    kept: Kept,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// A name, beside those of loopback, that requests may call the server by (repeatable)
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Tokens of a prompt and what is added, at most [default: those that the model was trained on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    context: Option<u32>,
    /// Texts that are made at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    places: u32,
    /// Requests that wait, beyond which others are turned away
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    queue: u32,
}

/// The variable that has the key.
const KEY: &str = "FARTHING_API_KEY";

pub(crate) fn serve(args: &Args) -> Result<()> {
    let api_key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
    // Before a model is loaded that takes a while.
    let listener = TcpListener::bind(args.listen).with_context(|| {
        format!("listening on {}\nhint: choose another address with --listen", args.listen)
    })?;
    let Loaded { model, chats, .. } = args.which.load(args.kept, &tell)?;
    let context = args.context.map_or(model.context(), |context| context as usize);
    let settings = Settings {
        name: args.which.name(),
        chats,
        allow_hosts: args.allow_host.clone(),
        api_key,
        places: args.places as usize,
        context,
        queue: args.queue as usize,
    };
    let server = Server::start(listener, model, settings, tell).map_err(|e| match e {
        farthing_serve::Error::Open { .. } => anyhow::Error::from(e)
            .context(format!("anybody could use the model\nhint: set {KEY} in the environment")),
        e => e.into(),
    })?;
    let address = server.address();
    tell(&format!("http://{address}/ in a browser, http://{address}/v1 for programs; Ctrl-C ends"));
    Ok(server.wait()?)
}
