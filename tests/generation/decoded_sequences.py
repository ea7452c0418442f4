"""Random models, sequences of numbers without a tokenizer, and what a decoder generates for them, for tests of the GPU's decoders."""

import torch

from glassgpt.generation.engine.scheduler import Scheduler
from glassgpt.generation.engine.sequence import Request, SequenceState
from glassgpt.generation.gpu.row_step import RowStep
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache


def random_model(config):
    torch.manual_seed(3)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


class Vocabulary:
    """The part of a tokenizer that logits processors use."""

    name = "numbers"

    def __init__(self, vocab_size):
        self.vocab_size, self.end_of_text = vocab_size, vocab_size - 1


def numbers(vocab_size, prompt, index=0, limit=6, **settings):
    """Return a sequence that continues a prompt of ids below `vocab_size` by `limit` tokens."""
    options = GenerationOptions(**{"top_p": 1.0, "seed": 5, "num_samples": index + 1, **settings})
    options.check()
    processors = tuple(build_processors(options, Vocabulary(vocab_size)))
    return SequenceState(Request(0, tuple(prompt), options, processors, options.seed, limit), index)


@torch.inference_mode()
def outputs(vocab_size, model, rows, decoder, slots=4, capacity=24, end=None):
    """Return each sequence's output under continuous batching; it ends at its limit or with the token `end`."""
    scheduler = Scheduler(model, decoder(model, vocab_size, slots, capacity))
    for row in rows:
        scheduler.add(row)
    while not scheduler.is_idle:
        for row, token in scheduler.step():
            if row.is_full or token == end:
                scheduler.finish(row)
    return [row.output_ids for row in rows]


def check_rows_against_single_steps(model, texts, starts, width, plain, wanted):
    """Check that several rows per slot compute the bits of single steps, also where they see keys of each other.

    Args:
        model: the model.
        texts: (B, T).
        starts: tokens of each slot that the cache has already.
        width: rows of each slot, the tokens behind those.
        plain: cache of the single steps.
        wanted: their logits, (B, T, V).
    """
    vocab_size, n_rows = wanted.size(2), len(starts) * width
    cache = KVCache.from_tensors(plain.keys.clone(), plain.values.clone())
    for slot, at in enumerate(starts):
        cache.keys[:, slot, :, at:] = cache.values[:, slot, :, at:] = 3.0
    rows = SlotState(n_rows, vocab_size, torch.device("cpu"))
    rows.ints[0] = torch.cat([texts[slot, at : at + width] for slot, at in enumerate(starts)])
    rows.ints[1] = torch.cat([torch.arange(at, at + width) for at in starts])
    several = RowStep(model, cache, rows, vocab_size)
    several.width = width
    several.feed(n_rows)
    for slot, at in enumerate(starts):
        assert torch.equal(several.logits[slot * width :][:width], wanted[slot, at : at + width])
        for ours, theirs in ((cache.keys, plain.keys), (cache.values, plain.values)):
            assert torch.equal(ours[:, slot, :, : at + width], theirs[:, slot, :, : at + width])
