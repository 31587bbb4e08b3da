"""nanochat's checkpoints to farthing's and back, nothing lost either way.

    python convert.py to-farthing model_000000.pt meta_000000.json FOLDER   # FOLDER/model.safetensors and config.json
    python convert.py to-nanochat model.safetensors FOLDER                  # FOLDER/model_<step>.pt and meta_<step>.json

Names and shapes are the same on both sides. What differs is around them: nanochat keeps shapes in a JSON file and every other
number in its code; farthing keeps all numbers in the file's metadata, with a checksum. A model whose numbers are those of neither
setting of nanochat cannot become one of its checkpoints, and is refused. Optimizer state does not travel: the two keep it differently.
Element types stay as they are (nanochat's tables are bf16 when it trained on a GPU). What the other side has no place
for is carried along, so that there and back gives the same tensors and the same JSON, and back and there the same bytes.

Needs torch and blake3; knows nothing of nanochat's code.
"""

import argparse
import json
import pathlib
import sys

import blake3
import torch

from files import decode, encode, replace

SETTINGS = {
    "nanochat-2026-01": dict(
        rope_base=10000.0, qk_gain=1.0, value_embeds=True, ve_gate_channels=32, ve_gate_max=2.0, smear=False, smear_channels=24,
        backout=False, logit_softcap=15.0, init_wte_std=1.0, init_lm_head_std=0.001, init_c_fc=1.0, init_resid_lambda=[1.0, 1.0],
        init_x0_lambda=[0.1, 0.1], init_ve_gate=0.0, init_backout_lambda=0.2,
    ),
    "nanochat-2026-07": dict(
        rope_base=100000.0, qk_gain=1.2, value_embeds=True, ve_gate_channels=12, ve_gate_max=3.0, smear=True, smear_channels=24,
        backout=True, logit_softcap=15.0, init_wte_std=0.8, init_lm_head_std=0.001, init_c_fc=0.4, init_resid_lambda=[1.15, 1.05],
        init_x0_lambda=[0.2, 0.05], init_ve_gate=0.02, init_backout_lambda=0.2,
    ),
}  # fmt: skip

# Keys that say how a model began; a trained model is the same without them.
BEGINNINGS = {key for numbers in SETTINGS.values() for key in numbers if key.startswith("init_")}
CHECKSUM, DIGITS = "farthing.blake3", 64
CONFIG, STEP, FORMAT, META = "farthing.config", "farthing.step", "farthing.format", "nanochat.meta"
# The key of nanochat's JSON under which farthing's metadata travels.
CARRIED = "farthing_metadata"


def short_window(setting, seq_len):
    return seq_len // 2 if setting == "nanochat-2026-01" else -(-seq_len // 512) * 128


def setting_of(tensors):
    """Which commit's code a state dict belongs to, by the parameters that it has."""
    gates = {t.shape[1] for name, t in tensors.items() if name.endswith("ve_gate.weight")}
    for setting, numbers in SETTINGS.items():
        if gates == {numbers["ve_gate_channels"]} and ("smear_lambda" in tensors) == numbers["smear"]:
            return setting
    sys.exit(f"value-embedding gates read {sorted(gates)} channels, smear_lambda: {'smear_lambda' in tensors}; known are 32 without and 12 with it")


def config_of(setting, shape):
    """farthing's configuration of a nanochat model."""
    shape = {"window_pattern": "L", **shape}  # as nanochat reads checkpoints from before there were windows
    return {
        "depth": shape["n_layer"],
        "model_dim": shape["n_embd"],
        "head_dim": shape["n_embd"] // shape["n_head"],
        "heads": shape["n_head"],
        "kv_heads": shape["n_kv_head"],
        "vocab_size": shape["vocab_size"],
        "seq_len": shape["sequence_len"],
        "window_pattern": shape["window_pattern"].upper(),
        "short_window": short_window(setting, shape["sequence_len"]),
        **SETTINGS[setting],
    }


