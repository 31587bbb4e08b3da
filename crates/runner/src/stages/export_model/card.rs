//! The model card: what is known of a model, for who finds its folder.

use std::fmt::Write;

use farthing_data::Tokenizer;
use farthing_model::{Checkpoint, Gpt, Layout};

use super::layout::MODELING_FILE;
use crate::progress::format::count;
use crate::stages::report::escape::markdown as esc;
use crate::{Ctx, Result};

/// What a card tells of the stages before it.
pub(super) const FIGURES: &[&str] = &[
    "train_files",
    "held_out",
    "documents",
    "chars",
    "tokens",
    "bpb_start",
    "bpb_end",
    "best_bpb",
    "bpb",
    "core",
    "accuracy",
    "chance",
];

/// The card, as Markdown under the lines that model hubs read.
pub(super) fn render(
    checkpoint: &Checkpoint,
    layout: Layout,
    tokenizer: &Tokenizer,
    chats: bool,
    about: Option<&str>,
    ctx: &Ctx,
) -> Result<String> {
    let config = checkpoint.config();
    let parameters = Gpt::new(config.clone())?.param_count();
    let foreign = layout == Layout::Farthing;
    let mut out = String::from(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- farthing\n- nanochat\n---\n\n# A language model\n",
    );
    let _ = writeln!(
        out,
        "\nA decoder of {} layers, {} channels and {} parameters, with a vocabulary of {} and a context of {} tokens, made with farthing. {}",
        count(config.depth as u64),
        count(config.model_dim as u64),
        count(parameters),
        count(config.vocab_size as u64),
        count(config.seq_len as u64),
        if chats {
            "It was finetuned to chat: `chat_template.jinja` says how a conversation is written."
        } else {
            "It continues text, and was not taught to follow instructions."
        }
    );
    if let Some(about) = about {
        let _ = writeln!(out, "\n{}", about.trim());
    }
    facts(&mut out, checkpoint, ctx);
    let trust = if foreign { ", trust_remote_code=True" } else { "" };
    let _ = write!(
        out,
        "\n## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\"FOLDER\"{trust})\n\
         model = AutoModelForCausalLM.from_pretrained(\"FOLDER\"{trust})\n{}\
         print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n```\n\n",
        if chats {
            "talk = [{\"role\": \"user\", \"content\": \"Hello!\"}]\n\
             inputs = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors=\"pt\", return_dict=True)\n"
        } else {
            "inputs = tokenizer(\"The town of\", return_tensors=\"pt\")\n"
        }
    );
    if foreign {
        let _ = writeln!(
            out,
            "`trust_remote_code=True` runs `{MODELING_FILE}`, the Python file in this folder, on your machine: read it before, or have it from someone you trust. \
             transformers has no class of its own for this model."
        );
    } else {
        out.push_str("transformers (5.0 or newer) has the class for this model, `NanoChatForCausalLM`; no Python of this folder is run.\n");
    }
    let _ = writeln!(
        out,
        "A text begins with the token `{}`. farthing reads the folder as it is: `runner {} FOLDER`.",
        tokenizer.decode(&[tokenizer.bos()]),
        if chats { "chat" } else { "generate" }
    );
    Ok(out)
}

/// Data, tokens, scores and cost, as far as the stages before say them.
fn facts(out: &mut String, checkpoint: &Checkpoint, ctx: &Ctx) {
    out.push_str("\n## Training\n\n");
    let _ = writeln!(out, "Weights after {} steps.", count(checkpoint.step()));
    let figures: Vec<_> = ctx.figures_before().collect();
    let is_training = |stage: &str| figures.iter().any(|f| f.0 == stage && f.1 == "bpb_end");
    let of_training = figures.iter().filter(|f| f.1 == "tokens" && is_training(f.0));
    let tokens: f64 = of_training.filter_map(|f| f.2.replace(',', "").parse::<f64>().ok()).sum();
    if tokens > 0.0 {
        let flops = tokens * checkpoint.config().flops_per_token();
        let _ = writeln!(
            out,
            "It was trained on {} tokens, some of them perhaps more than once, which took {flops:.2e} FLOPs.",
            count(tokens as u64)
        );
    }
    if figures.is_empty() {
        out.push_str("Data, tokens and scores are not known to the stage that wrote this card.\n");
    } else {
        out.push_str("\n| stage | figure | |\n| --- | --- | --- |\n");
        for (stage, figure, value) in &figures {
            let _ = writeln!(out, "| {} | {} | {} |", esc(stage), meaning(figure), esc(value));
        }
    }
    let scored = |name: &str| figures.iter().any(|f| f.1 == name);
    if !scored("bpb") && !scored("core") {
        out.push_str("\nNo evaluation was connected to the export.\n");
    }
    out.push_str("\nHours and money are in the report of the run that made the model.\n");
}

/// A figure in words.
fn meaning(figure: &str) -> &str {
    match figure {
        "train_files" => "files of text to train on",
        "held_out" => "text held out",
        "documents" => "documents that the tokenizer was made of",
        "chars" => "their characters",
        "tokens" => "tokens",
        "bpb_start" => "bits per byte of held-out text before",
        "bpb_end" => "bits per byte of held-out text after",
        "best_bpb" => "the lowest bits per byte on the way",
        "bpb" => "bits per byte of held-out text",
        "core" => "CORE",
        "accuracy" => "accuracy on tasks",
        "chance" => "accuracy of guessing",
        other => other,
    }
}
