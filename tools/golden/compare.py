"""Compares whole tensors, where the Rust tests compare sketches of the large ones.

    NANOCHAT_DIR=… python make.py gradients steps --full FULL
    FARTHING_GOLDEN_DUMP=OURS cargo test --release -p farthing-model -p farthing-optim golden_
    python compare.py FULL OURS
"""

import pathlib
import sys

import exact
from files import decode

if __name__ == "__main__":
    full, ours = (pathlib.Path(folder) for folder in sys.argv[1:3])
    for path in sorted(full.glob("*.safetensors")):
        theirs, metadata = decode(path)
        if not (ours / path.name).exists():
            print(f"{path.stem}: {ours} has no {path.name}")
            continue
        mine, _ = decode(ours / path.name)
        errors = {name: exact.distance(mine[name].numpy(), theirs[name].numpy()) for name in mine}
        median = sorted(errors.values())[len(errors) // 2]
        print(f"{path.stem}: {len(errors)} tensors in full, median {median:.2e} ({metadata['origin']})")
        for name, error in sorted(errors.items(), key=lambda item: -item[1])[:5]:
            print(f"    {error:.2e}  {name}")
