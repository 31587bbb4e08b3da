"""Whether Python's tokenizers gives the ids that are expected.

    python check_ids.py TOKENIZER.json CASES.json

CASES.json is a list of [text, ids]. Exits 0 and says how many texts agree; exits 1 and shows the first that does not;
exits 77 and says why where `tokenizers` is not installed. Run by the test `python_encodes_identically`.
"""

import json
import sys

try:
    import tokenizers
except ImportError:
    print("skipped: Python's tokenizers is not installed (pip install tokenizers)")
    sys.exit(77)


def main(tokenizer, cases):
    theirs = tokenizers.Tokenizer.from_file(tokenizer)
    # A special token's name in a text is text.
    theirs.encode_special_tokens = True
    with open(cases, encoding="utf-8", newline="") as file:
        cases = json.load(file)
    for text, ids in cases:
        found = theirs.encode(text, add_special_tokens=False).ids
        if found != ids:
            print(f"{text!r}\nexpected {ids}\nfound    {found}")
            return 1
    print(f"{len(cases)} texts agree with tokenizers {tokenizers.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
