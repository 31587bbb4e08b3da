"""Encoding and training, ours beside tiktoken, rustbpe and Python's tokenizers: in turns, on the same text, on the same cores.

    pip install tiktoken rustbpe tokenizers pyarrow
    cargo build --release -p farthing-data --example tokenizer_speed
    python tools/bench/encode.py target/release/examples/tokenizer_speed TEXT.parquet.. [--megabytes 59.7] [--threads 2] [--rounds 3] [--train]

Each measurement is a process of its own that reads the text first and times its work alone, in wall and in processor seconds.
Medians are printed, and the ratios to ours within each round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SPLIT = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return json.load(file)


def timed(work):
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def bytes_of(spelled):
    """A token of the file as the bytes it stands for."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    return bytes(table[c] for c in spelled)


def worker(side, texts, tokenizer, threads):
    """One measurement, printed as a line of JSON."""
    texts = read(texts)
    count = None
    if side == "encode/tiktoken":
        import tiktoken

        # The same vocabulary: its ranks are the ids, because each token was made by the merge of its rank.
        vocab = read(tokenizer)["model"]["vocab"]
        ranks = {bytes_of(token): i for token, i in vocab.items()}
        encoding = tiktoken.Encoding("same", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
        ids, took = timed(lambda: encoding.encode_ordinary_batch(texts, num_threads=threads))
        count = sum(map(len, ids))
    elif side == "encode/tokenizers":
        from tokenizers import Tokenizer

        theirs = Tokenizer.from_file(tokenizer)
        ids, took = timed(lambda: theirs.encode_batch_fast(texts, add_special_tokens=False))
        count = sum(len(e.ids) for e in ids)
    elif side == "train/rustbpe":
        import rustbpe

        theirs = rustbpe.Tokenizer()
        _, took = timed(lambda: theirs.train_from_iterator(iter(texts), 32_768 - 9, pattern=SPLIT))
    elif side == "train/tokenizers":
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        theirs = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
        theirs.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=32_768 - 9, show_progress=False, initial_alphabet=alphabet)
        _, took = timed(lambda: theirs.train_from_iterator(iter(texts), trainer, length=len(texts)))
    else:
        sys.exit(f"no side {side}")
    print(json.dumps(took | {"tokens": count}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--megabytes", type=float, default=59.7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    import pyarrow.parquet as parquet

    texts, size = [], 0
    for path in args.text:
        for text in parquet.read_table(path, columns=["text"]).column("text").to_pylist():
            if size < args.megabytes * 1e6:
                texts.append(text)
                size += len(text.encode())
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {args.threads} threads, {args.rounds} rounds")
    what = "train" if args.train else "encode"
    sides = [f"{what}/ours", f"{what}/tokenizers", "train/rustbpe" if args.train else "encode/tiktoken"]
    environment = os.environ | {
        "RAYON_NUM_THREADS": str(args.threads),
        "TOKENIZERS_PARALLELISM": "true" if args.threads > 1 else "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        corpus, tokenizer = f"{folder}/texts.json", f"{folder}/tokenizer.json"
        with open(corpus, "w", encoding="utf-8") as file:
            json.dump(texts, file)

        def once(side):
            if side.endswith("/ours"):
                command = [args.ours, what, corpus, tokenizer]
            else:
                command = [sys.executable, __file__, "--worker", side, corpus, tokenizer, str(args.threads)]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            return json.loads(done.stdout.splitlines()[-1])

        if what == "encode":
            subprocess.run([args.ours, "train", corpus, tokenizer], env=environment, check=True, stdout=subprocess.PIPE)
        rounds = [{side: once(side) for side in sides} for _ in range(args.rounds)]
    ours = sides[0]
    for side in sides:
        wall = statistics.median(r[side]["wall"] for r in rounds)
        cpu = statistics.median(r[side]["cpu"] for r in rounds)
        by_wall = statistics.median(r[side]["wall"] / r[ours]["wall"] for r in rounds)
        by_cpu = statistics.median(r[side]["cpu"] / r[ours]["cpu"] for r in rounds)
        tokens = rounds[0][side]["tokens"]
        print(
            f"{side:18} wall {wall:7.2f} s = {size / wall / 1e6:7.1f} MB/s, cpu {cpu:7.2f} s = {size / cpu / 1e6:7.1f} MB per core second;"
            f" ours is {by_wall:.1f} times as fast by the clock, {by_cpu:.1f} by the processor" + (f"; {tokens} tokens" if tokens else "")
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:5], int(sys.argv[5]))
    else:
        main()
