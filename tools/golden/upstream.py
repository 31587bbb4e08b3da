"""nanochat from a checkout, loaded so that it computes in f32 on a CPU. None of its code is kept here.

`Nanochat(setting)` imports the checkout of that setting. Its sources are edited in memory where January's code rounds to bf16
whatever the device: rotary's cos and sin (and the assertion of their type), and Muon's X. July's code rounds nothing on a CPU.
Every edit must match exactly once, or the checkout is not the one that is meant.

`training(...)` executes the top of the checkout's own `scripts/base_train.py`, up to its training loop, with the tokenizer, the data
and the logger replaced by stand-ins: model, optimizer, groups, rates and schedules are then nanochat's own.
"""

import contextlib
import io
import os
import pathlib
import sys
import types

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # @torch.compile returns the function itself
os.environ["NANOCHAT_DTYPE"] = "float32"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

torch.set_num_threads(1)

COMMITS = {"january": "348fbb3", "july": "92d63d4"}
PRESETS = {"january": "nanochat-2026-01", "july": "nanochat-2026-07"}

EDITS = {
    "january": {
        "gpt": [
            ("cos, sin = cos.bfloat16(), sin.bfloat16()", "cos, sin = cos, sin"),
            ("assert self.cos.dtype == torch.bfloat16", "assert self.cos.dtype == torch.float32"),
        ],
        "optim": [("X = g.bfloat16()", "X = g")],
    },
    "july": {},
}


def checkout(setting):
    """The folder of a setting's checkout: NANOCHAT_DIR/<commit>."""
    root = os.environ.get("NANOCHAT_DIR")
    if not root:
        sys.exit("NANOCHAT_DIR is not set: the folder that holds checkouts 348fbb3 and 92d63d4 of nanochat (see README.md)")
    folder = pathlib.Path(root) / COMMITS[setting]
    if not (folder / "nanochat" / "gpt.py").is_file():
        sys.exit(f"{folder} is no checkout of nanochat")
    return folder


def stand_in(name, **contents):
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


class Tokenizer:
    """As many entries as are asked for, and nothing else."""

    vocab = 32_768

    def get_vocab_size(self):
        return self.vocab


def no_batches(*args, **kwargs):
    while True:
        yield None, None, {}


class Nanochat:
    def __init__(self, setting, double=False):
        """With `double`, casts to f32 inside the model and the optimizer are edited to f64."""
        self.setting, self.folder, self.double = setting, checkout(setting), double
        for name in [n for n in sys.modules if n.split(".")[0] in ("nanochat", "scripts")]:
            del sys.modules[name]
        package = types.ModuleType("nanochat")
        package.__path__ = [str(self.folder / "nanochat")]
        sys.modules["nanochat"] = package
        stand_in("nanochat.tokenizer", get_tokenizer=Tokenizer, get_token_bytes=lambda device: None)
        stand_in(
            "nanochat.dataloader",
            tokenizing_distributed_data_loader_bos_bestfit=no_batches,
            tokenizing_distributed_data_loader_with_state_bos_bestfit=no_batches,
        )
        stand_in("nanochat.engine", Engine=None)
        stand_in("wandb")
        stand_in("scripts")
        stand_in("scripts.base_eval", evaluate_model=None, evaluate_core=None)
        for name in ("common", "optim", "flash_attention", "gpt", "loss_eval", "checkpoint_manager"):
            setattr(self, name, self.load(name))
            if double and name == "common":
                self.common.COMPUTE_DTYPE = torch.float64
        self.common.print_banner = lambda: None

    def load(self, name):
        path = self.folder / "nanochat" / f"{name}.py"
        source = path.read_text(encoding="utf-8")
        for old, new in EDITS[self.setting].get(name, []):
            assert source.count(old) == 1, f"{path}: `{old}` occurs {source.count(old)} times"
            source = source.replace(old, new)
        if self.double and name in ("gpt", "optim"):
            source = source.replace(".float()", ".double()").replace("torch.float32", "torch.float64")
            # RMSNorm's epsilon follows from the element type; f32's stays, as in the recipe.
            source = source.replace("F.rms_norm(x, (x.size(-1),))", "F.rms_norm(x, (x.size(-1),), eps=2.0**-23)")
        module = types.ModuleType(f"nanochat.{name}")
        module.__file__, module.__package__ = str(path), "nanochat"
        sys.modules[module.__name__] = module
        exec(compile(source, str(path), "exec"), module.__dict__)
        return module

    def model(self, shape, weights=None):
        """A model of this shape on the CPU, all weights replaced by `weights` where they are given."""
        with torch.device("meta"):
            model = self.gpt.GPT(self.gpt.GPTConfig(**shape))
        model.to_empty(device="cpu")
        torch.manual_seed(0)
        model.init_weights()
        if weights is not None:
            model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()}, strict=True)
        return model

    def training(self, arguments, vocab=32_768, device="meta"):
        """Runs the top of scripts/base_train.py. Returns its variables and what it printed."""
        path = self.folder / "scripts" / "base_train.py"
        source = path.read_text(encoding="utf-8")
        mark = "\nwhile True:\n"
        assert source.count(mark) == 1, f"{path}: {source.count(mark)} training loops"
        Tokenizer.vocab = vocab
        self.common.compute_init = lambda _: (False, 0, 0, 1, torch.device(device))
        variables = {"__name__": "__main__", "__file__": str(path)}
        argv, sys.argv = sys.argv, ["base_train", "--device-type=cpu", *arguments]
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(source[: source.index(mark)], str(path), "exec"), variables)
        finally:
            sys.argv = argv
        return variables, printed.getvalue()

    def origin(self):
        """Where figures come from, for the files that hold them."""
        casts = "bf16 casts patched to identity, " if EDITS[self.setting] else ""
        kind = "f64 (casts to f32 patched)" if self.double else "f32"
        return f"nanochat {COMMITS[self.setting]}, {casts}{kind} on a CPU, torch {torch.__version__}, 1 thread; tools/golden/make.py"
