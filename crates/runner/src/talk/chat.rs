//! `runner chat`: a conversation with a model that was finetuned for it. What the model says goes to standard output as it comes, everything else to standard error.

use std::time::Instant;

use anyhow::{Context, anyhow};
use farthing_data::{Message, Role};
use farthing_talk::{Model, Session, TextRequest, visible};

use super::find::{Kept, Loaded, Which};
use super::options::{BrokenOff, Drawing, each_line, say, tell};
use crate::Result;
use crate::progress::format::count;

/// Talks with a model that was finetuned to chat
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    kept: Kept,
    /// One question; without it, every line of the standard input is the next turn, and an empty line begins another conversation
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What goes for the whole conversation; the model reads it before the first question
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    drawing: Drawing,
}

pub(crate) fn chat(args: &Args) -> Result<()> {
    args.drawing.check()?;
    let Loaded { model, chats, path } = args.which.load(args.kept, &tell)?;
    model.chat().map_err(|e| {
        anyhow!(
            "the model in {} cannot chat: {e}\n\
             hint: `runner generate` continues texts with it; the stage `finetune-chat` teaches a model to answer",
            path.display()
        )
    })?;
    if !chats {
        tell(
            "this model was not finetuned to chat: do not expect answers (the stage `finetune-chat` teaches them)",
        );
    }
    let mut talk = Talk { args, model: &model, said: args.begin(), turns: 0 };
    if let Some(prompt) = &args.prompt {
        return talk.turn(prompt);
    }
    let how = "ask and press Enter; an empty line begins another conversation, Ctrl-D ends";
    each_line(how, &mut |line| {
        if line.trim().is_empty() {
            talk.said = args.begin();
            return Ok(());
        }
        talk.turn(line)
    })
}

impl Args {
    /// How a conversation begins.
    fn begin(&self) -> Vec<Message> {
        self.system.iter().map(|text| Message::new(Role::System, text)).collect()
    }
}

/// A conversation under way.
struct Talk<'a> {
    args: &'a Args,
    model: &'a Model,
    said: Vec<Message>,
    /// Turns of all conversations, each of which has a seed of its own.
    turns: u64,
}

impl Talk<'_> {
    /// One question and its answer.
    fn turn(&mut self, question: &str) -> Result<()> {
        let Self { args, model, said, turns } = self;
        said.push(Message::new(Role::User, question));
        let (mut prompt, mut ends) = model.turn(said)?;
        // A quarter of what the model can see is left for the answer, as long as there is something to forget.
        let room = model.context() - model.context() / 4;
        let first = usize::from(args.system.is_some());
        let before = said.len();
        while prompt.len() > room && said.len() > first + 2 {
            said.drain(first..first + 2);
            (prompt, ends) = model.turn(said)?;
        }
        if said.len() < before {
            tell("what was said first is forgotten: the model sees no more at a time");
        }
        let task = TextRequest { ends, ..args.drawing.task(*turns) };
        *turns += 1;
        let mut session = Session::new(model, 1, prompt.len() + task.max_tokens)?;
        session.start(&prompt, vec![task])?;
        let (began, mut tokens, mut answer) = (Instant::now(), 0, String::new());
        while !session.is_idle() {
            let mut piece = String::new();
            session
                .step(&mut |made| {
                    tokens += 1;
                    piece.push_str(&made.text);
                })
                .context(BrokenOff)?;
            say(&visible(&piece))?;
            answer.push_str(&piece);
        }
        say("\n")?;
        said.push(Message::new(Role::Assistant, answer));
        let took = began.elapsed().as_secs_f64();
        tell(&format!(
            "{} tokens in {took:.1} s, {:.1} tokens/s",
            count(tokens),
            tokens as f64 / took.max(f64::MIN_POSITIVE)
        ));
        Ok(())
    }
}
