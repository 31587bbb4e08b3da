"""Whether the real `transformers` computes what we compute, from what `export-model` wrote.

    python tools/export/check.py [--runner target/release/runner] [--logits target/release/examples/logits]

For each preset, and for variants, it trains a tiny model, exports it, and compares greedy text over 64 tokens with `runner generate`. Then
it makes every weight of it random, so that nothing is near 0, and compares logits (1e-4), greedy tokens with and without a cache,
texts of a batch with padding, and the export with what `import-model` makes of it. Last, a model that chats.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))
from convert import CHECKSUM, sealed  # noqa: E402
from files import decode, replace  # noqa: E402
from tiny import pipeline  # noqa: E402

TOLERANCE = 1e-4
PROMPT = "The town of"

EXPORT = """
[stage.export]
uses   = "export-model"
inputs = { model = "%s", bpe = "tokenizer.bpe" }
%s
"""
CHAT = """
[stage.chat]
uses          = "finetune-chat"
inputs        = { model = "train.checkpoint", bpe = "tokenizer.bpe" }
conversations = "embedded://world"
world         = { conversations = 300 }
batch_tokens  = 1_024
evaluate      = { tokens = 1_024 }
"""
AGAIN = """
[pipeline]
name   = "again"
format = 1
seed   = 7
[stage.model]
uses = "import-model"
path = "%s"
[stage.export]
uses   = "export-model"
inputs = { model = "model.checkpoint", bpe = "model.bpe" }
%s
"""

CASES = {
    "2025-10": ('preset = "nanochat-2025-10"', "", "NanoChatForCausalLM"),
    "2025-10, grouped queries": ('preset = "nanochat-2025-10"\nkv_heads = 2', "", "NanoChatForCausalLM"),
    "2025-10, wide heads": ('preset = "nanochat-2025-10"\nheads = 6', "", "NanoChatForCausalLM"),
    "2025-10, our format": ('preset = "nanochat-2025-10"', 'format = "farthing"', "FarthingForCausalLM"),
    "2026-01": ('preset = "nanochat-2026-01"', "", "FarthingForCausalLM"),
    "2026-07": ('preset = "nanochat-2026-07"', "", "FarthingForCausalLM"),
    "2026-07, variants": (
        'preset = "nanochat-2026-07"\nkv_heads = 2\nrotary_fraction = 0.5\nmlp = "swiglu"',
        "",
        "FarthingForCausalLM",
    ),
}


def run(*command, cwd=None):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"{command} in {cwd}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def trained(keys):
    """A pipeline that trains a model with these keys."""
    shape = "depth = 4\naspect_ratio = 16\nhead_dim = 16\nshort_window = 20\n"
    return pipeline(500, 128, shape + keys, 60)


def export_of(folder, text, runner):
    """The export that a pipeline writes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.toml").write_text(text, encoding="utf-8")
    run(runner, "p.toml", "--until", "export", cwd=folder)
    (export,) = folder.glob("store/stages/*/export")
    return export


def load(export):
    model = AutoModelForCausalLM.from_pretrained(export, trust_remote_code=True, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(export, trust_remote_code=True)


def randomized(export, folder):
    """The model of an export with other weights, as a model's folder."""
    tensors, metadata = decode(export / "model.safetensors")
    metadata.pop(CHECKSUM)
    torch.manual_seed(16)
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape)
        if tensor.dim() == 1:
            frozen = metadata.get("farthing.layout") is None and json.loads(metadata["farthing.config"])["init_x0_lambda"] == [0, 0]
            tensors[name] = tensor if frozen else tensor + 0.3 * noise
        else:
            table = "wte" in name or "embed" in name
            tensors[name] = noise if table else noise * 1.5 / tensor.shape[1] ** 0.5
    replace(folder / "model.safetensors", sealed(tensors, metadata))
    replace(folder / "tokenizer.json", (export / "tokenizer.json").read_bytes())
    return folder


def logits_of_ours(binary, folder, ids):
    lines = run(binary, folder / "model.safetensors", *ids).splitlines()
    return torch.tensor([[float(x) for x in line.split()] for line in lines])


