"""A model with a known mechanism (induction heads): two attention-only blocks trained to continue repetitions."""

import functools

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import made_once
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEF"
CONTEXT = 40
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
    """Return the model and its tokenizer; the first worker trains it, in seconds on one core, deterministically.

    Its MLPs are kept at zero. A text is a sequence of distinct letters, repeated. The period differs from text to text,
    so the model has to find the earlier occurrence of a letter; a fixed offset does not help.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(_config())
    for block in model.blocks:
        for parameter in block.mlp.parameters():
            torch.nn.init.zeros_(parameter).requires_grad_(False)

    def make(path):
        _train(model)
        save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, path)

    trained = load_file(made_once.shared("planted", make))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(trained[name])
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


def _repetitions(generator):
    """Return tokens, (ROWS, CONTEXT + 1), and which of the last CONTEXT of them are predictable, (ROWS, CONTEXT)."""
    periods = torch.randint(6, 20, (ROWS, 1), generator=generator)
    order = torch.rand(ROWS, len(LETTERS), generator=generator).argsort(dim=1)
    places = torch.arange(CONTEXT + 1)[None]
    return order.gather(1, places % periods), places[:, 1:] >= periods + 1
