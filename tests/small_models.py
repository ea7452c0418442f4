"""Random models whose next token depends on all of the text, so that a mistake in what they see shows."""

import copy
from types import SimpleNamespace

import torch

from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

CONTEXT = 48


def attentive_model(seed=0, **shape):
    """Large matrices, small embeddings, and logits that are sharp enough to have few ties."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 257, "context_length": CONTEXT, "n_layer": 2, "n_head": 3, "n_embd": 24} | shape
    model = build_model(ModelConfig(**shape)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.1 if "embedding" in name else 0.4)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
        if hasattr(model.norm, "weight"):  # the tied head is as small as the embedding
            model.norm.weight.fill_(6.0)
    return model


def as_if_on(model, device, dtype=torch.float32):
    """The model, as it looks to those who only ask where its parameters are."""
    twin = copy.copy(model)
    twin.parameters = lambda: iter([SimpleNamespace(device=torch.device(device), dtype=dtype)])
    return twin


def disturbed(model, by, seed=1):
    """A model that mostly says the same: how much less, `by` tells."""
    twin = build_model(model.config).eval()
    twin.load_state_dict(model.state_dict())
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += by * torch.randn_like(parameter)
    return twin


def share_that_depends_on_far_tokens(model):
    """How often the likeliest next token changes when one of twelve tokens, eight before the last, is another."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 257, (200, 12))
    other = tokens.clone()
    other[:, 3] = (other[:, 3] + 7) % 257
    with torch.no_grad():
        return float((model(tokens)[:, -1].argmax(-1) != model(other)[:, -1].argmax(-1)).float().mean())


def shaken(config):
    """A model away from its tame initial weights, some of which are zero."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
