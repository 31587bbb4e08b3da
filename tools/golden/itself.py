"""How far nanochat is from itself over the golden steps: with two threads, and in f64.

    NANOCHAT_DIR=… python itself.py

What sums in another order cannot be asked to agree with nanochat better than nanochat does.
"""

import torch

import cases
import exact
from make import run_steps
from upstream import Nanochat


def doubled(model):
    """Weights and rotary tables to f64; the tables are computed anew, not widened."""
    model.double()
    model.cos, model.sin = model._precompute_rotary_embeddings(model.rotary_seq_len, model.config.n_embd // model.config.n_head)


if __name__ == "__main__":
    for case in cases.STEPS:
        setting = cases.setting(case)
        runs = {"f32, 1 thread": run_steps(Nanochat(setting), case)}
        torch.set_num_threads(2)
        runs["f32, 2 threads"] = run_steps(Nanochat(setting), case)
        torch.set_num_threads(1)
        losses, final = run_steps(Nanochat(setting, double=True), case, doubled)
        for name, (l, f) in runs.items():
            loss = max(abs(a - b) / b for a, b in zip(l, losses))
            errors = sorted(((exact.distance(f[n], final[n]), n) for n in final), reverse=True)
            print(f"{case}: {name} against f64: loss {loss:.1e}; weights {', '.join(f'{n} {e:.1e}' for e, n in errors[:6])}")
        (l1, f1), (l2, f2) = runs.values()
        loss = max(abs(a - b) / b for a, b in zip(l1, l2))
        errors = sorted(((exact.distance(f2[n], f1[n]), n) for n in f1), reverse=True)
        print(f"{case}: 2 threads against 1: loss {loss:.1e}; weights {', '.join(f'{n} {e:.1e}' for e, n in errors[:6])}", flush=True)
