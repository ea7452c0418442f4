"""Small random models whose next token depends on the whole text, so that errors in masking or caching show."""

import copy
from types import SimpleNamespace

import torch

from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

CONTEXT = 48
LLAMA = {"arch": "llama", "n_head": 4, "n_kv_head": 2, "n_embd": 24, "n_inner": 40, "bias": False}
"""The shape of a Llama with shared key heads, for `attentive_model`."""


def attentive_model(seed=0, **shape):
    """Return a model with large matrices, small embeddings, and logits sharp enough to have few ties."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 257, "context_length": CONTEXT, "n_layer": 2, "n_head": 3, "n_embd": 24} | shape
    model = build_model(ModelConfig(**shape)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.1 if "embedding" in name else 0.4)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
        if hasattr(model.norm, "weight"):  # compensates for the small tied head
            model.norm.weight.fill_(6.0)
    return model


def as_if_on(model, device, dtype=torch.float32):
    """Return a copy of the model whose parameters claim to be on `device`."""
    other = copy.copy(model)
    other.parameters = lambda: iter([SimpleNamespace(device=torch.device(device), dtype=dtype)])
    return other


def disturbed(model, by, seed=1):
    """Return a copy of the model with noise of standard deviation `by` added to its parameters."""
    other = build_model(model.config).eval()
    other.load_state_dict(model.state_dict())
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += by * torch.randn_like(parameter)
    return other


def share_that_depends_on_far_tokens(model):
    """Return how often the most likely next token changes when one of twelve tokens, eight before the last, changes."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 257, (200, 12))
    other = tokens.clone()
    other[:, 3] = (other[:, 3] + 7) % 257
    with torch.no_grad():
        return float((model(tokens)[:, -1].argmax(-1) != model(other)[:, -1].argmax(-1)).float().mean())


def shaken(config):
    """Return a model with random weights everywhere; some initial weights are zero."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
