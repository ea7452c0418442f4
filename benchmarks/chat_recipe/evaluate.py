"""Evaluate a run by several decodings, on the prompts for choosing (dev) and the reported ones.

python benchmarks/chat_recipe/evaluate.py RUN --name NAME --data DATA --chat OUT --out RESULTS

OUT is the folder that `replies.py` wrote; DATA holds ifeval.jsonl and gsm8k.test.jsonl. RESULTS gets the figures and the replies.
"""

from __future__ import annotations

import argparse
import json
import lzma
from dataclasses import asdict
from pathlib import Path

import torch

from glassgpt.api.chat_evaluation import ChatEvaluation, evaluate_run
from glassgpt.evaluation.chat.tasks import NEW_TOKENS, read_tasks

DECODINGS = {
    "greedy": {},
    "repetition 1.1": {"repetition_penalty": 1.1},
    "frequency 0.2": {"frequency_penalty": 0.2},
    "repetition 1.05": {"repetition_penalty": 1.05},
    "frequency 0.1": {"frequency_penalty": 0.1},
    "frequency 0.4": {"frequency_penalty": 0.4},
    "repetition 1.2": {"repetition_penalty": 1.2},
    "frequency 0.3": {"frequency_penalty": 0.3},
    "frequency 0.2 repetition 1.05": {"frequency_penalty": 0.2, "repetition_penalty": 1.05},
}


def summary(report, tasks):
    """Return the figures of a report, replies of IFEval and GSM8K apart, and the instructions followed by kind."""
    kinds, parts = {}, {}
    for prompt, scored in zip(tasks.ifeval, report.of("ifeval"), strict=True):
        for instruction, right in zip(prompt.instructions, scored.strict, strict=True):
            followed, total = kinds.get(instruction.name, (0, 0))
            kinds[instruction.name] = (followed + right, total + 1)
    for task in ("ifeval", "gsm8k"):
        answered = [each.reply for each in report.of(task) if each.reply is not None]
        parts[task] = {
            "replies": len(answered),
            "stopped": sum(each.stopped for each in answered),
            "loops": sum(each.loops for each in answered),
            "tokens": sum(each.tokens for each in answered) / max(1, len(answered)),
        }
    return {
        "figures": {name: {**asdict(share), "share": share.value} for name, share in report.shares().items()},
        "tokens_per_reply": report.mean_tokens,
        "by_task": parts,
        "by_kind": dict(sorted(kinds.items())),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True, help="of the run in the results; the untouched one is called base")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sets = {
        "dev": read_tasks(given.chat / "dev.jsonl", given.chat / "gsm8k.dev.jsonl", limit=given.limit),
        "test": read_tasks(given.data / "ifeval.jsonl", given.data / "gsm8k.test.jsonl", limit=given.limit),
    }
    results, replies = {}, {}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    for decoding, settings in DECODINGS.items():
        results[decoding], replies[decoding] = {"settings": settings}, {}
        for part, tasks in sets.items():
            request = ChatEvaluation(
                tasks, settings, new_tokens=given.new_tokens, slots=given.slots, device=given.device
            )
            report = evaluate_run(given.run, request)
            results[decoding][part] = summary(report, tasks)
            replies[decoding][part] = [asdict(each) for each in report.replies]
            shares = {name: f"{share.value:.2%}" for name, share in report.shares().items()}
            print(given.name, decoding, part, shares, flush=True)
        found = {"run": given.name, "torch": torch.__version__, "gpu": gpu, "decodings": results}
        (given.out / f"evaluate-{given.name}.json").write_text(json.dumps(found, indent=1))
        with lzma.open(given.out / f"replies-{given.name}.json.xz", "wt") as file:
            json.dump(replies, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