def greedy(model, **inputs):
    with torch.no_grad():
        return model.generate(**inputs, do_sample=False)


def check(name, keys, format, architecture, args, folder):
    first = export_of(folder, trained(keys) + EXPORT % ("train.checkpoint", format), args.runner)
    model, tokenizer = load(first)
    assert type(model).__name__ == architecture, type(model)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id
    new = greedy(model, **inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
    theirs = tokenizer.decode(new, skip_special_tokens=True)
    ours = run(args.runner, "generate", first, "--prompt", PROMPT, "--max-tokens", 64, "--temperature", 0)
    # `generate` may repeat the prompt before what it adds, and ends its line.
    assert ours.rstrip("\n").removeprefix(PROMPT) == theirs.rstrip("\n"), (ours, theirs)

    random = randomized(first, folder / "random")
    second = export_of(folder / "again", AGAIN % (random.resolve(), format), args.runner)
    model, _ = load(second)
    assert type(model).__name__ == architecture
    before, after = (decode(place / "model.safetensors")[0] for place in (random, second))
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)

    ids = torch.tensor([torch.randint(0, tokenizer.vocab_size, (120,), generator=torch.Generator().manual_seed(1)).tolist()])
    with torch.no_grad():
        theirs = model(ids).logits[0]
    ours = logits_of_ours(args.logits, second, ids[0].tolist())
    far = (theirs - ours).abs().max().item()
    assert theirs.shape == ours.shape and far <= TOLERANCE, (theirs.shape, ours.shape, far)

    # Greedy tokens, with a cache and without; ours would choose the same after each.
    prompt = ids[:, :40]
    forever = dict(max_new_tokens=64, eos_token_id=None)
    cached = greedy(model, input_ids=prompt, attention_mask=torch.ones_like(prompt), **forever)
    whole = greedy(model, input_ids=prompt, attention_mask=torch.ones_like(prompt), use_cache=False, **forever)
    assert cached.shape[1] == 104 and torch.equal(cached, whole)
    chosen = logits_of_ours(args.logits, second, cached[0].tolist()).argmax(-1)
    assert torch.equal(chosen[39:-1], cached[0, 40:])

    # A shorter text beside it, padded on the left.
    short = ids[:, 50:63]
    alone = greedy(model, input_ids=short, attention_mask=torch.ones_like(short), **forever)[0, 13:]
    both = torch.cat([prompt, torch.cat([torch.zeros(1, 27, dtype=torch.long), short], 1)])
    mask = (torch.arange(40) >= torch.tensor([[0], [27]])).long()
    together = greedy(model, input_ids=both, attention_mask=mask, **forever)
    assert torch.equal(together[0], cached[0]) and torch.equal(together[1, 40:], alone)
    print(f"{name}: {architecture}, logits within {far:.1e}, greedy text and tokens equal", flush=True)


def check_chat(args, folder):
    export = export_of(folder, trained('preset = "nanochat-2026-07"') + EXPORT % ("chat.checkpoint", CHAT), args.runner)
    model, tokenizer = load(export)
    talk = [{"role": "user", "content": "Where does Tom live?"}]
    inputs = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = greedy(model, **inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
    theirs = tokenizer.decode(new, skip_special_tokens=True)
    ours = run(args.runner, "chat", export, "--prompt", talk[0]["content"], "--max-tokens", 64, "--temperature", 0)
    assert ours.strip() == theirs.strip(), (ours, theirs)
    print(f"chat: answers equal: {theirs.strip()!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", type=pathlib.Path, default="target/release/runner")
    parser.add_argument("--logits", type=pathlib.Path, default="target/release/examples/logits")
    args = parser.parse_args()
    args.runner, args.logits = args.runner.resolve(), args.logits.resolve()
    # Python of an export is copied before it is run: into the same folder that goes away.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for i, (name, (keys, format, architecture)) in enumerate(CASES.items()):
            check(name, keys, format, architecture, args, pathlib.Path(folder) / str(i))
        check_chat(args, pathlib.Path(folder) / "chat")


if __name__ == "__main__":
    main()
