"""How far nanochat is from itself over thirty golden steps: with two threads, and in f64.

    NANOCHAT_DIR=… python itself.py [case …]

What sums in another order cannot be asked to agree with nanochat better than nanochat does.
"""

import sys

import torch

import cases
import exact
from make import run_steps
from upstream import Nanochat


def report(case, what, one, other):
    (l1, f1), (l2, f2) = one, other
    loss = max(abs(a - b) / b for a, b in zip(l1, l2))
    errors = sorted(((exact.distance(f1[n], f2[n]), n) for n in f1), reverse=True)
    worst = ", ".join(f"{n.removeprefix('final.')} {e:.1e}" for e, n in errors[:4])
    print(f"{case}, {what}: losses within {loss:.1e}; weights: median {errors[len(errors) // 2][0]:.1e}, worst {worst}", flush=True)


if __name__ == "__main__":
    for case in sys.argv[1:] or ["january-30", "july-30"]:
        setting = cases.setting(case)
        single = run_steps(Nanochat(setting), case)
        torch.set_num_threads(2)
        double = run_steps(Nanochat(setting), case)
        torch.set_num_threads(1)
        exactly = run_steps(Nanochat(setting, double=True), case)
        report(case, "two threads against one", double, single)
        report(case, "one thread against f64", single, exactly)
