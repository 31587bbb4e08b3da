"""CORE of a tiny model of ours, item by item, beside nanochat's own evaluation of the same weights.

    NANOCHAT_DIR=… python tools/eval/core_check.py BUNDLE TOKENIZER [--items 16] [--runner target/release/runner]

BUNDLE is the published bundle's folder (core.yaml, eval_meta_data.csv, eval_data), TOKENIZER a folder with GPT-2's `tokenizer.json`. It trains a model of two
layers on the embedded world with that tokenizer, evaluates it with `runner eval`, converts it with `tools/golden/convert.py`, and lets nanochat's
`core_eval` render, tokenize and score the same items, one after another. Every choice must be equal, every mean loss within 1e-4. Both times are printed:
nanochat's loop is the naive way, a forward pass of its own for each item, and logits of every position.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import torch
import yaml
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))
import convert  # noqa: E402
import tiny  # noqa: E402
from upstream import Nanochat  # noqa: E402

TOLERANCE = 1e-4
MODEL = "depth = 2\naspect_ratio = 32\nhead_dim = 16"


class Words:
    """GPT-2's tokenizer as nanochat's `core_eval` calls one."""

    def __init__(self, path):
        self.inner = Tokenizer.from_file(str(path))
        self.bos = self.inner.token_to_id("<|endoftext|>")

    def get_bos_token_id(self):
        return self.bos

    def __call__(self, texts, prepend):
        return [[prepend, *self.inner.encode(text, add_special_tokens=False).ids] for text in texts]


class Told:
    """Notes what nanochat's evaluation computes of an item: losses and predictions, and where it looks at them."""

    def __init__(self, module):
        self.module = module
        for name in ("batch_sequences_mc", "batch_sequences_schema", "batch_sequences_lm"):
            setattr(module, name, self.spans(getattr(module, name)))
        forward = module.forward_model

        def noted(model, ids):
            self.losses, self.predictions = forward(model, ids)
            return self.losses, self.predictions

        module.forward_model = noted

    def spans(self, function):
        def noted(tokenizer, prompts):
            tokens, self.starts, self.ends = function(tokenizer, prompts)
            return tokens, self.starts, self.ends

        return noted

    def means(self):
        return [self.losses[i, s - 1 : e - 1].mean().item() for i, (s, e) in enumerate(zip(self.starts, self.ends))]


def ours(runner, tokenizer, bundle, items, work):
    (work / "p.toml").write_text(tiny.pipeline(tokenizer, 512, MODEL, 30))
    subprocess.run([runner, "p.toml"], cwd=work, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.time()
    command = [runner, "eval", "runs/check", "--core", str(bundle), "--max-per-task", str(items), "--json", "ours.json"]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    took = time.time() - began
    (model,) = work.glob("store/stages/*/checkpoint/model.safetensors")
    return json.loads((work / "ours.json").read_text())["core"]["tasks"], took, model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--items", type=int, default=16, help="at least 11: some tasks have 10 examples before an item")
    parser.add_argument("--runner", type=pathlib.Path, default="target/release/runner")
    arguments = parser.parse_args()
    bundle, tokenizer = arguments.bundle.resolve(), arguments.tokenizer.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        tasks, our_time, model_file = ours(arguments.runner.resolve(), tokenizer, bundle, arguments.items, work)
        weights, meta = convert.to_nanochat(model_file, work / "theirs")
        nano = Nanochat("july")
        shape = json.loads(pathlib.Path(meta).read_text())["model_config"]
        model = nano.model(shape)
        model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
        model.eval()
        core_eval = nano.load("core_eval")
        told, words = Told(core_eval), Words(tokenizer / "tokenizer.json")
        config = yaml.safe_load((bundle / "core.yaml").read_text())["icl_tasks"]
        found = {task["label"]: task for task in tasks}
        their_time, worst, differing, compared = 0.0, 0.0, [], 0
        for task in config:
            kind = dict(task_type=task["icl_task_type"], num_fewshot=task["num_fewshot"][0], continuation_delimiter=task.get("continuation_delimiter", " "))
            lines = (bundle / "eval_data" / task["dataset_uri"]).read_text().splitlines()
            data = [json.loads(line) for line in lines if line.strip()]
            random.Random(1337).shuffle(data)
            data = data[: arguments.items]
            examples = found[task["label"]]["examples"]
            assert len(examples) == len(data), (task["label"], len(examples), len(data))
            far = 0.0
            for index, example in enumerate(examples):
                began = time.time()
                right = core_eval.evaluate_example(index, model, words, data, torch.device("cpu"), kind)
                their_time += time.time() - began
                means = told.means()
                chosen = None if kind["task_type"] == "language_modeling" else means.index(min(means))
                if (chosen, bool(right)) != (example["chosen"], example["correct"]):
                    differing.append(f"{task['label']} item {index}: {chosen} {right}, ours {example}")
                pairs = [(a, b) for a, b in zip(means, example["losses"]) if b is not None]
                far = max([far, *(abs(a - b) for a, b in pairs)])
                compared += 1
            worst = max(worst, far)
            print(f"{task['label']:<34} {len(examples):>3} items, losses within {far:.1e}", flush=True)
    print(f"{compared} items: {len(differing)} choices differ, losses within {worst:.1e}")
    print(f"farthing {our_time:.1f} s with loading, nanochat's loop {their_time:.1f} s on {torch.get_num_threads()} thread")
    print("\n".join(differing))
    sys.exit(bool(differing) or worst > TOLERANCE)


if __name__ == "__main__":
    main()
