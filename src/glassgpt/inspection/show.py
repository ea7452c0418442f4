"""What `glassgpt inspect --text` prints: the way of a text through a model, in 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from glassgpt import console
from glassgpt.data.show import COLORS
from glassgpt.data.tokenizers.printable import printable
from glassgpt.errors import UsageError
from glassgpt.generation.show import format_probability, format_token
from glassgpt.inspection.analysis import (
    HeadScores,
    attention_entropy,
    divergence,
    head_scores,
    logit_lens,
    probe,
    token_losses,
)
from glassgpt.inspection.interventions import parse_intervention, parse_patch
from glassgpt.inspection.tokenization import PreToken
from glassgpt.inspection.trace import Trace

COLUMNS = 80
PARTS_SHOWN = 12
"""Pre-tokens whose merges are written out."""
TOKENS_SHOWN = 200
"""Tokens written out in colour."""
PIECE_CELLS = 9
LENS_POSITIONS = 4
LENS_DEPTHS = 13
"""Of a deeper model, so many depths evenly between the first and the last."""
HEADS_SHOWN = 12
MAP_TOKENS = 30
"""Of the end of a longer text; two cells each, and room for the token."""
CANDIDATES = 8
SHADES = "░▒▓█"
UNSEEN, LEAST_SEEN = "·", 0.05
"""What has less of a query's attention is a dot."""
JOINT, ARROW, GAP, BLANK = "·", " → ", "…", "␣"


def show_trace(trace: Trace, *, ablate: Sequence[str] = (), patch: Sequence[str] = (), head: str | None = None) -> None:
    """Print the essentials of a trace, and what interventions change.

    Args:
        trace: of an undisturbed run.
        ablate: interventions as `parse_intervention` reads them; everything shown is then of the run with them.
        patch: patches as `parse_patch` reads them, after those.
        head: `LAYER.HEAD` whose attention is drawn; by default the one that has the clearest pattern.

    Raises:
        UsageError: a head or an intervention is not spelled as it must be.
        InspectionError: it is not there in this model.
    """
    changes = [*map(parse_intervention, ablate), *map(parse_patch, patch)]
    chosen = None if head is None else _parse_head(trace, head)
    shown = trace.intervene(*changes) if changes else trace
    _show_tokens(trace)
    _show_lens(shown)
    kinds = head_scores(probe(trace.model, trace.tokenizer)) if trace.model.config.context_length > 1 else None
    _show_heads(shown, kinds)
    _show_attention(shown, *(chosen or _clearest(kinds)), kinds)
    _show_choice(shown)
    if changes:
        _show_change(shown, [*ablate, *patch])


def _heading(title: str, remark: str) -> None:
    line = Text(f"\n{title}", style="bold")
    console.out.print(line.append(f"  {_cut(remark, COLUMNS - cell_len(title) - 2)}", style="dim not bold"))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _show_tokens(trace: Trace) -> None:
    """The text in colour, a colour for each token, then how each part was merged."""
    config = trace.model.config
    size = f"{config.arch}, {config.n_layer} blocks, {config.n_head} heads, width {config.n_embd}"
    _heading("Tokens", f"{_count(len(trace['bytes']), 'byte')} → {_count(len(trace), 'token')}; {size}")
    line = Text()
    for at, token in enumerate(trace.tokens[:TOKENS_SHOWN]):
        line.append(printable(trace.tokenizer.token_bytes(token)), style=COLORS[at % len(COLORS)])
    if len(trace) > TOKENS_SHOWN:
        line.append(f" … and {len(trace) - TOKENS_SHOWN} more tokens", style="dim")
    console.out.print(line)
    merging = [part for part in trace.pretokens if part.merges]
    for part in merging[:PARTS_SHOWN]:
        console.out.print(_merging(trace, part))
    if len(merging) > PARTS_SHOWN:
        console.out.print(Text(f"  … and {len(merging) - PARTS_SHOWN} more parts", style="dim"))


