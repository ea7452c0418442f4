"""Connectionist temporal classification (CTC, Graves et al. 2006): a second loss, of the positions of sounds.

Each position of a sound emits a token or a blank, and the loss is the negative log-probability that the positions of a document
say its learned text in order, summed over all alignments. So what the model hears at a position is tied to what is said there,
which the text after the sound ties only loosely (Watanabe et al. 2017 train recognizers of speech with both losses).

`ctc_nats` is the fast path and `ctc_nats_readable` its readable reference, which also takes its place where PyTorch's own
kernels are not deterministic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from glassgpt.multimodal.alignment import SpokenTexts

CTC = "ctc"
"""Name of the head among the encoders, so that whoever loads the language model alone leaves it out too."""
IMPOSSIBLE = -1e30
"""Log-probability of an impossible alignment. Finite, because minus infinity gives a gradient of NaN, not 0."""


class CTCHead(nn.Linear):
    """Maps the features of positions (N, C) to logits of the tokens and, last, of the blank: (N, V + 1).

    It is separate from the head of the language model, which predicts the next position, not what is heard at this one, and
    which stays as it is in a frozen language model.

    Args:
        width: C.
        vocab_size: V.
    """

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__(width, vocab_size + 1)
        nn.init.normal_(self.weight, std=width**-0.5)
        nn.init.zeros_(self.bias)


def ctc_nats(head: CTCHead, features: Tensor, texts: SpokenTexts) -> Tensor:
    """Return the CTC loss of a batch in nats, summed over its documents: a scalar.

    Args:
        head: of the model.
        features: (B, T, C).
        texts: of the batch.
    """
    device = features.device
    places = torch.from_numpy(texts.places).to(device)
    own = features.flatten(0, 1).index_select(0, places)  # (M, C)
    log_probabilities = head(own).float().log_softmax(dim=-1)
    if not len(texts.lengths):
        return log_probabilities.sum()  # 0, with a gradient of 0: several ranks wait for the gradient of each parameter
    padded = _padded(log_probabilities, texts.lengths)
    labels, lengths, label_lengths = map(torch.from_numpy, (texts.labels, texts.lengths, texts.label_lengths))
    if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return ctc_nats_readable(padded, labels.to(device), lengths.to(device), label_lengths.to(device)).sum()
    blank = head.out_features - 1
    return F.ctc_loss(padded, labels.to(device), lengths, label_lengths, blank=blank, reduction="sum")


def _padded(log_probabilities: Tensor, lengths: NDArray[np.int64]) -> Tensor:
    """Return what is at the positions of each document (M, V + 1) by position and document, (P, N, V + 1)."""
    count, longest = len(lengths), int(lengths.max())
    document = np.repeat(np.arange(count), lengths)
    position = np.arange(len(document)) - np.repeat(lengths.cumsum() - lengths, lengths)
    index = torch.from_numpy(position * count + document).to(log_probabilities.device)
    empty = log_probabilities.new_zeros(longest * count, log_probabilities.size(-1))
    return empty.index_copy(0, index, log_probabilities).view(longest, count, -1)


def ctc_nats_readable(log_probabilities: Tensor, labels: Tensor, lengths: Tensor, label_lengths: Tensor) -> Tensor:
    """Return the CTC loss of each document in nats, (N,): equations 6 to 8 of Graves et al. 2006, in logarithms.

    Args:
        log_probabilities: (P, N, V + 1), the last of which is that of the blank.
        labels: (N, L) int64.
        lengths: positions of each document, (N,) int64.
        label_lengths: tokens of each text, (N,) int64.
    """
    count, n_labels = labels.shape
    blank = log_probabilities.size(-1) - 1
    states = labels.new_full((count, 2 * n_labels + 1), blank)  # blank, token, blank, …, blank
    states[:, 1::2] = labels
    # A token may follow another one without a blank between them, unless they are equal.
    skips = torch.zeros_like(states, dtype=torch.bool)
    skips[:, 3::2] = labels[:, 1:] != labels[:, :-1]
    said = log_probabilities.gather(2, states.expand(len(log_probabilities), -1, -1))  # (P, N, 2 L + 1)
    alpha = torch.full_like(said[0], IMPOSSIBLE)
    alpha = torch.cat([said[0, :, :2], alpha[:, 2:]], dim=1)  # an alignment begins with a blank or with the first token
    for position in range(1, len(said)):
        stay, step = alpha, F.pad(alpha, (1, 0), value=IMPOSSIBLE)[:, :-1]
        skip = torch.where(skips, F.pad(alpha, (2, 0), value=IMPOSSIBLE)[:, :-2], IMPOSSIBLE)
        reached = torch.stack([stay, step, skip]).logsumexp(dim=0) + said[position]
        alpha = torch.where((position < lengths)[:, None], reached, alpha)
    ends = torch.stack([2 * label_lengths, 2 * label_lengths - 1], dim=1)  # it ends with a blank or with the last token
    return -alpha.gather(1, ends).logsumexp(dim=1)
