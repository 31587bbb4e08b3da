"""Writes the golden files of the tests from nanochat itself. See README.md.

    NANOCHAT_DIR=… python make.py [gradients] [steps] [schedules] [bits] [depths] [chat] [--full FOLDER]

With `--full`, whole tensors are written to FOLDER too, for `compare.py`.
"""

import argparse
import json
import pathlib
import re

import numpy as np
import torch

import cases
import exact
from files import save, save_json
from upstream import COMMITS, PRESETS, Nanochat

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL, OPTIM, EVAL, TRAIN = (ROOT / "crates" / name / "tests" / "golden" for name in ("model", "optim", "eval", "train"))


def write(folder, case, origin, kept, full_folder, extra, dtype=np.float32):
    """Sketches of `kept` with the norms of what they are of, and the whole tensors where they are asked for."""
    norms = {name: exact.norm(value) for name, value in kept.items()}
    sketches = {name: exact.sketch(name, value).astype(dtype) for name, value in kept.items()}
    metadata = {"origin": origin, "norms": json.dumps(norms)}
    save(folder / f"{case}.safetensors", {**extra, **sketches}, metadata)
    if full_folder:
        whole = {name: np.asarray(value, dtype=dtype) for name, value in kept.items()}
        save(full_folder / f"{case}.safetensors", {**extra, **whole}, metadata)


def gradients(full):
    for case, fields in cases.GRADIENTS.items():
        nano = Nanochat(cases.setting(case))
        model = nano.model(cases.shape(fields))
        weights = cases.weights(case, model, "lively")
        model = nano.model(cases.shape(fields), weights)
        inputs, targets = exact.batch(f"{case}/batch", cases.GRADIENT_ROWS, cases.TOKENS, cases.VOCAB, ignore=True)
        x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
        loss = model(x, y)
        loss.backward()
        with torch.no_grad():
            losses = model(x, y, loss_reduction="none").numpy()
            logits = model(x)[0].numpy()
        kept = {f"grad.{name}": p.grad.numpy() for name, p in model.named_parameters()}
        extra = {"loss": np.array([loss.item()]), "losses": losses}
        print(f"{case}: loss {loss.item():.7f}, logits from {logits.min():.2f} to {logits.max():.2f}")
        write(MODEL, case, nano.origin(), {"logits": logits, **kept}, full, extra)


def steps(full):
    for case, numbers in cases.STEPS.items():
        nano = Nanochat(cases.setting(case), double=numbers["double"])
        losses, final = run_steps(nano, case)
        print(f"{case}: loss {losses[0]:.6f} to {losses[-1]:.6f}")
        dtype = np.float64 if numbers["double"] else np.float32
        write(OPTIM, case, nano.origin(), final, full, {"losses": np.array(losses)}, dtype)


def run_steps(nano, case):
    """Trains nanochat's own model with its own optimizer, groups, rates and schedules. Returns the loss before each step and after
    the last, and the final weights."""
    numbers = cases.STEPS[case]
    count, rows, tokens = numbers["steps"], numbers["rows"], numbers["tokens"]
    arguments = [
        f"--depth={numbers['depth']}", f"--aspect-ratio={numbers['aspect']}", f"--head-dim={numbers['head_dim']}",
        f"--max-seq-len={tokens}", f"--device-batch-size={rows}", f"--total-batch-size={rows * tokens}",
        f"--num-iterations={count}", "--target-param-data-ratio=12",
    ]  # fmt: skip
    run, _ = nano.training(arguments, vocab=cases.VOCAB, device="cpu")
    model, optimizer = run["orig_model"], run["optimizer"]
    if numbers["style"] == "real":
        check_initialisation(case, model)
    weights = cases.weights(case, model, numbers["style"])
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()}, strict=True)
    if nano.double:  # the rotary tables are computed anew, not widened
        model.double()
        model.cos, model.sin = model._precompute_rotary_embeddings(model.rotary_seq_len, model.config.n_embd // model.config.n_head)
    losses = []
    for step in range(count + 1):
        inputs, targets = exact.batch(f"{case}/step-{step}", rows, tokens, cases.VOCAB)
        loss = model(torch.from_numpy(inputs), torch.from_numpy(targets))
        losses.append(loss.item())
        if step == count:  # the loss of the next batch, without another step
            break
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * run["get_lr_multiplier"](step)
            if group["kind"] == "muon":
                group["momentum"] = run["get_muon_momentum"](step)
                group["weight_decay"] = run["get_weight_decay"](step)
        optimizer.step()
        model.zero_grad(set_to_none=True)
    return losses, {f"final.{name}": p.detach().numpy() for name, p in model.named_parameters()}


def check_initialisation(case, model):
    """That `cases.real` is what nanochat's init_weights does: constants equal, spreads alike."""
    ours = cases.weights(case, model, "real")
    for name, parameter in model.named_parameters():
        theirs, mine = parameter.detach().numpy(), ours[name]
        spread = max(theirs.std(), 1e-12)
        if theirs.size < 300:
            assert np.allclose(theirs, mine, atol=1e-6) or theirs.std() > 1e-3, name
        else:
            assert abs(theirs.mean() - mine.mean()) < 5 * spread / theirs.size**0.5 + 1e-9, name
            assert abs(theirs.std() - mine.std()) < 0.02 * spread + 1e-9, name


def schedules(full):
    out = {}
    for setting in COMMITS:
        nano = Nanochat(setting)
        for n in cases.SCHEDULE_STEPS:
            run, _ = nano.training(["--depth=12", f"--num-iterations={n}"])
            whole = run["get_weight_decay"](0)
            lr, momentum, decay = (np.array([run[f](t) for t in range(n)]) for f in ("get_lr_multiplier", "get_muon_momentum", "get_weight_decay"))
            out |= {f"{setting}.{n}.lr": lr, f"{setting}.{n}.momentum": momentum, f"{setting}.{n}.weight_decay": decay}
            out[f"{setting}.{n}.weight_decay_at_0"] = np.array([whole])
    origin = "get_lr_multiplier, get_muon_momentum and get_weight_decay of nanochat's scripts/base_train.py, 348fbb3 and 92d63d4, depth 12"
    save(OPTIM / "schedules.safetensors", out, {"origin": f"{origin}; written by tools/golden/make.py"})


def bits(full):
    figures = {}
    table = cases.token_bytes()
    for setting in COMMITS:
        nano, case = Nanochat(setting), f"{setting}-d2"
        fields = cases.shape(cases.GRADIENTS[case])
        model = nano.model(fields, cases.weights(case, nano.model(fields), "lively"))
        batches = [exact.batch(f"{case}/bits-{i}", 2, cases.TOKENS, cases.VOCAB, ignore=i == 1) for i in range(3)]
        pairs = ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches)
        figure = nano.loss_eval.evaluate_bpb(model, pairs, len(batches), torch.from_numpy(table))
        figures[setting] = {"origin": nano.origin(), "bits_per_byte": figure}
    save_json(EVAL / "bits_per_byte.json", figures)