def _merging(trace: Trace, part: PreToken) -> Text:
    """`  t·h·e → th·e → the  464`; of many steps, so many from both ends as there is room for."""
    stages = [JOINT.join(_shown(piece) for piece in pieces) for pieces in part.stages()]
    ids = f"  {_cut(' '.join(map(str, part.tokens)), COLUMNS // 3)}"
    room = COLUMNS - 2 - cell_len(ids)
    kept = next(
        (kept for gap in range(len(stages) - 1) if cell_len(kept := _without_middle(stages, gap)) <= room),
        f"{_cut(_shown(part.raw), room // 3)}{ARROW}{GAP}{ARROW}{_cut(stages[-1], room // 2)}",
    )
    return Text(f"  {kept}").append(ids, style="dim")


def _without_middle(stages: Sequence[str], gap: int) -> str:
    """All steps but `gap` of them around the middle."""
    first = (len(stages) - gap + 1) // 2
    return ARROW.join([*stages[:first], *([GAP] if gap else []), *stages[first + gap :]])


def _shown(piece: bytes) -> str:
    return printable(piece).replace(" ", BLANK)


def _cut(text: str, cells: int) -> str:
    """At most so many cells wide."""
    if cell_len(text) <= cells:
        return text
    while text and cell_len(text) > cells - 1:
        text = text[:-1]
    return f"{text}…"


def _piece(trace: Trace, token: int, cells: int = PIECE_CELLS) -> str:
    return _cut(format_token(trace.tokenizer, token), cells)


