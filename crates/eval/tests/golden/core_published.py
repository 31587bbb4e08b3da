"""Writes core_published.json: what nanochat's core_eval makes of the published CORE files, for tests/core_published.rs.

Prompts, examples and scored spans are computed by nanochat's own functions (commit 92d63d4, jinja2 3.1.6, CPython 3.11.7); only the
tokenizers (UTF-8 bytes, BOS 256; GPT-2's by the package tokenizers) and the model (a formula on byte pairs, exact in binary) are ours. No
torch is needed. Verdicts are of the first 40 items with examples among these 40, as under max_per_task; the checksums under `all` are of the
first 100 items, or all there are, with examples among all items.

    python3 core_published.py DIRECTORY_OF_core_eval.py DIRECTORY_OF_THE_BUNDLE GPT2_TOKENIZER_JSON > core_published.json
"""
import csv, json, os, random, struct, sys, types, zlib

import tokenizers
import yaml

torch = types.ModuleType("torch")
torch.no_grad = lambda: lambda f: f
torch.distributed = types.ModuleType("torch.distributed")
sys.modules.update({"torch": torch, "torch.distributed": torch.distributed})
sys.path.insert(0, sys.argv[1])
import core_eval as nanochat

MAX_PER_TASK = 40
FIRST = 100


class Bytes:
    def get_bos_token_id(self):
        return 256

    def __call__(self, prompts, prepend):
        return [[prepend, *p.encode()] for p in prompts]


class Gpt2:
    def __init__(self, path):
        self.inner = tokenizers.Tokenizer.from_file(path)

    def get_bos_token_id(self):
        return self.inner.token_to_id("<|endoftext|>")

    def __call__(self, prompts, prepend):
        return [[prepend, *p.ids] for p in self.inner.encode_batch(prompts, add_special_tokens=False)]


def numbers(crc, values):
    return zlib.crc32(struct.pack(f"<{len(values)}I", *values), crc)


def first_items(data, kind, shots, delimiter):
    """Checksums of the picks, the prompts, and per tokenizer of tokens and spans."""
    picks, texts, spans = 0, 0, [0] * len(TOKENIZERS)
    for idx, item in enumerate(data[:FIRST]):
        rng = random.Random(1234 + idx)
        chosen = rng.sample([i for i in range(len(data)) if i != idx], shots) if shots else []
        picks = numbers(picks, chosen)
        prompts = getattr(nanochat, f"render_prompts_{kind}")(item, delimiter, [data[i] for i in chosen])
        for prompt in prompts:
            texts = zlib.crc32(prompt.encode() + b"\0", texts)
        for n, tokenizer in enumerate(TOKENIZERS):
            for tokens, start, end in zip(*getattr(nanochat, f"batch_sequences_{kind}")(tokenizer, prompts)):
                spans[n] = numbers(numbers(spans[n], tokens), [start, end])
    return {"items": min(FIRST, len(data)), "picks": picks, "prompts": texts, "bytes": spans[0], "gpt2": spans[1]}


def loss(a, b):
    return ((a * 31 + b * 17) % 64) / 64


def predicted(a, b):
    return b if (a * 5 + b) % 61 else b + 1


def mean(tokens, s, e):
    losses = [loss(tokens[t - 1], tokens[t]) for t in range(s, e)]
    return sum(losses) / len(losses) if losses else float("nan")


def correct(kind, item, tokens, starts, ends):
    if kind == "language_modeling":
        (t,), (s,), (e,) = tokens, starts, ends
        return all(predicted(t[i - 1], t[i]) == t[i] for i in range(s, e))
    means = [mean(*part) for part in zip(tokens, starts, ends)]
    return means.index(min(means)) == item["gold"]


bundle = sys.argv[2]
TOKENIZERS = [Bytes(), Gpt2(sys.argv[3])]
baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(open(f"{bundle}/eval_meta_data.csv"))}
tasks, centered = [], []
for task in yaml.safe_load(open(f"{bundle}/core.yaml"))["icl_tasks"]:
    kind, shots = task["icl_task_type"], task["num_fewshot"][0]
    delimiter = task.get("continuation_delimiter", " ")
    with open(os.path.join(bundle, "eval_data", task["dataset_uri"]), encoding="utf-8") as f:
        data = [json.loads(line.strip()) for line in f]
    items = len(data)
    random.Random(1337).shuffle(data)
    short = {"multiple_choice": "mc", "schema": "schema", "language_modeling": "lm"}[kind]
    first = first_items(data, short, shots, delimiter)
    data = data[:MAX_PER_TASK]
    crc, right = 0, ""
    for idx, item in enumerate(data):
        rng = random.Random(1234 + idx)
        examples = [data[i] for i in rng.sample([i for i in range(len(data)) if i != idx], shots)] if shots else []
        prompts = getattr(nanochat, f"render_prompts_{short}")(item, delimiter, examples)
        for prompt in prompts:
            crc = zlib.crc32(prompt.encode() + b"\0", crc)
        spans = getattr(nanochat, f"batch_sequences_{short}")(Bytes(), prompts)
        right += str(int(correct(kind, item, *spans)))
    baseline = baselines[task["label"]]
    accuracy = right.count("1") / len(right)
    centered.append((accuracy - 0.01 * baseline) / (1 - 0.01 * baseline))
    tasks.append({"label": task["label"], "uri": task["dataset_uri"], "task_type": kind, "num_fewshot": shots,
                  "random_baseline": baseline, "continuation_delimiter": delimiter, "items": items, "prompts_crc32": crc,
                  "correct": right, "all": first})
json.dump({"max_per_task": MAX_PER_TASK, "core": sum(centered) / len(centered), "tasks": tasks}, sys.stdout, indent=1)
print()
