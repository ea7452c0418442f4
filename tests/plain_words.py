"""A checker for the plain-language rules of CONTRIBUTING.md: `python tests/plain_words.py [PATH…]` lists violations.

It knows the private vocabulary and the phrases that this project once used, with the terms to use instead, and British
spellings. It finds relapses; it cannot judge style.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {".py", ".md", ".toml", ".js", ".css", ".html", ".sh"}
FOLDERS = ("src", "docs", "tests", "benchmarks", "tools", ".ci")

INSTEAD = {
    # Private vocabulary and metaphors.
    r"house|rooms?|seams?": "package, codebase, interface; space",
    r"stations?": "stage",
    r"twins?": "copy, reference implementation",
    r"rungs?|ladders?": "baseline, level",
    r"wishes": "forced words",
    r"micro rows|train stepper": "micro_batch_size, train step",
    r"read at once": "max_prefill_tokens",
    r"guessers?": "draft proposer",
    r"autops(?:y|ies)": "post mortem",
    r"rewound|go(?:es)? back to": "rollback, roll back",
    r"aloud": "and print",
    r"mend(?:s|ed|ing)?": "fix",
    r"spoilt": "corrupted",
    r"by heart": "memorize",
    # Translated or archaic phrases.
    r"so many|(?:so )?manieth": "n, every n",
    r"allowed (?:is|are)": "must be",
    r"whole numbers?|is no number": "integer; is not a number",
    r"(?<!there )is no (?:run|folder|option|file|preset|tokenizer|model)": "is not a …",
    r"exclude each other|do(?:es)? not go (?:together|with)": "cannot be combined",
    r"do(?:es)? not suffice": "is too small, runs out",
    r"put off": "preempt",
    r"as it comes|as (?:it is|they are) spoken of": "as given",
    r"(?:is|are) told of|what (?:came|became) of": "is reported; result",
    r"beside (?:it|them) stands?|held against": "compared with",
    r"the way out": "the fix",
    r"thrown away": "deleted, discarded",
    r"begins? again|begun again|begin anew|anew": "restart, again",
    r"one's own": "your, custom",
    r"wherein|thereof|whereby|hitherto|nought": "plain words",
    r"a line each": "one line each",
    r"(?:is|are) there already": "already exists",
    r"let(?:s|ting)? (?:it|them|a model|a run|the model|the run) write": "generate",
    r"what is wrong|that can be wrong": "the problem",
    r"trainings|a training (?:that|which|whose|in which|has)": "training run",
    r"(?:goes|go|going|went) on": "continue",
    r"trains? on from": "continue training",
    r"(?:writes?|wrote) down": "log, record",
    r"tak(?:e|es|en|ing) in (?:a|the)": "process",
    r"all ranks must call": "must be called on all ranks",
    r"for the time of": "for the duration of",
    r"speaks? (?:for|against)": "evidence for, against",
    r"let(?:s|ting)? (?:a pointer|every|the program|the pointer)": "an active verb: point at, make, replace",
    r"in (?:a|one) (?:\w+ )?of (?:its|their|his|our|your) own": "separate, its own …",
    # American spelling, as in PyTorch and Hugging Face.
    r"colours?|behaviours?|favours?|neighbours?|artefacts?|licence|centre|grey|judgement|honour(?:s|ed)?": "color, …",
    r"\w*(?:initial|memor|orthogonal|regular|quant|special|normal|general|organ|serial|optim|material|recogn|random)"
    r"is(?:e|ed|es|ing|ation|er)": "-ize",
    r"data sets?": "dataset",
}
FORMAT_KEYS = re.compile(r"""(?<=["'`{.])(micro_rows|rung|rewound)(?=["'`}:])""")
"""Keys of JSON files and of finding codes' values; renaming them would break existing runs."""
ALLOWED = {
    "src/glassgpt/model/modern.py": {"normalised"},  # name of an activation, which users type
    "docs/inspection.md": {"normalised"},
    "docs/inspection.ko.md": {"normalised"},
    "src/glassgpt/retrieval/prompts.py": {"stations"},  # of a railway, in an example that models read
    "src/glassgpt/diagnosis/catalogue/actions.toml": {"rewound"},  # key of an action in events.jsonl
}
"""By file: words that are right there."""
RIDDLES = {
    "Whether", "What", "How", "Who", "Whose", "Which", "Where", "When", "Why", "That", "As", "So", "Those", "Such", "Of",
}  # fmt: skip
"""Words that a docstring must not start with: it says what something is or does, not which question it answers."""


def checked_files() -> list[Path]:
    """All files with prose or names that the rules apply to."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    files += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    own = {Path(__file__).name, f"test_{Path(__file__).name}"}
    return sorted(path for path in files if path.name not in own and "__pycache__" not in path.parts)


ANY_OF_THEM = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b")
RIDDLE = re.compile(rf"""["']\s*(?:{"|".join(RIDDLES)})\b""")
"""A string that starts with a word of `RIDDLES`."""


def bad_words(path: Path) -> Iterator[str]:
    """Words and phrases of `INSTEAD` in a file, also within names."""
    name, text = str(path.relative_to(ROOT)), FORMAT_KEYS.sub("", path.read_text(encoding="utf-8"))
    if not ANY_OF_THEM.search(_with_names_split(text)):  # no phrase contains a line break
        return
    for number, line in enumerate(text.splitlines(), 1):
        both = _with_names_split(line)
        if ANY_OF_THEM.search(both):
            for pattern, instead in INSTEAD.items():
                words = {match[0] for match in re.finditer(rf"\b(?:{pattern})\b", both)}
                for word in sorted(words - ALLOWED.get(name, set())):
                    yield f"{name}:{number}: {word!r}; better: {instead}"


def _with_names_split(text: str) -> str:
    """Return the text, and the text with its names split into words, in lower case."""
    return f"{text}\n{re.sub(r'(?<=[a-z])(?=[A-Z])|[_-]', ' ', text)}".lower()


def riddles(path: Path) -> Iterator[str]:
    """Docstrings of a Python file that start with a word of `RIDDLES`."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py" or not RIDDLE.search(text):  # parsing is slow
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first = re.match(r"\w*", node.value.value.strip())[0]
            if first in RIDDLES:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: a docstring starts with {first!r}"


def main(paths: list[str]) -> None:
    """Print the violations in some files or folders, by default in all."""
    chosen = [Path(path).resolve() for path in paths]
    for path in checked_files():
        if not chosen or any(path == each or each in path.parents for each in chosen):
            for violation in (*bad_words(path), *riddles(path)):
                print(violation)


if __name__ == "__main__":
    main(sys.argv[1:])
