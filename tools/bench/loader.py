"""Times nanochat's loader and ours on the same text, tokenizer, sequence length and machine, one after the other, in rounds.

nanochat encodes and packs while it trains; we encode and pack once and then read rows. So there are three figures: nanochat's
loader, our packing (parquet to shards, encoding included) and our loading of what was packed.

    cargo build --release -p farthing-data --examples
    cargo run --release -p farthing-data --example pack_folder -- TEXT PACKED 32768 2048
    NANOCHAT_DIR=… python tools/bench/loader.py TEXT PACKED target/release/examples

TEXT is a folder of parquet files with a column `text`. Needs torch, pyarrow, tiktoken and numpy, and a checkout of nanochat, of which
only nanochat/dataloader.py is loaded. The tokenizer is PACKED/tokenizer.json on both sides.
"""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

B, T, BATCHES, ROUNDS = 32, 2048, int(os.environ.get("BATCHES", 40)), int(os.environ.get("ROUNDS", 3))


class Tokenizer:
    """What nanochat's loader asks of a tokenizer, on tiktoken as nanochat has it."""

    def __init__(self, path):
        import tiktoken

        file = json.loads(path.read_text(encoding="utf-8"))
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
        special = {t["content"]: t["id"] for t in file["added_tokens"]}
        ranks = {
            bytes(byte[c] for c in token): id
            for token, id in file["model"]["vocab"].items()
            if token not in special
        }
        split = next(p for p in file["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split")
        self.encoding = tiktoken.Encoding(
            name="same", pat_str=split["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens=special
        )
        self.bos = special["<|bos|>"]
        self.seconds = 0.0

    def get_bos_token_id(self):
        return self.bos

    def encode(self, texts, prepend, num_threads):
        start = time.perf_counter()
        ids = self.encoding.encode_ordinary_batch(texts, num_threads=num_threads)
        for row in ids:
            row.insert(0, prepend)
        self.seconds += time.perf_counter() - start
        return ids


def nanochat(files):
    """nanochat/dataloader.py alone: the two modules it imports are replaced by what it needs of them."""
    common, dataset = types.ModuleType("nanochat.common"), types.ModuleType("nanochat.dataset")
    common.get_dist_info = lambda: (False, 0, 0, 1)
    # It holds out the last file.
    dataset.list_parquet_files = lambda **_: [str(f) for f in files]
    sys.modules |= {"nanochat": types.ModuleType("nanochat"), "nanochat.common": common, "nanochat.dataset": dataset}
    path = Path(os.environ["NANOCHAT_DIR"]) / "nanochat" / "dataloader.py"
    spec = importlib.util.spec_from_file_location("nanochat.dataloader", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tokenizing_distributed_data_loader_bos_bestfit


def run(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def main():
    text, packed, examples = map(Path, sys.argv[1:4])
    files = sorted(text.glob("**/*.parquet"))
    threads = os.cpu_count()
    tokenizer = Tokenizer(packed / "tokenizer.json")
    make = nanochat(files)
    theirs, encoding, packing, loading = [], [], [], []
    for _ in range(ROUNDS):
        loader = make(tokenizer, B, T, "train", tokenizer_threads=threads, device="cpu")
        next(loader)  # fills its buffer of 1,000 documents
        tokenizer.seconds, start = 0.0, time.perf_counter()
        for _ in range(BATCHES):
            next(loader)
        seconds = time.perf_counter() - start
        theirs.append(BATCHES * B * T / seconds)
        encoding.append(tokenizer.seconds / seconds)
        with tempfile.TemporaryDirectory() as out:
            printed = run(examples / "pack_folder", text, out, packed / "tokenizer.json", T)
            packing.append(1e6 * float(re.search(r"packing: ([\d.]+) million tokens/s", printed)[1]))
        printed = run(examples / "iterate_batches", packed, B)
        loading.append(1e6 * float(re.search(r"([\d.]+) million tokens/s", printed)[1]))
    load = os.getloadavg()[0]
    print(f"{threads} cores, load {load:.1f}, B = {B}, T = {T}, median of {ROUNDS} rounds of {BATCHES} batches")
    million = lambda values: f"{statistics.median(values) / 1e6:.2f}"
    print(f"nanochat's loader  {million(theirs):>9} million tokens/s, {statistics.median(encoding):.0%} of it encoding")
    print(f"our packing        {million(packing):>9} million tokens/s")
    print(f"our loading        {million(loading):>9} million tokens/s")


if __name__ == "__main__":
    main()
