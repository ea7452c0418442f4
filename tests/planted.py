"""A model in which one knows what is to be found: attention alone, two blocks, trained to continue repetitions."""

import functools

import torch
import torch.nn.functional as F

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEF"
CONTEXT = 40
STEPS = 250
ROWS = 32
PEAK = 0.01
"""Learning rate."""


class LetterTokenizer(Tokenizer):
    """Each of `LETTERS` is a token: the smallest vocabulary in which something can be planted fast."""

    kind = "letters"

    def __init__(self):
        super().__init__("letters", [letter.encode() for letter in LETTERS], {})

    def _encode(self, text):
        return [LETTERS.index(letter) for letter in text]


@functools.cache
def planted():
    """The model, trained once in a process, in a few seconds on one core, always to the same weights.

    Its MLPs are held at zero. Texts are letters without repetition, said again and again; as their number differs
    from text to text, only looking for the earlier occurrence helps, not counting back.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(_config())
    for block in model.blocks:
        for parameter in block.mlp.parameters():
            torch.nn.init.zeros_(parameter).requires_grad_(False)
    _train(model)
    return model.eval(), LetterTokenizer()


def _config():
    return ModelConfig(
        arch="modern",
        vocab_size=len(LETTERS) + 1,
        context_length=CONTEXT,
        n_layer=2,
        n_head=2,
        n_embd=64,
        init_std=0.1,
        bias=False,
    )


def _train(model):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=PEAK, betas=(0.9, 0.98))
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = PEAK * min((step + 1) / 50, max(0.05, 1 - step / STEPS))
        tokens, foreseeable = _repetitions(generator)
        loss = F.cross_entropy(model(tokens[:, :-1])[foreseeable], tokens[:, 1:][foreseeable])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _repetitions(generator):
    """Tokens (ROWS, CONTEXT + 1), and which of the last CONTEXT of them a reader could know."""
    periods = torch.randint(6, 20, (ROWS, 1), generator=generator)
    order = torch.rand(ROWS, len(LETTERS), generator=generator).argsort(dim=1)
    places = torch.arange(CONTEXT + 1)[None]
    return order.gather(1, places % periods), places[:, 1:] >= periods + 1
