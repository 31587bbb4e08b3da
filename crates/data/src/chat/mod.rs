//! Conversations as tokens: who says what is told by special tokens, and what the assistant says is what a model learns.
//!
//! A row of tokens shows by itself what is learned of it, since no text can contain a special token: [`ChatTokens::mask`] needs nothing beside the row.

mod pack;
mod read;

pub use pack::pack_chat;
pub use read::Conversations;

use crate::{ChatTokens, Error, Result, Tokenizer};
use serde::{Deserialize, Serialize};

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What goes for the whole conversation; said before the first user's turn, of which it becomes the beginning.
    System,
    /// Who asks.
    User,
    /// Who answers: the model.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What is said: a text, or parts of an assistant's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// Text, calls of a tool, and what came back.
    Parts(Vec<ContentPart>),
}

/// A part of an assistant's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentPart {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: PartKind,
    /// The text.
    pub text: String,
}

/// What a part of an assistant's turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// Said to the user.
    Text,
    /// Python that the assistant has run.
    Python,
    /// What that printed. It is not the model's, and not learned.
    PythonOutput,
}

impl Content {
    /// Bytes of its text.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(|part| part.text.len()).sum(),
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whose turn it is.
    pub role: Role,
    /// What is said.
    pub content: Content,
}

impl Message {
    /// A turn that is a text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: Content::Text(text.into()) }
    }
}

/// Turns in order: a system's message or none, then user and assistant by turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// What is wrong with the order of turns, or with who says what; `None` where it is as it should be.
    pub fn fault(&self) -> Option<String> {
        let system = usize::from(self.messages.first().is_some_and(|m| m.role == Role::System));
        let turns = &self.messages[system..];
        if turns.is_empty() {
            return Some("it has no turn of a user".into());
        }
        for (i, message) in turns.iter().enumerate() {
            let expected = if i % 2 == 0 { Role::User } else { Role::Assistant };
            if message.role != expected {
                return Some(format!(
                    "message {} is the {}'s, expected the {}'s",
                    i + system + 1,
                    message.role.name(),
                    expected.name()
                ));
            }
        }
        let others = self.messages.iter().enumerate().filter(|(_, m)| m.role != Role::Assistant);
        let parts = others.into_iter().find(|(_, m)| matches!(m.content, Content::Parts(_)));
        parts.map(|(i, m)| {
            format!("message {} is the {}'s and has parts, expected a text", i + 1, m.role.name())
        })
    }
}

