"""The pages in `docs/diagnosis`, made of the catalogue: `python -m glassgpt.diagnosis.pages docs/diagnosis`."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from glassgpt import console
from glassgpt.diagnosis.catalogue import CODE, LANGUAGES, Language, Text, entries, plain

INDEX = "index.md"
HEADINGS: dict[Language, tuple[str, str, str]] = {
    "en": ("What it means", "Cause", "What to do"),
    "ko": ("무슨 뜻인가", "원인", "해결 방법"),
}
LANGUAGE_NAMES: dict[Language, str] = {"en": "English", "ko": "한국어"}
FAMILIES = {
    "ATT": "Attention, 어텐션",
    "BAT": "One batch, 한 배치",
    "CAU": "Causality, 인과성",
    "CFG": "Configuration, 설정",
    "CKP": "Checkpoints, 체크포인트",
    "CLP": "Clipping, 기울기 자르기",
    "DAT": "Data, 데이터",
    "DIV": "Divergence, 발산",
    "DSK": "Disk, 디스크",
    "END": "How a run ended, 실행의 끝",
    "GRD": "Gradients, 기울기",
    "HW": "Hardware, 하드웨어",
    "INI": "Initial loss, 초기 손실",
    "KER": "Kernels, 커널",
    "LAD": "Entropy ladder, 엔트로피 사다리",
    "LAY": "Layers, 층",
    "LRT": "Learning rate, 학습률",
    "MEM": "Memory, 메모리",
    "NAN": "Not a number, NaN",
    "OVF": "Overfitting, 과적합",
    "PLT": "Plateau, 정체",
    "SCL": "Gradient scaler, 기울기 스케일러",
    "SPD": "Speed, 속도",
    "SPK": "Spikes, 급등",
    "TXT": "Generated text, 생성된 글",
    "UPD": "Updates, 갱신",
}


def pages() -> dict[str, str]:
    """Every page by its file's name, the index among them."""
    made = {f"{code}.md": _page(code, texts) for code, texts in entries().items()}
    return {INDEX: _index(), **made}


def write_catalogue_pages(folder: Path) -> None:
    """Write the pages into a folder, and remove those of codes that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for old in folder.glob("GG-*.md"):
        if CODE.fullmatch(old.stem) and old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def family(code: str) -> str:
    """The middle of a code: `GG-NAN-003` is of the family NAN."""
    return code.split("-")[1]


def _page(code: str, texts: dict[Language, Text]) -> str:
    parts = [f"# {code}", "<!-- Made from src/glassgpt/diagnosis/catalogue by python -m glassgpt.diagnosis.pages -->"]
    for language in LANGUAGES:
        text, headings = texts[language], HEADINGS[language]
        parts.append(f"## {LANGUAGE_NAMES[language]}: {plain(text.title)}")
        bodies = (text.means, text.cause, text.do)
        parts += [f"**{head}.** {plain(body)}" for head, body in zip(headings, bodies, strict=True)]
    return "\n\n".join([*parts, f"[{INDEX.removesuffix('.md')}]({INDEX})"]) + "\n"


def _index() -> str:
    lines = [
        "# Findings by code, 코드별 진단",
        "",
        "A word in ‹ › stands for a figure of the run. ‹ › 안의 말은 실행에서 잰 값입니다.",
    ]
    for name, codes in groupby(entries(), key=family):
        lines += ["", f"## {FAMILIES[name]}", ""]
        lines += [_line(code) for code in codes]
    return "\n".join(lines) + "\n"


def _line(code: str) -> str:
    english, korean = (plain(entries()[code][language].title) for language in LANGUAGES)
    return f"- [{code}]({code}.md): {english} / {korean}"


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/diagnosis")
    write_catalogue_pages(target)
    console.info(f"wrote {len(pages())} pages into {target}")
