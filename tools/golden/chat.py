"""Conversations, their tokens, the first batches and their losses, as nanochat's own tokenizer and `scripts/chat_sft.py` make them.

The tokenizer has the 256 bytes and the special tokens, and no merge: what is compared is where special tokens stand, what is learned, and which conversation
comes into which row.
"""

import random

import tiktoken

import cases
from upstream import Nanochat

CASE, TOKENS, ROWS, BATCHES = "july-chat-d2", 128, 4, 3
SHAPE = dict(n_layer=2, n_embd=128, n_head=2, n_kv_head=2, sequence_len=TOKENS, window_pattern="SSSL")


def conversations():
    """As many as are packed before any is met again, of all forms, none longer than a row."""
    draw = random.Random(16)
    words = "who what why the a river town lives in is near ünder 7 12 <|bos|> Ada, Tom's\n".split(" ")
    text = lambda most: " ".join(draw.choice(words) for _ in range(draw.randint(0, most)))
    out = []
    while len(out) < 160:
        messages = []
        if draw.random() < 0.2:
            messages.append({"role": "system", "content": text(3)})
        for _ in range(draw.randint(1, 3)):
            messages.append({"role": "user", "content": text(5)})
            if draw.random() < 0.25:
                parts = [("text", text(2)), ("python", "1+1"), ("python_output", "2"), ("text", text(2))]
                content = [{"type": kind, "text": said} for kind, said in parts]
            else:
                content = text(5)
            messages.append({"role": "assistant", "content": content})
        if draw.random() < 0.1:
            messages.pop()  # nobody answers
        out.append({"messages": messages})
    return out


def tokenizer(nano):
    module = nano.load("tokenizer")
    # The order of `tokenizers`: bytes that print, then the others.
    prints = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 255 and b != 173]
    ranks = {bytes([b]): i for i, b in enumerate(prints + [b for b in range(256) if b not in prints])}
    special = {name: 256 + i for i, name in enumerate(module.SPECIAL_TOKENS)}
    encoding = tiktoken.Encoding("bytes", pat_str=module.SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    return module.RustBPETokenizer(encoding, "<|bos|>")


def batches(nano, tokens, talks):
    """The first batches of the loader in scripts/chat_sft.py."""
    import torch

    source = (nano.folder / "scripts" / "chat_sft.py").read_text(encoding="utf-8")
    begin, end = "def sft_data_generator_bos_bestfit(", "\ntrain_loader = "
    assert source.count(begin) == 1 and source.count(end) == 1, "another chat_sft.py"
    arguments = type("args", (), dict(max_seq_len=TOKENS, device_batch_size=ROWS, num_iterations=-1))
    variables = dict(
        args=arguments, tokenizer=tokens, train_dataset=talks, val_dataset=talks, torch=torch, ddp_rank=0, ddp_world_size=1,
        device_type="cpu", device="cpu", last_step=False, approx_progress=0.0, current_epoch=1,
    )  # fmt: skip
    exec(compile(source[source.index(begin) : source.index(end)], "chat_sft.py", "exec"), variables)
    loader = variables["sft_data_generator_bos_bestfit"]("train")
    return [next(loader) for _ in range(BATCHES)]


def numbers(ids):
    return " ".join(map(str, ids))


def chat():
    nano = Nanochat("july")
    tokens, talks = tokenizer(nano), conversations()
    rendered = [tokens.render_conversation(talk) for talk in talks]
    longest = max(len(ids) for ids, _ in rendered)
    talks = [talk for talk, (ids, _) in zip(talks, rendered) if len(ids) <= TOKENS + 1]
    rendered = [(ids, mask) for ids, mask in rendered if len(ids) <= TOKENS + 1]
    assert len(talks) > 100 + 4 * ROWS * BATCHES, f"{len(talks)} conversations, the longest had {longest} tokens"
    shape = dict(vocab_size=tokens.get_vocab_size(), **SHAPE)
    model = nano.model(shape, cases.weights(CASE, nano.model(shape), "lively"))
    steps = []
    for x, y in batches(nano, tokens, talks):
        loss = model(x, y)
        steps.append({"inputs": numbers(x.flatten().tolist()), "targets": numbers(y.flatten().tolist()), "loss": loss.item()})
        print(f"{CASE}: loss {loss.item():.7f}, {(y >= 0).sum()} of {y.numel()} targets")
    return {
        "origin": f"{nano.origin()}; tokenizer.render_conversation and scripts/chat_sft.py",
        "conversations": talks,
        "rendered": [{"ids": numbers(ids), "mask": "".join(map(str, mask))} for ids, mask in rendered],
        "steps": steps,
    }
