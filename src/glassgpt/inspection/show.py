"""Terminal output of `glassgpt inspect --text`: a text's path through a model, in 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len

from glassgpt import console
from glassgpt.data.show import COLORS
from glassgpt.data.tokenizers.printable import printable
from glassgpt.generation.show import format_probability, format_token
from glassgpt.inspection.analysis import (
    HeadScores,
    attention_entropy,
    divergence,
    head_scores,
    logit_lens,
    token_losses,
)
from glassgpt.inspection.media import piece_at
from glassgpt.inspection.serialization import position_json
from glassgpt.inspection.tokenization import PreToken
from glassgpt.inspection.trace import Trace

COLUMNS = 80
PARTS_SHOWN = 12
"""Pre-tokens whose merges are shown."""
TOKENS_SHOWN = 200
"""Tokens shown in color."""
PIECE_CELLS = 9
LENS_POSITIONS = 4
LENS_DEPTHS = 13
"""For deeper models, this many depths are shown, evenly spaced from the first to the last."""
HEADS_SHOWN = 12
MAP_TOKENS = 30
"""Last tokens shown in the attention map; each takes two cells."""
TOP_TOKENS = 8
SHADES = "░▒▓█"
NO_ATTENTION, MIN_ATTENTION = "·", 0.05
"""Less attention than this is shown as a dot."""
PIECE_SEPARATOR, ARROW, ELLIPSIS, SPACE = "·", " → ", "…", "␣"


def show_trace(
    trace: Trace, *, changes: Sequence[str] = (), head: tuple[int, int] | None = None, kinds: HeadScores | None = None
) -> None:
    """Print the essentials of a trace, and what its interventions change.

    Args:
        trace: with the interventions applied, if any.
        changes: the interventions as the user wrote them.
        head: layer and head whose attention is shown; defaults to the one with the clearest pattern.
        kinds: head scores on a repeated random sequence, see `analysis.probe`; None if the context is too short.
    """
    _show_tokens(trace)
    _show_lens(trace)
    _show_heads(trace, kinds)
    chosen = head or _clearest_head(kinds)
    _show_attention(trace, *chosen, kinds)
    _show_media(trace, *chosen)
    _show_next_token(trace)
    if changes:
        _show_changes(trace, changes)


def _heading(title: str, remark: str) -> None:
    title, remark = console.translated(title), console.translated(remark)
    console.styled((f"\n{title}", "bold"), (f"  {_cut(remark, COLUMNS - cell_len(title) - 2)}", "dim"))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _show_tokens(trace: Trace) -> None:
    """Print the text with one color per token, then the merges of its pre-tokens."""
    config = trace.model.config
    size = f"{config.arch}, {config.n_layer} blocks, {config.n_head} heads, width {config.n_embd}"
    _heading("Tokens", f"{_count(len(trace['bytes']), 'byte')} → {_count(len(trace), 'token')}; {size}")
    line = [
        (position_json(trace, at)["piece"], COLORS[at % len(COLORS)]) for at in range(min(TOKENS_SHOWN, len(trace)))
    ]
    if len(trace) > TOKENS_SHOWN:
        line.append((console.translated(f" … and {len(trace) - TOKENS_SHOWN} more tokens"), "dim"))
    console.styled(*line)
    merging = [part for part in trace.pretokens if part.merges]
    for part in merging[:PARTS_SHOWN]:
        console.styled(*_merging(trace, part))
    if len(merging) > PARTS_SHOWN:
        console.styled((console.translated(f"  … and {len(merging) - PARTS_SHOWN} more parts"), "dim"))


def _merging(trace: Trace, part: PreToken) -> list[tuple[str, str]]:
    """Return the styled line `  t·h·e → th·e → the  464`; steps in the middle are omitted if they do not fit."""
    stages = [PIECE_SEPARATOR.join(_shown(piece) for piece in pieces) for pieces in part.stages()]
    ids = f"  {_cut(' '.join(map(str, part.tokens)), COLUMNS // 3)}"
    available = COLUMNS - 2 - cell_len(ids)
    kept = next(
        (kept for gap in range(len(stages) - 1) if cell_len(kept := _without_middle(stages, gap)) <= available),
        f"{_cut(_shown(part.raw), available // 3)}{ARROW}{ELLIPSIS}{ARROW}{_cut(stages[-1], available // 2)}",
    )
    return [(f"  {kept}", ""), (ids, "dim")]


def _without_middle(stages: Sequence[str], gap: int) -> str:
    """Join all steps except `gap` of them in the middle."""
    first = (len(stages) - gap + 1) // 2
    return ARROW.join([*stages[:first], *([ELLIPSIS] if gap else []), *stages[first + gap :]])


def _shown(piece: bytes) -> str:
    return printable(piece).replace(" ", SPACE)


def _cut(text: str, cells: int) -> str:
    """Truncate a text to a width in terminal cells."""
    if cell_len(text) <= cells:
        return text
    while text and cell_len(text) > cells - 1:
        text = text[:-1]
    return f"{text}…"


def _piece(trace: Trace, token: int, cells: int = PIECE_CELLS) -> str:
    return _cut(format_token(trace.tokenizer, token), cells)


def _piece_at(trace: Trace, position: int, cells: int = PIECE_CELLS) -> str:
    piece = piece_at(trace.media, position)
    return _piece(trace, trace.tokens[position], cells) if piece is None else _cut(piece, cells)


def _show_lens(trace: Trace) -> None:
    """Print the most probable next token at each depth and position."""
    n_layer = trace.model.config.n_layer
    count = min(LENS_DEPTHS, n_layer + 1)
    depths = sorted({round(at * n_layer / max(1, count - 1)) for at in range(count)})
    positions = list(range(max(0, len(trace) - LENS_POSITIONS), len(trace)))
    lens = logit_lens(trace, depths, positions)[..., : trace.tokenizer.vocab_size].float().log_softmax(dim=-1)
    best = lens.max(dim=-1)
    rows = [
        [
            console.translated("embedding" if depth == 0 else f"block {depth - 1}"),
            *(
                f"{_piece(trace, token)} {_whole_percent(chance)}"
                for token, chance in zip(tokens, chances, strict=True)
            ),
        ]
        for depth, tokens, chances in zip(depths, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    _heading("Logit lens", "the prediction if the model stopped after that block")
    console.table("", ["after", *(f"{at}: {_piece_at(trace, at)}" for at in positions)], rows)


def _whole_percent(logprob: float) -> str:
    share = 100 * math.exp(logprob)
    return f"{share:.0f}%" if share >= 0.5 else "<1%"


def _show_heads(trace: Trace, kinds: HeadScores | None) -> None:
    """Print the heads that follow a pattern on repeated random tokens, and what they do in this text."""
    config = trace.model.config
    heads = [(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]
    names = {at: name for at in heads if kinds is not None and (name := kinds.name(*at))}
    best = sorted(names, key=lambda at: -names[at][1])[:HEADS_SHOWN]
    _heading("Heads", f"{len(names)} of {len(heads)} follow a pattern on repeated random tokens")
    if not best:
        return
    here = head_scores(trace).named()
    rows = [
        [
            f"{layer}.{head}",
            f"{console.translated(names[layer, head][0])} {names[layer, head][1]:.2f}",
            _score(float(here[names[layer, head][0]][layer, head])),
            console.translated(f"{float(attention_entropy(trace, layer)[head].mean()):.2f} nats"),
        ]
        for layer, head in best
    ]
    console.table("", ["head", "kind", "in this text", "entropy"], rows, numeric_from=2)


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _clearest_head(kinds: HeadScores | None) -> tuple[int, int]:
    """Return the head with the highest score of any pattern; the first head if there is none."""
    if kinds is None:
        return 0, 0
    layers, heads = kinds.previous.shape
    scores = {
        (layer, head): name[1] for layer in range(layers) for head in range(heads) if (name := kinds.name(layer, head))
    }
    return max(scores, key=lambda at: scores[at], default=(0, 0))


def _show_attention(trace: Trace, layer: int, head: int, kinds: HeadScores | None) -> None:
    """Print a heat map of attention weights: one row per query, one column per key."""
    first = max(0, len(trace) - MAP_TOKENS)
    weights = trace[f"blocks.{layer}.attention.weights"][head, first:, first:].tolist()
    name = kinds.name(layer, head) if kinds else None
    title = f"Attention of head {layer}.{head}" + (f", {console.translated(name[0])} {name[1]:.2f}" if name else "")
    last = f", the last {len(weights)} tokens" if first else ""
    _heading(title, f"one row per query, {SHADES} = 0 … 1{last}")
    for at, row in enumerate(weights):
        label = _piece_at(trace, first + at, 14)
        cells = "".join(_shade(value) * 2 for value in row[: at + 1])
        console.styled((f"{' ' * (14 - cell_len(label))}{label} ", ""), (cells, "cyan"))


def _show_media(trace: Trace, layer: int, head: int) -> None:
    """Print for each picture, or the spectrogram of each sound, where the last position looks: a map over its positions."""
    for medium in trace.media:
        weights = trace[f"blocks.{layer}.attention.weights"][head, -1, medium.first : medium.positions.stop].float()
        share, largest = float(weights.sum()), float(weights.max())
        _heading(
            f"Attention of head {layer}.{head} to the {medium.modality}",
            f"last token: {100 * share:.1f}%, {SHADES} = 0 … {100 * largest:.1f}%",
        )
        cells = 1 if medium.columns > COLUMNS // 2 else 2
        for row in weights.view(medium.rows, medium.columns).tolist():
            line = "".join(_shade(value / (largest or 1)) * cells for value in row)
            console.styled((f"  {line[: COLUMNS - 2]}", "cyan"))


def _shade(value: float) -> str:
    return NO_ATTENTION if value < MIN_ATTENTION else SHADES[min(len(SHADES) - 1, int(value * len(SHADES)))]


def _show_next_token(trace: Trace) -> None:
    """Print the most probable next tokens after each logits processor."""
    stages = trace.stages()
    chances = {stage: trace[stage] for stage in stages}
    top = chances[stages[0]].topk(min(TOP_TOKENS, trace.tokenizer.vocab_size)).indices.tolist()
    rows = [
        [_piece(trace, token, 16), str(token), *(_percent(float(chances[stage][token])) for stage in stages)]
        for token in top
    ]
    rows.append([console.translated("possible"), "", *(f"{int((chances[stage] > 0).sum()):,}" for stage in stages)])
    _heading("Next token", "its probability, from the model through each logits processor")
    console.table("", ["piece", "id", *(stage.removeprefix("next.") for stage in stages)], rows)
    if len(trace) > 1:
        loss = float(token_losses(trace).nanmean())
        console.result(f"loss of the text itself: {loss:.3f} nats per token")


def _percent(chance: float) -> str:
    return format_probability(math.log(chance) if chance > 0 else -math.inf)


def _show_changes(trace: Trace, words: Sequence[str]) -> None:
    """Print what the interventions changed in the next token and in the loss of the text."""
    assert trace.base is not None
    before, after = trace.base["next.model"], trace["next.model"]
    moved = (after - before).abs().topk(min(TOP_TOKENS, len(after))).indices.tolist()
    rows = [
        [
            _piece(trace, token, 16),
            _percent(float(before[token])),
            _percent(float(after[token])),
            f"{100 * float(after[token] - before[token]):+.1f}",
        ]
        for token in moved
    ]
    _heading("Changed", f"by {', '.join(map(_printable_text, words))}")
    console.table("", ["piece", "before", "after", "points"], rows)
    if len(trace) > 1:
        losses = [float(token_losses(each).nanmean()) for each in (trace.base, trace)]
        console.result(f"loss of the text in nats per token: {losses[0]:.3f} before, {losses[1]:.3f} after")
    console.result(f"KL divergence of the next-token distribution: {float(divergence(trace)[-1]):.3f} nats")


def _printable_text(words: str) -> str:
    return printable(words.encode("utf-8", "replace"))
