"""A model with a known mechanism (induction heads): two attention-only blocks, constructed or trained."""

import functools

import torch
import torch.nn.functional as F

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEF"
CONTEXT = 40
WIDTH = 32
"""Channels of a head; also the number of letters."""
WRITTEN = 3.0, 1.0
"""Weights of the letters that the two heads copy; together they prevail over the letters of the text itself."""
STEPS = 250
ROWS = 32
PEAK_LEARNING_RATE = 0.01


class LetterTokenizer(Tokenizer):
    """Each of `LETTERS` is a token: a small vocabulary makes training fast."""

    kind = "letters"

    def __init__(self):
        super().__init__("letters", [letter.encode() for letter in LETTERS], {})

    def _encode(self, text):
        return [LETTERS.index(letter) for letter in text]


@functools.cache
def planted():
    """Return a model whose weights are written down, and its tokenizer.

    The first half of a position's channels has its letter, the second half the letter before it, which head 0 of block 0
    copies there. Both heads of block 1 look for positions whose second half is the letter of the query, and copy
    their letter. The other head and the MLPs are zero.
    """
    model = _empty()
    letter = torch.eye(WIDTH, 2 * WIDTH)  # reads the first half
    before = letter.roll(WIDTH, dims=1)  # reads the second half
    first, second = (block.attention for block in model.blocks)
    with torch.no_grad():
        torch.nn.init.normal_(model.token_embedding.weight, std=0.02, generator=torch.Generator().manual_seed(1))
        model.token_embedding.weight[:WIDTH] += letter
        model.token_embedding.weight[WIDTH] -= letter.sum(0)  # unlike all letters
        model.lm_head.weight[:WIDTH] = 1.5 * letter
        query, key = _previous_position()
        first.q.weight[:WIDTH], first.k.weight[:WIDTH] = query[:, None] * letter.sum(0), key[:, None] * letter.sum(0)
        first.v.weight[:WIDTH] = letter
        first.out.weight[:, :WIDTH] = before.T
        code = _slow_code()
        second.q.weight.copy_((code @ letter).repeat(2, 1))
        second.k.weight.copy_((code @ before).repeat(2, 1))
        second.v.weight.copy_(letter.repeat(2, 1))
        second.out.weight.copy_(torch.cat([weight * letter.T for weight in WRITTEN], dim=1))
    return model, LetterTokenizer()


def _previous_position():
    """Return the query and key of a head whose scores depend on the distance alone and are highest at 1: (WIDTH,) each.

    The fast pairs of channels tell neighbors apart: rotated by the angle of one position, they agree at a distance of 1.
    """
    weights = torch.zeros(WIDTH // 2)
    weights[:3] = torch.tensor([1.0, 0.6, 0.3])
    angles = _frequencies()
    return torch.cat([weights, 0 * weights]), torch.cat([weights * angles.cos(), -weights * angles.sin()])


def _slow_code():
    """Return a code word of each letter, in its column: (WIDTH, WIDTH).

    Only the slow half of the pairs of channels is used, which the distance hardly rotates; two letters have either
    orthogonal or opposite code words.
    """
    slow = torch.cat([torch.arange(WIDTH // 4, WIDTH // 2), torch.arange(3 * WIDTH // 4, WIDTH)])
    code = torch.zeros(WIDTH, WIDTH)
    code[slow, torch.arange(WIDTH // 2)] = 1
    code[slow, torch.arange(WIDTH // 2, WIDTH)] = -1
    return code


def _frequencies():
    return 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)


def _empty():
    """Return a model of zeros."""
    config = ModelConfig(
        arch="modern",
        vocab_size=len(LETTERS) + 1,
        context_length=CONTEXT,
        n_layer=2,
        n_head=2,
        n_embd=2 * WIDTH,
        init_std=0.1,
        bias=False,
    )
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def trained():
    """Return a model that learned the same in seconds on one core, and its tokenizer. Its MLPs are kept at zero.

    A text is a sequence of distinct letters, repeated. The period differs from text to text, so the model has to find
    the earlier occurrence of a letter; a fixed offset does not help.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(planted()[0].config)
    for block in model.blocks:
        for parameter in block.mlp.parameters():
            torch.nn.init.zeros_(parameter).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98)
    )
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = PEAK_LEARNING_RATE * min((step + 1) / 50, max(0.05, 1 - step / STEPS))
        tokens, predictable = _repetitions(generator)
        loss = F.cross_entropy(model(tokens[:, :-1])[predictable], tokens[:, 1:][predictable])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), LetterTokenizer()


def _repetitions(generator):
    """Return tokens, (ROWS, CONTEXT + 1), and which of the last CONTEXT of them are predictable, (ROWS, CONTEXT)."""
    periods = torch.randint(6, 20, (ROWS, 1), generator=generator)
    order = torch.rand(ROWS, len(LETTERS), generator=generator).argsort(dim=1)
    places = torch.arange(CONTEXT + 1)[None]
    return order.gather(1, places % periods), places[:, 1:] >= periods + 1