def shape_of(config):
    """nanochat's shapes of a farthing model, or an exit that names what nanochat's code has otherwise."""
    shape = {
        "sequence_len": config["seq_len"],
        "vocab_size": config["vocab_size"],
        "n_layer": config["depth"],
        "n_head": config["heads"],
        "n_kv_head": config["kv_heads"],
        "n_embd": config["model_dim"],
        "window_pattern": config["window_pattern"],
    }
    faults = {}
    for setting in SETTINGS:
        wanted = config_of(setting, shape)
        keys = (wanted.keys() | config.keys()) - BEGINNINGS
        faults[setting] = [f"{k} = {config.get(k)} (nanochat: {wanted.get(k)})" for k in sorted(keys) if config.get(k) != wanted.get(k)]
        if not faults[setting]:
            return shape
    sys.exit("this model is neither of nanochat's settings:\n" + "\n".join(f"  {s}: {', '.join(f)}" for s, f in faults.items()))


def sealed(tensors, metadata):
    """A farthing checkpoint: the checksum is of the whole file with its own digits read as zeros."""
    head, pieces = encode(tensors, {**metadata, CHECKSUM: "0" * DIGITS})
    hasher = blake3.blake3(head)
    for piece in pieces:
        hasher.update(piece)
    mark = f'"{CHECKSUM}":"'.encode()
    at = head.index(mark) + len(mark)
    return head[:at] + hasher.hexdigest().encode() + head[at + DIGITS :] + b"".join(pieces)


def to_farthing(model_path, meta_path, folder):
    state = torch.load(model_path, map_location="cpu", weights_only=True)
    tensors = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    meta_text = pathlib.Path(meta_path).read_text(encoding="utf-8")
    meta = json.loads(meta_text)
    if CARRIED in meta:  # it came from farthing
        metadata = meta[CARRIED]
    else:
        config = config_of(setting_of(tensors), meta["model_config"])
        metadata = {FORMAT: "1", CONFIG: json.dumps(config), STEP: str(meta.get("step", 0)), META: meta_text}
    folder = pathlib.Path(folder)
    replace(folder / "model.safetensors", sealed(tensors, metadata))
    replace(folder / "config.json", (json.dumps(json.loads(metadata[CONFIG]), indent=2) + "\n").encode())
    return folder / "model.safetensors"


def to_nanochat(path, folder):
    tensors, metadata = decode(path)
    found = metadata.pop(CHECKSUM, None)
    if CONFIG not in metadata:
        sys.exit(f"{path} has no `{CONFIG}` in its metadata: it is not a checkpoint of farthing")
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("state.")}
    data = sealed(tensors, metadata)
    if data != pathlib.Path(path).read_bytes():
        sys.exit(f"{path} is not what was written: its checksum {found} is wrong, or another program changed it")
    shape = shape_of(json.loads(metadata[CONFIG]))
    if META in metadata:  # it came from nanochat
        meta_text = metadata[META]
    else:
        meta = {"step": int(metadata[STEP]), "val_bpb": None, "model_config": shape, "user_config": {}, CARRIED: metadata}
        meta_text = json.dumps(meta, indent=2)
    folder, step = pathlib.Path(folder), int(metadata[STEP])
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "model.partial"
    torch.save(state, partial)
    partial.replace(folder / f"model_{step:06d}.pt")
    replace(folder / f"meta_{step:06d}.json", meta_text.encode())
    if len(state) != len(tensors):
        print(f"{len(tensors) - len(state)} tensors of optimizer state stay behind: nanochat keeps its own differently")
    return folder / f"model_{step:06d}.pt", folder / f"meta_{step:06d}.json"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    there = commands.add_parser("to-farthing")
    for name in ("model", "meta", "folder"):
        there.add_argument(name)
    back = commands.add_parser("to-nanochat")
    for name in ("model", "folder"):
        back.add_argument(name)
    arguments = parser.parse_args()
    if arguments.command == "to-farthing":
        print(to_farthing(arguments.model, arguments.meta, arguments.folder))
    else:
        print(*to_nanochat(arguments.model, arguments.folder), sep="\n")
