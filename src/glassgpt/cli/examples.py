"""Examples below the help of each command. A test parses them all. Free of torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

WIDTH = 76
"""Characters of an example's line: a help of 80 columns cuts off what is longer, with its margins."""
WORD = re.compile(r"""(?:-[\w.-]+ (?!-))?(?:[^\s'"]|'[^']*'|"[^"]*")+""")
"""A word, or an option with its value."""
EXAMPLES: dict[str, tuple[str, ...]] = {
    "prepare": (
        "glassgpt prepare book.txt notes/ --out data/mine --tokenizer bpe:4096",
        "glassgpt prepare 'articles/*.jsonl.gz' --field body --out data/articles",
        "glassgpt prepare src/ --format code --suffix .py --out data/code --tokenizer bpe:16384 --pattern code",
        "glassgpt prepare shakespeare --out data/plays --tokenizer bytes",
        "glassgpt prepare captions.jsonl photos/ --format multimodal --out data/photos --tokenizer bpe:1024 --image-size 32 --patch-size 4",
        "glassgpt prepare captions.jsonl --draw tokenizers/photos --out data/drawings --tokenizer bpe:1024",
    ),
    "tokenize": (
        'glassgpt tokenize "Hello, world!"',
        "glassgpt tokenize --compare -t gpt2 -t data/mine",
    ),
    "train-image-tokenizer": (
        "glassgpt train-image-tokenizer photos/ --out tokenizers/photos --steps 5000",
        "glassgpt train-image-tokenizer data/emoji --out tokenizers/emoji --levels 8,5,5,5",
    ),
    "model": ("glassgpt model gpt2", "glassgpt model tiny --model.n-layer 6"),
    "config list": ("glassgpt config list",),
    "config show": ("glassgpt config show tiny", "glassgpt config show tiny --model.n-embd 192 > mine.toml"),
    "learn list": ("glassgpt learn list", "glassgpt learn list --language ko"),
    "learn start": ("glassgpt learn start 3", "glassgpt learn start 3 --language ko --out attention"),
    "learn check": ("glassgpt learn check 3", "glassgpt learn check 3.2 --json"),
    "learn hint": ("glassgpt learn hint 3.2",),
    "train": (
        "glassgpt train tiny --data data/mine --out runs/mine --train.max-steps 1000",
        "glassgpt train --resume --out runs/mine",
        "glassgpt train gpt2 --init-from runs/gpt2 --data data/mine --out runs/tuned",
    ),
    "sweep": (
        "glassgpt sweep tiny --data data/mine",
        "glassgpt sweep tiny --data data/mine --space rates.toml --out sweeps/rates --minutes 30 --jobs 2",
        "glassgpt sweep --resume --out sweeps/rates --trials 40",
    ),
    "demo": ("glassgpt demo", "glassgpt demo --chat"),
    "finetune": (
        "glassgpt finetune runs/mine --data data/new --out runs/new",
        "glassgpt finetune runs/mine --data data/new --out runs/new --replay data/mine=0.2 --lora.rank 8 --lora.targets attention",
        "glassgpt finetune runs/mine --data data/new --out runs/new --full --epochs 3",
        "glassgpt finetune runs/mine --format chat --data chat.jsonl --show 3",
        "glassgpt finetune runs/mine --format chat --data chat.jsonl --out runs/chat",
        "glassgpt finetune runs/chat --format preference --data pairs.jsonl --out runs/preferred",
    ),
    "merge": ("glassgpt merge runs/new --out runs/merged",),
    "generate": (
        'glassgpt generate runs/mine --prompt "It was"',
        "glassgpt generate runs/mine --prompts prompts.txt --settings creative --json",
        'glassgpt generate runs/mine --prompt "It was" --beams 5 --best 3',
        'glassgpt generate runs/drawings --draw "a red apple" --num-samples 9 --out apples.png',
    ),
    "complete": (
        "glassgpt complete src/mine.py --at 12 --model runs/code",
        "glassgpt complete src/mine.py --at 12:9 --model runs/code --samples 5 --test 'pytest tests/test_mine.py'",
    ),
    "evaluate": (
        "glassgpt evaluate runs/mine",
        "glassgpt evaluate runs/mine --compare greedy,creative,temperature=0.7+top_p=0.9",
        "glassgpt evaluate runs/code --code infilling --problems HumanEval-SingleLineInfilling.jsonl.gz --limit 100",
        "glassgpt evaluate runs/base runs/tuned --chat --gsm8k problems.jsonl --limit 100",
        "glassgpt evaluate --index indexes/mine --questions questions.jsonl",
    ),
    "sweep-decoding": ("glassgpt sweep-decoding runs/mine --for creative --out mine.toml",),
    "inspect": (
        "glassgpt inspect",
        'glassgpt inspect runs/mine --prompt "It was"',
        'glassgpt inspect runs/mine --prompt "It was" --text --ablate head:0.1',
        'glassgpt inspect runs/mine --prompt "It was" --save page.html',
    ),
    "compress": ("glassgpt compress runs/mine --out runs/mine-int4 --int4",),
    "chat": ("glassgpt chat runs/mine", "glassgpt chat http://127.0.0.1:8000"),
    "index": (
        "glassgpt index notes/ book.pdf articles.jsonl --out indexes/mine",
        "glassgpt index --update --out indexes/mine",
    ),
    "search": ('glassgpt search indexes/mine "who discovered penicillin"',),
    "ask": (
        'glassgpt ask notes.index "When was the bridge built?" --model runs/mine',
        'glassgpt ask notes.index "The bridge was built in ________." --model runs/mine --option 1932 --option 1937',
    ),
    "serve": (
        "glassgpt serve runs/mine",
        "glassgpt serve mine=runs/mine other=runs/other --port 9000 --record answers.jsonl",
        "glassgpt serve runs/mine runs/mine@step-000100",
        "glassgpt serve runs/mine --follow",
    ),
    "replay": ("glassgpt replay answers.jsonl",),
    "doctor": (
        "glassgpt doctor tiny --data data/mine",
        "glassgpt doctor runs/mine --report",
        "glassgpt doctor GG-NAN-002",
    ),
    "import": ("glassgpt import openai-community/gpt2 --out runs/gpt2", "glassgpt import folder --out runs/theirs"),
    "export": (
        "glassgpt export runs/mine exported/mine",
        "glassgpt export runs/mine exported/onnx --format onnx --weights int4 --check",
    ),
    "bench train": ("glassgpt bench train tiny", "glassgpt bench train gpt2 --steps 10 --train.micro-batch-size 2"),
    "bench generate": ("glassgpt bench generate runs/mine --batch 1,8 --device cpu",),
}
"""Example command lines by command name."""
SETTINGS = (
    "Every setting of the model and of training is also an option with a dotted name, e.g. --train.max-steps 100; "
    "glassgpt config show PRESET lists them."
)


def help_epilogue(name: str, command: Callable[..., Any]) -> str:
    """Return the text below a command's help: its examples, and a note about settings if it takes them."""
    takes_settings = "overrides" in inspect.signature(command).parameters
    examples = "\n".join(f"    {line}" for example in EXAMPLES[name] for line in shell_lines(example))
    return "\n\n".join([*([SETTINGS] if takes_settings else []), f"Examples:\n\n{examples}"])


def shell_lines(command: str) -> list[str]:
    """Return a command in lines of at most `WIDTH` characters that a shell reads as one; a longer word keeps its line."""
    if len(command) <= WIDTH:
        return [command]
    lines: list[str] = []
    current, *words = WORD.findall(command)
    for word in words:
        if len(current) + len(word) + len("  \\") > WIDTH:
            lines.append(f"{current} \\")
            current = f"    {word}"
        else:
            current = f"{current} {word}"
    return [*lines, current]
