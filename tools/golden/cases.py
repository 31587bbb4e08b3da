"""The golden cases: shapes, weights and tokens. `crates/model/tests/golden/cases.rs` holds the same table."""

import math

import numpy as np

import exact

VOCAB, TOKENS = 250, 512

# (a): losses, logits and gradients of two rows. 128 channels per two layers, heads of 64; the last has half as many key/value heads.
GRADIENTS = {
    "january-d2": dict(n_layer=2, n_embd=128, n_head=2, n_kv_head=2),
    "january-d4": dict(n_layer=4, n_embd=256, n_head=4, n_kv_head=4),
    "july-d2": dict(n_layer=2, n_embd=128, n_head=2, n_kv_head=2),
    "july-d4": dict(n_layer=4, n_embd=256, n_head=4, n_kv_head=2),
}
GRADIENT_ROWS = 2

# (b): whole training steps. Rows of 512 tokens, four to a step: 2,048 tokens, which scales the recipe's rates by sqrt(2,048 / 524,288) = 0.0625.
# January has no warm-up: at that rate single tensors of nanochat in f32 are up to 9e-5 from its own in f64 (itself.py), too near to what is to
# be shown of each. So its tensors are compared one by one after steps of one row (rates by 0.03125, and 3e-5), and all together at the full rate.
# In f64 a smaller model (rows of 160 tokens, beyond July's short window) trains from the real initialisation: there rounding stays far below
# AdamW's epsilon, where in f32 it decides the sign of whole updates.
F32 = dict(depth=4, aspect=32, head_dim=64, tokens=TOKENS, rows=4, double=False)
F64 = dict(depth=4, aspect=16, head_dim=32, tokens=160, rows=4, double=True)
STEPS = {
    "january-30": dict(style="start", steps=30, **{**F32, "rows": 1}),
    "january-30-whole": dict(style="start", steps=30, **F32),
    "july-30": dict(style="start", steps=30, **F32),
    "january-1": dict(style="real", steps=1, **F32),
    "july-1": dict(style="real", steps=1, **F32),
    "january-f64": dict(style="real", steps=10, **F64),
    "july-f64": dict(style="real", steps=10, **F64),
}

SCHEDULE_STEPS = [30, 500, 16_704]
DEPTHS = range(4, 33)


def setting(case):
    return case.split("-")[0]


def shape(fields):
    return dict(sequence_len=TOKENS, vocab_size=VOCAB, window_pattern="SSSL", **fields)


def lively(name, size, channels):
    """Values under which every gate, cap and mix bends and no tensor is zero."""
    last = name.removesuffix(".weight").split(".")[-1]
    if name == "smear_lambda":
        return constant(0.3)
    if name == "backout_lambda":
        return constant(0.2)
    mean, std = {
        "wte": (0.0, 1.0),
        "lm_head": (0.0, 0.2),
        "ve_gate": (0.0, 0.3),
        "smear_gate": (0.0, 0.3),
        "c_proj": (0.0, 0.05),
        "resid_lambdas": (1.0, 0.1),
        "x0_lambdas": (0.2, 0.1),
    }.get(last, (0.0, 1.0 / math.sqrt(channels)))  # c_q, c_k, c_v, c_fc and value_embeds
    return lambda label, n: mean + std * exact.normal(label, n)


def real(name, size, channels, which):
    """nanochat's own initialisation, drawn from our numbers."""
    january = which == "january"
    last = name.removesuffix(".weight").split(".")[-1]
    bound = math.sqrt(3.0 / channels)
    if last == "wte":
        return normal(1.0 if january else 0.8)
    if last == "lm_head":
        return normal(0.001)
    if last in ("c_proj", "smear_lambda"):
        return constant(0.0)
    if last == "ve_gate":
        return constant(0.0) if january else uniform(0.0, 0.02)
    if last == "smear_gate":
        return uniform(0.0, 0.02)
    if last == "backout_lambda":
        return constant(0.2)
    if last == "resid_lambdas":
        return linear(1.0, 1.0) if january else linear(1.15, 1.05)
    if last == "x0_lambdas":
        return linear(0.1, 0.1) if january else linear(0.2, 0.05)
    if last == "c_fc" and not january:
        bound = bound * 0.4
    return uniform(-bound, bound)  # c_q, c_k, c_v, c_fc and value_embeds


def start(name, size, channels, which):
    """nanochat's initialisation with its zero tensors filled, from which it agrees with itself whatever the order of sums."""
    last = name.removesuffix(".weight").split(".")[-1]
    if last == "c_proj":
        return normal(0.05)
    if last == "smear_lambda":
        return constant(0.3)
    if last == "ve_gate":
        return uniform(0.0, 0.02)
    return real(name, size, channels, which)


def constant(value):
    return lambda label, n: np.full(n, value)


def normal(std):
    return lambda label, n: std * exact.normal(label, n)


def uniform(low, high):
    return lambda label, n: low + (high - low) * exact.uniform(label, n)


def linear(first, last):
    return lambda label, n: first + (last - first) * np.arange(n, dtype=np.float64) / max(n - 1, 1)


def weights(case, model, style):
    """f32 arrays for every parameter of a model, by name."""
    channels, out = model.config.n_embd, {}
    for name, parameter in model.named_parameters():
        n = parameter.numel()
        rule = lively(name, n, channels) if style == "lively" else {"real": real, "start": start}[style](name, n, channels, setting(case))
        values = rule(f"{case}/{name}", n).astype(np.float32)
        assert style == "real" or np.any(values), f"{name} is zero"
        out[name] = values.reshape(tuple(parameter.shape))
    return out


def token_bytes():
    """Bytes per token for bits per byte: 1 to 9, and none for the last nine entries."""
    table = (1 + exact.bits("token-bytes", VOCAB) % np.uint64(9)).astype(np.int64)
    table[VOCAB - 9 :] = 0
    return table
