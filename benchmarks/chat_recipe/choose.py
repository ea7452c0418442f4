"""Print the table of all evaluations, and which run and decoding the dev prompts choose.

python benchmarks/chat_recipe/choose.py RESULTS

Of those that follow at most 2 points fewer dev instructions than the base does greedily, the one with the largest sum of the
shares that end by themselves, do not loop, and solve a dev problem. The reported prompts are not looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHOWN = ("gsm8k", "ifeval_prompt_strict", "ifeval_instruction_strict", "stopped", "loops")


def shares(results):
    return {name: value["share"] for name, value in results["figures"].items()}


def choose(runs):
    """Return the (run, decoding) that the dev prompts choose, or None if no tuned run was evaluated on them."""
    floor = shares(runs["base"]["greedy"]["dev"])["ifeval_instruction_strict"] - 0.02
    scores = {}
    for run, decodings in runs.items():
        for decoding, parts in decodings.items():
            if run != "base" and "dev" in parts:
                dev = shares(parts["dev"])
                follows = dev["ifeval_instruction_strict"] >= floor
                scores[run, decoding] = (follows, dev["stopped"] - dev["loops"] + dev["gsm8k"])
    return max(scores, key=scores.__getitem__, default=None)


def main():
    files = sorted(Path(sys.argv[1]).glob("evaluate-*.json"))
    runs = {path.stem.removeprefix("evaluate-"): json.loads(path.read_text())["decodings"] for path in files}
    for part in ("dev", "test"):
        print(f"{part:46}", *SHOWN)
        for run, decodings in runs.items():
            for decoding, parts in decodings.items():
                if part in parts:
                    found = shares(parts[part])
                    print(f"{run:14} {decoding:31}", *(f"{found[name]:{len(name)}.2%}" for name in SHOWN))
    print("chosen by dev:", choose(runs))


if __name__ == "__main__":
    main()
