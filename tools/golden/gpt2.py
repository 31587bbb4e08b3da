"""A random GPT-2 as `transformers` saves it, and the logits that `transformers` computes of it.

    python tools/golden/gpt2.py

Its weights are those of `exact.py`, by the tensor's name; gains are around 1, so that a norm without them is not the same. Writes
`crates/model/tests/golden/gpt2/`: `config.json` and `model.safetensors` as `save_pretrained` makes them, a `tokenizer.json` of GPT-2's kind without merges, and
`logits.safetensors` with the tokens and the logits in f32 and in f64, `text.json` with the loss of a text. Needs torch and transformers (`tools/export/requirements.txt`).
"""

import json
import pathlib
import shutil

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import exact
from files import save

FOLDER = pathlib.Path(__file__).parents[2] / "crates/model/tests/golden/gpt2"
ROWS, TOKENS, VOCAB = 2, 13, 257
SHAPE = dict(n_layer=3, n_head=3, n_embd=24, n_positions=40, vocab_size=VOCAB, bos_token_id=256, eos_token_id=256)
TEXT = "The town lies on the river."
ORIGIN = f"transformers {transformers.__version__}, torch {torch.__version__}, GPT2LMHeadModel in eager attention; written by tools/golden/gpt2.py"


def weights(name, shape):
    values = exact.normal(f"gpt2/{name}", int(np.prod(shape))).reshape(tuple(shape))
    if ".ln_" in name and name.endswith("weight"):
        return (1 + 0.3 * values) * (40 if ".ln_f" in name else 1)
    # Embeddings so small that a norm's epsilon counts, which the last gain makes up for; matrices that make every part of a block count.
    return values * (0.01 if name.endswith(("wte.weight", "wpe.weight")) else 0.3)


def tokenizer():
    """Bytes as tokens, and the one that begins and ends documents."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    assert made.get_vocab_size() == VOCAB
    return made


def main():
    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights(name, parameter.shape)))
        tokens = exact.rows("gpt2/rows", ROWS, TOKENS, VOCAB)[:, :TOKENS].astype(np.int64)
        single = model(torch.from_numpy(tokens)).logits
        # As transformers does before anything else of it.
        double = model.double()(torch.from_numpy(tokens)).logits
        ids = torch.tensor([[256, *tokenizer().encode(TEXT).ids]])
        nats = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:], reduction="sum").item()
    print(f"logits from {double.min():.2f} to {double.max():.2f}; f32 is within {(single - double).abs().max():.1e} of f64")
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.float().save_pretrained(FOLDER)
    for extra in FOLDER.glob("generation_config.json"):
        extra.unlink()
    tokenizer().save(str(FOLDER / "tokenizer.json"))
    (FOLDER / "text.json").write_text(json.dumps({"origin": ORIGIN, "text": TEXT, "nats": nats}, indent=1) + "\n")
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["model_type"] == "gpt2", config
    (FOLDER / "model.safetensors").chmod(0o644)
    save(FOLDER / "logits.safetensors", {"tokens": tokens.astype(np.int32), "f32": single.numpy(), "f64": double.numpy()}, {"origin": ORIGIN})


if __name__ == "__main__":
    main()