def depths(full):
    """What base_train.py prints and sets for each depth."""
    out = {"tokens_per_param": 12, "vocab_size": 32_768, "sequence_len": 2048}
    for setting in COMMITS:
        nano, table = Nanochat(setting), {}
        for depth in cases.DEPTHS:
            run, printed = nano.training([f"--depth={depth}", "--target-param-data-ratio=12"])
            config, optimizer = run["orig_model"].config, run["optimizer"]
            names = {id(p): name for name, p in run["orig_model"].named_parameters()}
            groups = [
                {"params": [names[id(p)] for p in g["params"]], "elements": sum(p.numel() for p in g["params"]), "lr": g["lr"], "weight_decay": g["weight_decay"]}
                for g in optimizer.param_groups
            ]
            number = lambda pattern: re.search(pattern, printed).group(1)
            table[depth] = {
                "channels": config.n_embd,
                "heads": config.n_head,
                "parameters": run["param_counts"],
                "scaling_params": run["num_scaling_params"],
                "batch_tokens": run.get("total_batch_size", run["args"].total_batch_size),
                "steps": run["num_iterations"],
                "tokens": run["target_tokens"],
                "weight_decay": run["weight_decay_scaled"],
                "flops_per_token": run["num_flops_per_token"],
                "groups": summary(groups),
                "printed": {
                    "Total number of training tokens": number(r"Total number of training tokens: (\S+)"),
                    "Estimated FLOPs per token": number(r"Estimated FLOPs per token: (\S+)"),
                    "Total training FLOPs estimate": number(r"Total training FLOPs estimate: (\S+)"),
                    "Tokens : Scaling params ratio": number(r"Tokens : Scaling params ratio: (\S+)"),
                },
            }
        out[setting] = {"origin": f"scripts/base_train.py of nanochat {COMMITS[setting]}, on the meta device", "depths": table}
    save_json(OPTIM / "depths.json", out)


def summary(groups):
    """nanochat's groups as ours: its Muon groups, one per shape, are one group of one rate."""
    names = {"lm_head.weight": "lm_head", "transformer.wte.weight": "wte", "resid_lambdas": "resid_lambdas", "x0_lambdas": "x0_lambdas"}
    out = {}
    for group in groups:
        first = group["params"][0]
        name = names.get(first) or ("value_embeds" if first.startswith("value_embeds") else "smear" if first.startswith("smear") else "matrices")
        entry = out.setdefault(name, {"tensors": 0, "elements": 0, "lr": group["lr"], "weight_decay": group["weight_decay"]})
        assert (entry["lr"], entry["weight_decay"]) == (group["lr"], group["weight_decay"]), name
        entry["tensors"] += len(group["params"])
        entry["elements"] += group["elements"]
    return out


def chat(full):
    import chat as chats

    save_json(TRAIN / "chat.json", chats.chat())


PARTS = {f.__name__: f for f in (gradients, steps, schedules, bits, depths, chat)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all without a name")
    parser.add_argument("--full", type=pathlib.Path, help="also write whole tensors to this folder")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        PARTS[part](arguments.full)