def _show_lens(trace: Trace) -> None:
    """A table of depths by positions: what the model would say if it stopped there."""
    n_layer = trace.model.config.n_layer
    count = min(LENS_DEPTHS, n_layer + 1)
    depths = sorted({round(at * n_layer / max(1, count - 1)) for at in range(count)})
    positions = list(range(max(0, len(trace) - LENS_POSITIONS), len(trace)))
    lens = logit_lens(trace, depths, positions)[..., : trace.tokenizer.vocab_size].float().log_softmax(dim=-1)
    best = lens.max(dim=-1)
    rows = [
        [
            "embedding" if depth == 0 else f"block {depth - 1}",
            *(
                f"{_piece(trace, token)} {_whole_percent(chance)}"
                for token, chance in zip(tokens, chances, strict=True)
            ),
        ]
        for depth, tokens, chances in zip(depths, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    _heading("Logit lens", "what would come next, if the model stopped after that block")
    console.table("", ["after", *(f"{at}: {_piece(trace, trace.tokens[at])}" for at in positions)], rows)


def _whole_percent(logprob: float) -> str:
    share = 100 * math.exp(logprob)
    return f"{share:.0f}%" if share >= 0.5 else "<1%"


def _show_heads(trace: Trace, kinds: HeadScores | None) -> None:
    """The heads with a name, by random tokens said twice, and what they do here."""
    config = trace.model.config
    heads = [(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]
    names = {at: name for at in heads if kinds is not None and (name := kinds.name(*at))}
    best = sorted(names, key=lambda at: -names[at][1])[:HEADS_SHOWN]
    _heading("Heads", f"{len(names)} of {len(heads)} follow a pattern on random tokens said twice")
    if not best:
        return
    here = head_scores(trace).named()
    rows = [
        [
            f"{layer}.{head}",
            f"{names[layer, head][0]} {names[layer, head][1]:.2f}",
            _score(float(here[names[layer, head][0]][layer, head])),
            f"{float(attention_entropy(trace, layer)[head].mean()):.2f} nats",
        ]
        for layer, head in best
    ]
    console.table("", ["head", "kind", "in this text", "entropy"], rows, numeric_from=2)


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _clearest(kinds: HeadScores | None) -> tuple[int, int]:
    """The head with the highest score of any kind; the first where there is none."""
    if kinds is None:
        return 0, 0
    layers, heads = kinds.previous.shape
    scores = {
        (layer, head): name[1] for layer in range(layers) for head in range(heads) if (name := kinds.name(layer, head))
    }
    return max(scores, key=lambda at: scores[at], default=(0, 0))


def _show_attention(trace: Trace, layer: int, head: int, kinds: HeadScores | None) -> None:
    """A heat map: a row for each query, darker where it looks."""
    first = max(0, len(trace) - MAP_TOKENS)
    weights = trace[f"blocks.{layer}.attention.weights"][head, first:, first:].tolist()
    name = kinds.name(layer, head) if kinds else None
    title = f"Attention of head {layer}.{head}" + (f", {name[0]} {name[1]:.2f}" if name else "")
    last = f", the last {len(weights)} tokens" if first else ""
    _heading(title, f"rows look back, {SHADES} = 0 … 1{last}")
    for at, row in enumerate(weights):
        label = _piece(trace, trace.tokens[first + at], 14)
        cells = "".join(_shade(value) * 2 for value in row[: at + 1])
        console.out.print(Text(f"{' ' * (14 - cell_len(label))}{label} ").append(cells, style="cyan"))


def _shade(value: float) -> str:
    return UNSEEN if value < LEAST_SEEN else SHADES[min(len(SHADES) - 1, int(value * len(SHADES)))]


def _show_choice(trace: Trace) -> None:
    """The next token's candidates through each processor."""
    stages = trace.stages()
    chances = {stage: trace[stage] for stage in stages}
    top = chances[stages[0]].topk(min(CANDIDATES, trace.tokenizer.vocab_size)).indices.tolist()
    rows = [
        [_piece(trace, token, 16), str(token), *(_percent(float(chances[stage][token])) for stage in stages)]
        for token in top
    ]
    rows.append(["possible", "", *(f"{int((chances[stage] > 0).sum()):,}" for stage in stages)])
    _heading("Next token", "its probability, from the model through each processor")
    console.table("", ["piece", "id", *(stage.removeprefix("next.") for stage in stages)], rows)
    if len(trace) > 1:
        loss = float(token_losses(trace).mean())
        console.output(f"the text itself was foreseen with {loss:.3f} nats per token")


def _percent(chance: float) -> str:
    return format_probability(math.log(chance) if chance > 0 else -math.inf)


def _show_change(trace: Trace, words: Sequence[str]) -> None:
    """What the interventions did to the next token and to the text."""
    assert trace.base is not None
    before, after = trace.base["next.model"], trace["next.model"]
    moved = (after - before).abs().topk(min(CANDIDATES, len(after))).indices.tolist()
    rows = [
        [
            _piece(trace, token, 16),
            _percent(float(before[token])),
            _percent(float(after[token])),
            f"{100 * float(after[token] - before[token]):+.1f}",
        ]
        for token in moved
    ]
    _heading("Changed", f"by {', '.join(map(_safe, words))}")
    console.table("", ["piece", "before", "after", "points"], rows)
    if len(trace) > 1:
        losses = [float(token_losses(each).mean()) for each in (trace.base, trace)]
        console.output(f"nats per token of the text: {losses[0]:.3f} before, {losses[1]:.3f} after")
    console.output(f"divergence of the next token's distribution: {float(divergence(trace)[-1]):.3f} nats")


def _safe(words: str) -> str:
    return printable(words.encode("utf-8", "replace"))


def _parse_head(trace: Trace, words: str) -> tuple[int, int]:
    layer, _, head = words.partition(".")
    config = trace.model.config
    if layer.isdecimal() and head.isdecimal() and int(layer) < config.n_layer and int(head) < config.n_head:
        return int(layer), int(head)
    raise UsageError(
        f"--head is {_safe(words)!r}; allowed is LAYER.HEAD from 0.0 to {config.n_layer - 1}.{config.n_head - 1}"
    )
