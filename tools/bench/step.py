"""nanochat's training step and farthing's, in turns, on the same cores: ratios of tokens/s.

    NANOCHAT_DIR=CHECKOUT python tools/bench/step.py [--cases abcd] [--rounds 5] [--seconds 12]

Needs Python 3.10 or later with torch 2.9.1, tiktoken, rustbpe and a checkout of nanochat (commit 92d63d4). nanochat's side is a process that compiles its model once
and then takes steps when told to; ours is the example `cpu_step`, which this script builds. A round is some seconds of each, one after the other; rounds in which
other processes or the hypervisor took more than a tenth of a core are dropped. Ids are random on both sides, weights float32.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = {
    "a": (dict(n_layer=4, n_embd=256, n_head=4, n_kv_head=4, sequence_len=512, vocab_size=8192, window_pattern="L"), 8),
    "b": (dict(n_layer=4, n_embd=256, n_head=4, n_kv_head=4, sequence_len=512, vocab_size=8192, window_pattern="SSSL"), 8),
    "c": (dict(n_layer=6, n_embd=384, n_head=6, n_kv_head=6, sequence_len=512, vocab_size=32768, window_pattern="L"), 16),
    "d": (dict(n_layer=12, n_embd=768, n_head=6, n_kv_head=6, sequence_len=1024, vocab_size=32768, window_pattern="SSSL"), 1),
}
ROOT = Path(__file__).resolve().parents[2]


def theirs(case, threads):
    """The process of nanochat's side: for each number on its input, that many steps and a line with their seconds."""
    os.environ["NANOCHAT_DTYPE"] = "float32"
    sys.path.insert(0, os.environ["NANOCHAT_DIR"])
    answers, sys.stdout = sys.stdout, sys.stderr  # what nanochat prints is not for the reader of our lines
    import torch
    from nanochat.gpt import GPT, GPTConfig

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keys, rows = CASES[case]
    config = GPTConfig(**keys)
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
    model.init_weights()
    optimizer = model.setup_optimizer()
    compiled = torch.compile(model, dynamic=False)
    data = torch.randint(0, config.vocab_size, (4, rows, config.sequence_len + 1))

    def step(i):
        ids = data[i % 4]
        started = time.perf_counter()
        compiled(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    for i in range(3):
        step(i)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps([step(i) for i in range(int(line))]), file=answers, flush=True)


def busy(pid):
    """The moment, the CPU seconds that the whole machine has used or was not given, and those of `pid` and of ended children."""
    hertz = os.sysconf("SC_CLK_TCK")
    machine = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    process = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    ended = os.times()
    own = (int(process[11]) + int(process[12])) / hertz + ended.children_user + ended.children_system
    return time.perf_counter(), (sum(machine[:8]) - machine[3] - machine[4]) / hertz, own


def measured(run, pid):
    """What `run` gives, and the cores that others used or the hypervisor kept meanwhile."""
    start, result, end = busy(pid), run(), busy(pid)
    wall, machine, own = (b - a for a, b in zip(start, end))
    return result, max(0.0, machine - own) / wall


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="abcd")
    parser.add_argument("--rounds", type=int, default=5, help="undisturbed rounds that count")
    parser.add_argument("--seconds", type=float, default=12, help="seconds of each side in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--theirs", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs:
        return theirs(args.theirs, args.threads)
    if "NANOCHAT_DIR" not in os.environ:
        sys.exit("set NANOCHAT_DIR to a checkout of nanochat")
    subprocess.run(["cargo", "build", "--release", "--workspace", "--example", "cpu_step"], cwd=ROOT, check=True)
    for case in args.cases:
        keys, rows = CASES[case]
        tokens = rows * keys["sequence_len"]
        command = [sys.executable, __file__, "--theirs", case, "--threads", str(args.threads)]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if other.stdout.readline().strip() != "ready":
            sys.exit(f"nanochat's side of case {case} did not start")

        def their_steps(n):
            other.stdin.write(f"{n}\n")
            other.stdin.flush()
            return json.loads(other.stdout.readline())

        def our_steps(n):
            ours = ROOT / "target/release/examples/cpu_step"
            command = [ours, "--case", case, "--steps", str(n), "--threads", str(args.threads), "--json"]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["seconds"]

        each = statistics.median(their_steps(2))
        steps = max(2, round(args.seconds / each))
        ratios, rates, dropped = [], [], 0
        while len(ratios) < args.rounds and dropped < 4 * args.rounds:
            (a, beside_a) = measured(lambda: their_steps(steps), other.pid)
            (b, beside_b) = measured(lambda: our_steps(steps), other.pid)
            if max(beside_a, beside_b) > 0.1:
                dropped += 1
                continue
            a, b = tokens / statistics.median(a), tokens / statistics.median(b)
            rates.append((a, b))
            ratios.append(b / a)
        other.stdin.close()
        other.wait()
        if not ratios:
            print(f"{case}: every round was disturbed")
            continue
        a, b = (statistics.median(rate) for rate in zip(*rates))
        print(
            f"{case}: nanochat {a:.0f}, farthing {b:.0f} tokens/s, ratio {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds, {dropped} dropped)",
            flush=True,
        )


if __name__ == "__main__":
    main()
