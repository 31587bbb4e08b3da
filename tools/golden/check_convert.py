"""Round trips of convert.py, with nanochat itself at the other end.

    NANOCHAT_DIR=… python check_convert.py [FOLDER with what the Rust tests wrote under FARTHING_GOLDEN_DUMP]

1. A small model of each setting is saved by nanochat's own `save_checkpoint` (July's tables in bf16, as after training on a GPU), converted, and
   converted back: every tensor, type, name, their order and the JSON are the same. The converted files are those that the Rust tests
   read (`crates/model/tests/golden/tiny-*.safetensors`), beside the losses that nanochat computes (`tiny.json`).
2. Checkpoints written by farthing are converted, loaded by nanochat's own `build_model`, and give the loss that farthing printed into
   them, to 1e-5; converted back, they are the same files, byte by byte.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch

import cases
import convert
import exact
from files import decode, replace, save_json
from make import MODEL
from upstream import COMMITS, PRESETS, Nanochat, Tokenizer

TINY = dict(sequence_len=32, vocab_size=60, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SL")


def loss_of(nano, folder, step, case, rows, tokens, vocab):
    """The mean loss of a checkpoint that nanochat loads, on a case's tokens."""
    Tokenizer.vocab = vocab
    model, _, _ = nano.checkpoint_manager.build_model(str(folder), step, torch.device("cpu"), "eval")
    inputs, targets = exact.batch(f"{case}/batch", rows, tokens, vocab, ignore=True)
    with torch.no_grad():
        return model(torch.from_numpy(inputs), torch.from_numpy(targets)).item()


def same(a, b):
    """Whether two state dicts are equal: names, their order, types and bits."""
    bits = lambda t: t.contiguous().view(torch.uint8) if t.dim() else t
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(bits(a[n]), bits(b[n])) for n in a)


def from_nanochat(work):
    losses = {}
    for setting in COMMITS:
        nano, case, folder = Nanochat(setting), f"{setting}-tiny", work / setting
        model = nano.model(TINY, cases.weights(case, nano.model(TINY), "lively"))
        if setting == "july":
            model.transformer.wte.to(torch.bfloat16)
            model.value_embeds.to(torch.bfloat16)
        meta = {"step": 7, "val_bpb": 1.25, "model_config": TINY, "user_config": {"run": "dummy"}}
        nano.checkpoint_manager.save_checkpoint(str(folder), 7, model.state_dict(), None, meta)
        loss = loss_of(nano, folder, 7, case, 2, 32, TINY["vocab_size"])
        converted = convert.to_farthing(folder / "model_000007.pt", folder / "meta_000007.json", folder / "ours")
        pt, meta_path = convert.to_nanochat(converted, folder / "back")
        before, after = (torch.load(p, weights_only=True) for p in (folder / "model_000007.pt", pt))
        assert same(before, after), setting
        assert meta_path.read_bytes() == (folder / "meta_000007.json").read_bytes(), setting
        types = sorted({str(t.dtype) for t in after.values()})
        print(f"{setting}: {len(after)} tensors ({', '.join(types)}) and the JSON are the same there and back; loss {loss:.7f}")
        replace(MODEL / f"tiny-{setting}.safetensors", converted.read_bytes())
        losses[setting] = {"origin": nano.origin().replace("make.py", "check_convert.py"), "loss": loss}
    save_json(MODEL / "tiny.json", losses)


def from_farthing(dump, work):
    files = sorted(dump.glob("ours-*.safetensors"))
    if not files:
        sys.exit(f"{dump} holds no ours-*.safetensors: run the Rust tests with FARTHING_GOLDEN_DUMP={dump} first")
    for path in files:
        case = path.stem.removeprefix("ours-")
        nano, folder = Nanochat(cases.setting(case)), work / path.stem
        _, metadata = decode(path)
        expected, step = float(metadata["loss"]), int(metadata[convert.STEP])
        pt, meta_path = convert.to_nanochat(path, folder)
        config = json.loads(metadata[convert.CONFIG])
        loss = loss_of(nano, folder, step, case, cases.GRADIENT_ROWS, cases.TOKENS, config["vocab_size"])
        error = abs(loss - expected) / expected
        back = convert.to_farthing(pt, meta_path, folder / "back")
        equal = back.read_bytes() == path.read_bytes()
        print(f"{case}: nanochat loads it and computes {loss:.7f}, farthing {expected:.7f}: {error:.1e}; back again: {'equal bytes' if equal else 'DIFFERENT'}")
        assert error < 1e-5 and equal, case


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        from_nanochat(pathlib.Path(work))
        if len(sys.argv) > 1:
            from_farthing(pathlib.Path(sys.argv[1]), pathlib.Path(work))
