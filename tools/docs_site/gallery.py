"""The gallery: pictures of `inspect`, and what the model that comes with the package computes on a sentence, drawn by the build."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.docs_site.pages import HERE, Language

NAME = "gallery"
PAGE = "inspect.html"
"""The page of `inspect` as one file, in the folder of the site."""
TEXT = "KING RICHARD:\nMy lord of York, will you come with me?\n\nKING RICHARD:\nMy lord of"
"""A sentence with a repeated name, on which heads that look for repetitions show."""
TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Gallery",
        "intro": "Pictures of what a model computes, from the program's own commands ([how to use them](inspection.md)).",
        "live": "A page to try",
        "link": "`glassgpt inspect --save` writes the whole page as one file. This one shows the model that comes with the "
        "package, on `{text}`, and needs no server:",
        "open": "open the page",
        "heads": "Every attention head at once",
        "heads_text": "The same model and text. Each square is a head; a row is a token that looks, a column one that is looked "
        "at. Darker means more attention.",
        "lens": "What each block would predict",
        "lens_text": "The most probable next token after each block, by the logit lens; darker means more probable.",
        "screens": "Screens",
    },
    "ko": {
        "title": "갤러리",
        "intro": "모델이 계산하는 것을 이 프로그램의 명령으로 그린 그림입니다([쓰는 법](inspection.ko.md)).",
        "live": "직접 써 보는 페이지",
        "link": "`glassgpt inspect --save`는 페이지 전체를 파일 하나로 저장합니다. 이것은 패키지에 든 모델이 `{text}`를 읽은 것이고, 서버 없이 열립니다:",
        "open": "페이지 열기",
        "heads": "모든 어텐션 헤드를 한눈에",
        "heads_text": "같은 모델과 글입니다. 정사각형 하나가 헤드이고, 행은 보는 토큰, 열은 보이는 토큰입니다. 진할수록 어텐션이 큽니다.",
        "lens": "블록마다 무엇을 예측하는지",
        "lens_text": "블록마다 로짓 렌즈로 본 가장 그럴듯한 다음 토큰입니다. 진할수록 확률이 높습니다.",
        "screens": "화면",
    },
}


def gallery_page(language: Language) -> str:
    """Return the page; pictures are in `images/`, other links are those of a page in docs/."""
    texts = TEXTS[language]
    shown = TEXT.replace("\n", " ⏎ ").replace("⏎  ⏎", "⏎⏎")
    parts = [f"# {texts['title']}\n{texts['intro']}"]
    parts.append(f"## {texts['live']}\n{texts['link'].format(text=shown)} [{texts['open']}](built:../{PAGE})")
    parts.append(f"## {texts['heads']}\n{texts['heads_text']}\n\n![{texts['heads']}](images/gallery-heads.svg)")
    parts.append(f"## {texts['lens']}\n{texts['lens_text']}\n\n![{texts['lens']}](images/gallery-lens.svg)")
    parts.append(f"## {texts['screens']}")
    for each in tomllib.loads((HERE / "gallery.toml").read_text(encoding="utf-8"))["picture"]:
        parts.append(f"{each[language]}\n\n![{each[language].replace('`', '')}](images/{each['file']})")
    return "\n\n".join(parts) + "\n"


def make_pictures(folder: Path) -> None:
    """Trace the model of the package on the text; write the page of `inspect` and the drawn pictures to a folder."""
    import glassgpt
    from glassgpt.inspection.static_page import save_page
    from glassgpt.learn.course import bundled

    folder.mkdir(parents=True, exist_ok=True)
    model = glassgpt.load(bundled(), device="cpu", precision="float32")
    trace = model.trace(TEXT)
    save_page(trace, folder / PAGE)
    words = [model.tokenizer.decode([int(token)]).replace("\n", "⏎") for token in trace["tokens"]]
    draw_heads(trace, folder / "gallery-heads.svg")
    draw_lens(trace, words, folder / "gallery-lens.svg")


def draw_heads(trace: Any, out: Path) -> None:
    """Draw the attention weights of all heads, a row per block."""
    from matplotlib.figure import Figure

    layers, heads = trace.model.config.n_layer, trace.model.config.n_head
    figure = Figure(figsize=(2.0 * heads, 2.1 * layers), layout="constrained")
    axes: Any = figure.subplots(layers, heads, squeeze=False)
    for layer in range(layers):
        weights = trace[f"blocks.{layer}.attention.weights"].float()
        for head in range(heads):
            axis = axes[layer, head]
            axis.imshow(weights[head].sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)  # small weights stay visible
            axis.set_title(f"block {layer}, head {head}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(out, metadata={"Date": None})


def draw_lens(trace: Any, words: list[str], out: Path, last: int = 14) -> None:
    """Draw the most probable next token after each block, for the last tokens of the text."""
    from matplotlib.figure import Figure

    from glassgpt.inspection.analysis import logit_lens

    positions = list(range(max(0, len(words) - last), len(words)))
    best = logit_lens(trace, positions=positions).float().softmax(dim=-1).max(dim=-1)
    probabilities, tokens = best.values.numpy(), best.indices.tolist()
    figure = Figure(figsize=(0.75 * len(positions) + 1, 0.45 * len(tokens) + 1), layout="constrained")
    axis: Any = figure.subplots()
    axis.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for depth, row in enumerate(tokens):
        for column, token in enumerate(row):
            word = trace.tokenizer.decode([token]).replace("\n", "⏎")
            color = "white" if probabilities[depth, column] > 0.6 else "black"
            axis.annotate(word, (column, depth), ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(len(positions)), [words[position] for position in positions], fontsize=8)
    axis.set_yticks(range(len(tokens)), [f"after {depth} blocks" for depth in range(len(tokens))], fontsize=8)
    axis.xaxis.tick_top()
    figure.savefig(out, metadata={"Date": None})