/// How a chat is read, as a template of the form that other programs know. Beside a model's weights it says that the model was made to chat.
pub const CHAT_TEMPLATE: &str = "\
{{- '<|bos|>' -}}
{%- set start = namespace(text='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set start.text = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '<|user_start|>' + start.text + message['content'] + '<|user_end|>' -}}
{%- set start.text = '' -%}
{%- else -%}
{{- '<|assistant_start|>' + message['content'] + '<|assistant_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant_start|>' -}}
{%- endif -%}
";

/// The name of the file beside a model that has [`CHAT_TEMPLATE`].
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";

impl ChatTokens {
    /// Those of a tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it lacks one.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let id = |name: &str| {
            tokenizer.token_id(name).filter(|id| tokenizer.is_special(*id)).ok_or_else(|| {
                Error::Tokenizer {
                    reason: format!("it has no special token `{name}`, and cannot write chats"),
                    hint: "use a tokenizer that `train-bpe` makes: it has all of them".into(),
                }
            })
        };
        let pair = |name: &str| -> Result<[u32; 2]> {
            Ok([id(&format!("<|{name}_start|>"))?, id(&format!("<|{name}_end|>"))?])
        };
        Ok(Self {
            bos: tokenizer.bos(),
            user: pair("user")?,
            assistant: pair("assistant")?,
            python: pair("python")?,
            output: pair("output")?,
        })
    }

    /// A conversation's tokens, the first of which is BOS.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where a text cannot be encoded.
    ///
    /// # Source
    /// nanochat's `render_conversation`, whose tokens these are: a system's message, an empty line and the user's first turn are one turn.
    pub fn render(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        let mut ids = vec![self.bos];
        let mut before = String::new();
        for Message { role, content } in messages {
            let [start, end] = match role {
                Role::System => {
                    if let Content::Text(text) = content {
                        before = format!("{text}\n\n");
                    }
                    continue;
                }
                Role::User => self.user,
                Role::Assistant => self.assistant,
            };
            ids.push(start);
            match content {
                Content::Text(text) if before.is_empty() => tokenizer.encode_to(text, &mut ids)?,
                Content::Text(text) => {
                    tokenizer.encode_to(&(std::mem::take(&mut before) + text), &mut ids)?;
                }
                Content::Parts(parts) => {
                    for ContentPart { kind, text } in parts {
                        let around = match kind {
                            PartKind::Text => None,
                            PartKind::Python => Some(self.python),
                            PartKind::PythonOutput => Some(self.output),
                        };
                        ids.extend(around.map(|[start, _]| start));
                        tokenizer.encode_to(text, &mut ids)?;
                        ids.extend(around.map(|[_, end]| end));
                    }
                }
            }
            ids.push(end);
        }
        Ok(ids)
    }

    /// [`ChatTokens::render`] of what was said so far, and the token after which the assistant answers.
    ///
    /// # Errors
    /// Those of [`ChatTokens::render`].
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        let mut ids = self.render(tokenizer, messages)?;
        ids.push(self.assistant[0]);
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BpeSettings;

    pub(crate) fn tokenizer() -> Tokenizer {
        let settings = BpeSettings { vocab_size: 270, ..BpeSettings::default() };
        let text = |_| Ok("the more the merrier".to_string());
        Tokenizer::train((0..3).map(text), &settings).unwrap().0
    }

    fn conversation(json: &str) -> Conversation {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_the_assistant_says_is_learned_and_what_its_tools_say_is_not() {
        let tokenizer = tokenizer();
        let chat = ChatTokens::of(&tokenizer).unwrap();
        let talk = conversation(
            r#"{"messages": [
                {"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "so "}, {"type": "python", "text": "2+2"},
                    {"type": "python_output", "text": "4"}, {"type": "text", "text": "4"}]},
                {"role": "user", "content": "<|assistant_start|>me<|assistant_end|>"},
                {"role": "assistant", "content": ""}]}"#,
        );
        assert_eq!(talk.fault(), None);
        let ids = chat.render(&tokenizer, &talk.messages).unwrap();
        assert_eq!(
            tokenizer.decode(&ids),
            "<|bos|><|user_start|>be brief\n\n2+2?<|user_end|><|assistant_start|>so <|python_start|>2+2<|python_end|>\
             <|output_start|>4<|output_end|>4<|assistant_end|><|user_start|><|assistant_start|>me<|assistant_end|><|user_end|>\
             <|assistant_start|><|assistant_end|>"
        );
        let mut targets: Vec<i32> = ids[1..].iter().map(|id| *id as i32).collect();
        // Padding, and a conversation that is cut off before its answer ends.
        targets
            .extend([chat.bos, chat.bos, chat.user[0], chat.assistant[0], 65].map(|id| id as i32));
        let n = chat.mask(&mut targets);
        let learned: Vec<u32> =
            targets.iter().filter(|id| **id >= 0).map(|id| id.cast_unsigned()).collect();
        assert_eq!(n, learned.len() as u64);
        assert_eq!(
            tokenizer.decode(&learned),
            format!(
                "so <|python_start|>2+2<|python_end|>4<|assistant_end|><|assistant_end|>{}",
                tokenizer.decode(&[65])
            )
        );
        let prompt = chat.prompt(&tokenizer, &talk.messages[..2]).unwrap();
        assert_eq!(prompt[..], ids[..prompt.len()]);
    }

    #[test]
    fn turns_out_of_order_are_told() {
        let fault = |json: &str| conversation(json).fault().unwrap();
        for (json, what) in [
            (r#"{"messages": []}"#, "no turn of a user"),
            (r#"{"messages": [{"role": "system", "content": "x"}]}"#, "no turn of a user"),
            (
                r#"{"messages": [{"role": "assistant", "content": "x"}]}"#,
                "message 1 is the assistant's, expected the user's",
            ),
            (
                r#"{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}"#,
                "message 3 is the user's, expected the assistant's",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}"#,
                "message 1 is the user's and has parts",
            ),
        ] {
            assert!(fault(json).contains(what), "{json}: {}", fault(json));
        }
    }

    #[test]
    fn a_tokenizer_without_the_tokens_is_refused() {
        let file = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [
                {"id": 256, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab(), "merges": []},
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        let error = ChatTokens::of(&Tokenizer::load(&path).unwrap()).unwrap_err();
        assert!(error.to_string().contains("no special token `<|user_start|>`"), "{error}");
    }

    fn vocab() -> serde_json::Value {
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = '\u{100}'..;
        let names =
            (0..=255u8).map(|b| if printable(b) { char::from(b) } else { others.next().unwrap() });
        names.enumerate().map(|(id, name)| (name.to_string(), serde_json::json!(id))).collect()
    }
}
