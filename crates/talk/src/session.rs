//! Several texts in the making at once: each has a place, and a step adds a token to all. A text that ends makes room for another, while the others go on.

use farthing_model::{BatchGenerator, Sampling};

use crate::{Error, Model, Result, Stops, Utf8};

/// What is to be made of a prompt.
#[derive(Clone, Debug)]
pub struct TextRequest {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The most tokens to add; at least 1.
    pub max_tokens: usize,
    /// Strings at which the text ends, themselves not part of it.
    pub stop: Vec<String>,
    /// Tokens at which it ends, beside a document's beginning.
    pub ends: Vec<u32>,
    /// With each token, tell its probability and those of so many that were likeliest.
    pub likely: Option<usize>,
}

impl TextRequest {
    /// A text of at most `max_tokens` tokens that only the model ends.
    pub fn new(sampling: Sampling, max_tokens: usize) -> Self {
        Self { sampling, max_tokens, stop: vec![], ends: vec![], likely: None }
    }
}

/// What the model thought of a token, before anything of a [`Sampling`].
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// The logarithm of the token's probability.
    pub logprob: f64,
    /// The likeliest tokens with theirs, the first first.
    pub top: Vec<(u32, f64)>,
}

impl Likely {
    /// Of `token` among `logits`, and of the `most` likeliest.
    fn of(logits: &[f64], token: usize, most: usize) -> Self {
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|x| (x - highest).exp()).sum();
        let all = highest + sum.ln();
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let most = most.min(ids.len());
        let by = |a: &u32, b: &u32| {
            logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b))
        };
        if most > 0 && most < ids.len() {
            ids.select_nth_unstable_by(most - 1, by);
        }
        ids.truncate(most);
        ids.sort_unstable_by(by);
        let top = ids.into_iter().map(|id| (id, logits[id as usize] - all)).collect();
        Self { logprob: logits.get(token).map_or(f64::NEG_INFINITY, |x| x - all), top }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// The model ended the document or its turn, or a stop string came.
    Stop,
    /// There are as many tokens as were asked for.
    Length,
}

/// What a step made of one text.
#[derive(Clone, Debug)]
pub struct Made {
    /// The text's place.
    pub place: usize,
    /// The token that was drawn.
    pub token: u32,
    /// What it adds to the text. Whole characters: empty where one is begun, or where a stop string may have begun.
    pub text: String,
    /// Whether the text ends here; its place is free then.
    pub finish: Option<Finish>,
    /// What [`TextRequest::likely`] asks for.
    pub likely: Option<Likely>,
}

/// A text under way.
struct Running {
    task: TextRequest,
    made: usize,
    utf8: Utf8,
    stops: Stops,
}

/// Places for texts, and who is in them.
pub struct Session<'a> {
    model: &'a Model,
    texts: BatchGenerator<'a>,
    running: Vec<Option<Running>>,
    /// Places that go on in a step, and their tokens.
    rows: Vec<usize>,
    next: Vec<u32>,
}

impl<'a> Session<'a> {
    /// `places` places for texts of at most `max_tokens` tokens, prompts included.
    ///
    /// # Errors
    /// [`Error::Model`] when there is not the memory.
    pub fn new(model: &'a Model, places: usize, max_tokens: usize) -> Result<Self> {
        let texts =
            model.gpt.texts(model.dev.as_ref(), model.params.weights(), places, max_tokens)?;
        let running = (0..places).map(|_| None).collect();
        Ok(Self { model, texts, running, rows: Vec::new(), next: Vec::new() })
    }

    /// Places that are free.
    pub fn free(&self) -> usize {
        self.running.iter().filter(|place| place.is_none()).count()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.free() == self.running.len()
    }

    /// The most tokens of a text.
    pub fn max_tokens(&self) -> usize {
        self.texts.max_tokens()
    }

    /// Starts a text for each of the tasks from one prompt, which goes through the model once; says which places they have.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Room`]; [`Error::Model`] for a prompt without tokens or with some of another vocabulary, and for sampling that makes no sense. Nothing
    /// is started then.
    pub fn start(&mut self, prompt: &[u32], tasks: Vec<TextRequest>) -> Result<Vec<usize>> {
        let places: Vec<usize> = (0..self.running.len())
            .filter(|place| self.running[*place].is_none())
            .take(tasks.len())
            .collect();
        if places.len() < tasks.len() {
            return Err(Error::Full { wanted: tasks.len(), free: places.len() });
        }
        for task in &tasks {
            task.sampling.check()?;
            let (prompt, room) = (prompt.len(), self.texts.max_tokens());
            let more = task.max_tokens.max(1);
            if prompt.saturating_add(more) > room {
                return Err(Error::Room { prompt, more, room });
            }
        }
        let Some((&first, others)) = places.split_first() else { return Ok(places) };
        self.texts.clear(first);
        self.texts.feed(first, prompt)?;
        for &place in others {
            self.texts.copy(first, place)?;
        }
        for (&place, task) in places.iter().zip(tasks) {
            let stops = Stops::new(task.stop.clone());
            let utf8 = Utf8::default();
            self.running[place] = Some(Running { task, made: 0, utf8, stops });
        }
        Ok(places)
    }

    /// Ends a text from outside; its place is free then.
    pub fn end(&mut self, place: usize) {
        if let Some(running) = self.running.get_mut(place) {
            *running = None;
        }
    }

    /// Logits of the token that comes next in a place, for whoever wants to know what else there was; see [`BatchGenerator::logits`].
    ///
    /// # Errors
    /// As [`BatchGenerator::logits`].
    pub fn logits(&self, place: usize) -> Result<&[f64]> {
        Ok(self.texts.logits(place)?)
    }

    /// Adds a token to every text under way; `each` is told of them in the order of their places. A document's beginning, or a token of [`TextRequest::ends`], ends the text before it.
    ///
    /// # Errors
    /// [`Error::Model`] where the device fails.
    pub fn step(&mut self, each: &mut dyn FnMut(Made)) -> Result<()> {
        self.rows.clear();
        self.next.clear();
        let tokenizer = &self.model.tokenizer;
        for (place, slot) in self.running.iter_mut().enumerate() {
            let Some(running) = slot else { continue };
            let id = self.texts.draw(place, &running.task.sampling)?;
            let (mut text, mut finish) = (String::new(), None);
            let likely = match running.task.likely {
                Some(most) => Some(Likely::of(self.texts.logits(place)?, id as usize, most)),
                None => None,
            };
            running.made += 1;
            if id == tokenizer.bos() || running.task.ends.contains(&id) {
                finish = Some(Finish::Stop);
            } else {
                let whole = running.utf8.push(&tokenizer.decode_bytes(&[id]));
                let (piece, stopped) = running.stops.push(&whole);
                text = piece;
                if stopped {
                    finish = Some(Finish::Stop);
                    each(Made { place, token: id, text, finish, likely });
                    *slot = None;
                    continue;
                }
                if running.made >= running.task.max_tokens {
                    finish = Some(Finish::Length);
                }
            }
            if finish.is_some() {
                let (piece, stopped) = running.stops.push(running.utf8.finish());
                text.push_str(&piece);
                if !stopped {
                    text.push_str(&running.stops.finish());
                }
                *slot = None;
            } else {
                self.rows.push(place);
                self.next.push(id);
            }
            each(Made { place, token: id, text, finish, likely });
        }
        Ok(self.texts.step(&self.rows, &self.next)?)
    }
}
