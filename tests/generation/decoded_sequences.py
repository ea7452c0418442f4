"""Random models, sequences of numbers without a tokenizer, and what a decoder generates for them, for tests of the GPU's decoders."""

import torch

from glassgpt.generation.engine.scheduler import Scheduler
from glassgpt.generation.engine.sequence import Request, SequenceState
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.build import build_model


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
