"""Predict the memory of fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from glassgpt.model.accounting import FLOAT32_BYTES, MemoryEstimate, count_parameters, training_memory
from glassgpt.model.build import meta_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import add_lora, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig


def count_trainable(model: ModelConfig, lora: LoRAConfig) -> int:
    """Return the number of parameters that are trained: all of them, or those of the adapter.

    Raises:
        ConfigError: no layer has one of the adapter's target names.
    """
    if not lora.rank:
        return count_parameters(model)
    return sum(p.numel() for p in trainable_parameters(add_lora(meta_model(model), Adapter("", lora))).values())


def finetuning_memory(model: ModelConfig, lora: LoRAConfig, batch_size: int) -> MemoryEstimate:
    """Estimate the memory to fine-tune with AdamW on `batch_size` full-context sequences at once.

    Frozen weights have neither gradients nor moments; the activations are kept either way.
    """
    everything, trained = training_memory(model, batch_size), count_trainable(model, lora) * FLOAT32_BYTES
    frozen = everything.weights if lora.rank else 0
    return replace(everything, weights=frozen + trained, gradients=trained, optimizer=2 * trained)
