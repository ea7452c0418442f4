"""The pages in `docs/diagnosis`, generated from the catalogue: `python -m glassgpt.diagnosis.pages docs/diagnosis`."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from glassgpt.diagnosis.catalogue import CODE, CatalogueEntry, entries, mark_placeholders
from glassgpt.locale import LANGUAGES, Language

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
    "CHT": "Conversations, 대화",
    "CKP": "Checkpoints, 체크포인트",
    "CLP": "Gradient clipping, 기울기 자르기",
    "DAT": "Data, 데이터",
    "DIV": "Divergence, 발산",
    "DSK": "Disk, 디스크",
    "END": "How a run ended, 실행의 끝",
    "GRD": "Gradients, 기울기",
    "HW": "Hardware, 하드웨어",
    "INI": "Initial loss and weights, 초기 손실과 가중치",
    "KER": "Kernels, 커널",
    "LAD": "N-gram baselines, n-그램 기준선",
    "LAY": "Layers, 층",
    "LRT": "Learning rate, 학습률",
    "LOS": "Loss, 손실",
    "MED": "Pictures and sound, 그림과 소리",
    "MEM": "Memory, 메모리",
    "MOD": "Model, 모델",
    "NAN": "Not a number, NaN",
    "OPT": "Optimizer, 옵티마이저",
    "QNT": "Quantization, 양자화",
    "OVF": "Overfitting, 과적합",
    "PLT": "Plateau, 정체",
    "SCL": "Gradient scaler, 기울기 스케일러",
    "SPD": "Speed, 속도",
    "SPK": "Loss spikes, 급등",
    "TXT": "Generated text, 생성된 글",
    "UPD": "Updates, 갱신",
    "VAL": "Validation, 검증",
    "WID": "Width, 너비",
}


def render_pages() -> dict[str, str]:
    """Return the Markdown of every page, by file name, including the index."""
    return {INDEX: _render_index(), **{f"{code}.md": _render_page(code, texts) for code, texts in entries().items()}}


def write_catalogue_pages(folder: Path) -> None:
    """Write all pages into a folder and remove the pages of codes that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = render_pages()
    for old in folder.glob("GG-*.md"):
        if CODE.fullmatch(old.stem) and old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def _family(code: str) -> str:
    """Return the family of a code: `GG-NAN-003` belongs to NAN."""
    return code.split("-")[1]


def _render_page(code: str, texts: dict[Language, CatalogueEntry]) -> str:
    origin = "src/glassgpt/diagnosis/catalogue by python -m glassgpt.diagnosis.pages"
    parts = [f"# {code}", f"<!-- Generated from {origin} -->"]
    for language in LANGUAGES:
        text, headings = texts[language], HEADINGS[language]
        parts.append(f"## {LANGUAGE_NAMES[language]}: {mark_placeholders(text.title)}")
        bodies = (text.means, text.cause, text.do)
        parts += [f"**{head}.** {mark_placeholders(body)}" for head, body in zip(headings, bodies, strict=True)]
    return "\n\n".join([*parts, f"[{INDEX.removesuffix('.md')}]({INDEX})"]) + "\n"


def _render_index() -> str:
    lines = [
        "# Findings by code, 코드별 진단",
        "",
        "A name in ‹ › stands for a value measured in the run. ‹ › 안의 말은 실행에서 잰 값입니다.",
    ]
    for family, codes in groupby(entries(), key=_family):
        lines += ["", f"## {FAMILIES[family]}", ""]
        lines += [_index_line(code) for code in codes]
    return "\n".join(lines) + "\n"


def _index_line(code: str) -> str:
    english, korean = (mark_placeholders(entries()[code][language].title) for language in LANGUAGES)
    return f"- [{code}]({code}.md): {english} / {korean}"


if __name__ == "__main__":
    write_catalogue_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/diagnosis"))
