"""Healthy training runs: every preset scaled down, and settings that are unusual but valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassgpt.config import load_config, preset_names

from . import datasets
from .case import Healthy
from .chat_faults import SETTINGS as CHAT
from .chat_faults import conversations
from .training_faults import MUON

WIDTH, CONTEXT, STEPS, ROWS = 64, 32, 240, 16


def scaled_down(preset: str) -> dict[str, Any]:
    """Return a preset's settings at a size for this suite: AdamW's learning rate by width, warmup by length."""
    config = load_config(preset)
    shrink = config.model.n_embd / WIDTH
    warmup = config.schedule.warmup_steps * STEPS / config.train.max_steps
    by_width = config.optimizer.name == "adamw"
    return {
        "model.vocab_size": 0,
        "model.context_length": CONTEXT,
        "model.n_layer": min(config.model.n_layer, 4),
        "model.n_head": 4,
        "model.n_embd": WIDTH,
        "model.init_std": min(0.1, config.model.init_std * shrink**0.5),
        "train.max_steps": STEPS,
        "train.batch_tokens": ROWS * CONTEXT,
        "train.micro_batch_size": min(config.train.micro_batch_size, ROWS),
        "train.learning_rate": config.train.learning_rate * (shrink if by_width else 1.0),
        "train.eval_every_steps": STEPS // 6,
        "schedule.warmup_steps": max(10 if by_width else 0, round(warmup)),
        "checkpoint.every_steps": STEPS // 6,
        "fim.rate": 0.0,  # the datasets of this suite have no sentinels
        "multimodal.ctc_weight": 0.0,  # and no sounds
    }


def _preset(preset: str) -> Healthy:
    return Healthy(
        name=f"preset-{preset}",
        what=f"the preset {preset}, scaled down",
        preset=preset,
        settings=scaled_down(preset),
        fine_tunes=preset.startswith("finetune"),
    )


def _unusual(name: str, what: str, settings: Mapping[str, Any], **more: Any) -> Healthy:
    return Healthy(name=name, what=what, settings=settings, **more)


MODERN = {**MUON, "optimizer.name": "adamw", "train.learning_rate": 5e-3, "optimizer.head_rate_ratio": 1.0}
AT_A_CONSTANT_RATE = {"schedule.kind": "constant"}

HEALTHY: Sequence[Healthy] = (
    *(_preset(name) for name in preset_names()),
    _unusual("constant-rate", "a constant rate to the end", AT_A_CONSTANT_RATE),
    _unusual("no-warmup-low-rate", "no warmup, at a low rate", {"schedule.warmup_steps": 0, "train.learning_rate": 1e-3}),
    _unusual("tiny-batch", "one sequence per step", {"train.batch_tokens": 32, "train.learning_rate": 1e-3}),
    _unusual("big-batch", "64 sequences per step", {"train.batch_tokens": 64 * 32, "train.max_steps": 200}),
    _unusual("dropout", "a dropout of 0.3", {"model.dropout": 0.3}),
    _unusual("modern-adamw", "Modern with AdamW alone", MODERN),
    _unusual("modern-muon", "Modern with Muon at a constant rate", {**MUON, **AT_A_CONSTANT_RATE}),
    _unusual(
        "modern-shared-keys-window", "Modern with grouped-query attention and a window",
        {**MUON, "model.n_head": 4, "model.n_kv_head": 2, "model.window": 16, "model.n_layer": 3},
    ),
    _unusual("context-16", "a context of 16", {"model.context_length": 16}),
    _unusual("context-192", "a context of 192", {"model.context_length": 192, "train.batch_tokens": 768, "train.max_steps": 200}),
    _unusual("long-accumulation", "12 micro-batches per step", {"train.micro_batch_size": 1, "train.max_steps": 200}),
    _unusual("resumed", "interrupted in the middle and resumed", {}, stop_at=130),
    _unusual(
        "several-epochs", "ten epochs of a small text with dropout",
        {"model.dropout": 0.1}, dataset=datasets.grammar(400),
    ),
    _unusual("bf16", "bfloat16", {"train.precision": "bf16", "train.max_steps": 200}),
    _unusual("fp16", "float16 with a scaler", {"train.precision": "fp16", "train.max_steps": 200}),
    _unusual("linear-to-zero", "a rate that falls linearly to zero", {"schedule.kind": "linear", "schedule.final_ratio": 0.0}),
    _unusual("wsd", "warmup, stable, decay", {"schedule.kind": "wsd"}),
    _unusual("rate-in-steps", "a rate that halves every 100 steps", {"schedule.kind": "step", "schedule.step_every": 100}),
    _unusual("no-clipping", "no clipping", {"train.clip_norm": 0.0}),
    _unusual("low-clip", "gradients clipped to 0.3", {"train.clip_norm": 0.3}),
    _unusual("average", "averaged weights", {"train.ema_decay": 0.98}),
    _unusual("deep-and-narrow", "12 blocks of width 24", {"model.n_layer": 12, "model.n_embd": 24, "train.max_steps": 200}),
    _unusual("one-block", "a single block with a single head", {"model.n_layer": 1, "model.n_head": 1}),
    _unusual("rate-three-times", "three times the usual rate", {"train.learning_rate": 0.02}),
    _unusual("rate-a-tenth", "a tenth of the usual rate", {"train.learning_rate": 7e-4}),
    _unusual("no-decay", "no weight decay", {"optimizer.weight_decay": 0.0}),
    _unusual("decay-fivefold", "a weight decay of 0.5", {"optimizer.weight_decay": 0.5}),
    _unusual("chunked-and-recomputed", "chunked loss, recomputed activations",
         {"train.loss_chunk_tokens": 128, "train.recompute_activations": True, "train.max_steps": 200}),
    _unusual("bpe-tokens", "a BPE vocabulary of 500 tokens", {}, dataset=datasets.grammar(8000, "bpe:500")),
    _unusual("plays", "Shakespeare, which cannot be predicted well", {"train.max_steps": 450}, dataset=datasets.plays),
    _unusual("plays-constant-muon", "Shakespeare at a constant rate with Muon",
         {**MUON, **AT_A_CONSTANT_RATE, "train.max_steps": 450}, dataset=datasets.plays),
    _unusual("openai-init", "OpenAI's small initial weights at this width", {"model.init_std": 0.02}),
    # Other text: languages, code, numbers, and what a corpus of several kinds looks like.
    _unusual("korean", "Korean as bytes", {"train.max_steps": 200}, dataset=datasets.korean()),
    _unusual("korean-bpe-muon", "Korean as BPE tokens, Modern with Muon", {**MUON, "train.max_steps": 200}, dataset=datasets.korean("bpe:600")),
    _unusual("korean-unigram-dropout", "Korean as unigram tokens with dropout", {"model.dropout": 0.2, "train.max_steps": 200},
         dataset=datasets.korean("unigram:600")),
    _unusual("python-code", "Python's standard library as bytes", {}, dataset=datasets.python_code()),
    _unusual("python-code-bpe-muon", "Python as BPE tokens, Modern with Muon", {**MUON, "train.max_steps": 200},
         dataset=datasets.python_code("bpe:700")),
    _unusual("python-code-accumulated", "Python with Modern and AdamW, dropout and six micro-batches",
         {**MODERN, "model.dropout": 0.1, "train.micro_batch_size": 2, "train.max_steps": 200}, dataset=datasets.python_code()),
    _unusual("markdown-linear", "documentation at a linear rate", {"schedule.kind": "linear", "train.max_steps": 200}, dataset=datasets.markdown),
    _unusual("arithmetic", "sums, whose operands are random", {}, dataset=datasets.arithmetic),
    _unusual("records-wsd", "lines of JSON, at a rate that falls at the end", {"schedule.kind": "wsd"}, dataset=datasets.records),
    _unusual("languages-mixed", "Korean, English and Python in one text", {"train.max_steps": 200}, dataset=datasets.languages_mixed),
    _unusual("languages-one-after-the-other", "English, then Korean", {"train.max_steps": 200}, dataset=datasets.one_after_the_other),
    _unusual("tiny-text-guarded", "forty sentences for a few epochs with dropout",
         {"model.dropout": 0.3, "train.max_steps": 40, "train.early_stop_evaluations": 2, "train.eval_every_steps": 10}, dataset=datasets.tiny),
    # Weights from elsewhere.
    _unusual("fine-tuned-on-plays", "weights trained on the grammar, then on Shakespeare", {"train.max_steps": 200},
         fine_tunes=True, earlier_dataset=datasets.healthy_dataset, dataset=datasets.plays),
    _unusual("fine-tuned-on-korean-muon", "weights trained on English, then on Korean, with Muon", {**MUON, "train.max_steps": 160},
         fine_tunes=True, earlier_dataset=datasets.healthy_dataset, dataset=datasets.korean()),
    _unusual("fine-tuned-on-code-no-warmup", "weights trained on Korean, then on Python without a warmup",
         {"schedule.warmup_steps": 0, "train.max_steps": 160}, fine_tunes=True, earlier_dataset=datasets.korean(), dataset=datasets.python_code()),
    _unusual("imported", "weights that were exported and imported", {"train.max_steps": 160}, fine_tunes=True, imports=True),
    _unusual("imported-modern-on-plays", "imported weights of Modern on another domain", {**MODERN, "train.max_steps": 160},
         fine_tunes=True, imports=True, earlier_dataset=datasets.healthy_dataset, dataset=datasets.plays),
    _unusual("imported-untrained", "imported weights that were hardly trained", {"train.max_steps": 160},
         fine_tunes=True, imports=True, earlier_steps=1),
    # Conversations.
    _unusual("conversations", "conversations with a plain template", CHAT, dataset=conversations()),
    _unusual("conversations-fine-tuned-muon", "conversations on weights trained on the grammar, in rows of half the context, with Muon",
             {**MUON, **CHAT, "model.context_length": 192, "train.sequence_length": 96}, fine_tunes=True,
             earlier_dataset=datasets.healthy_dataset, dataset=conversations()),
    # Interruptions, accumulation, precision and averages in combination.
    _unusual("resumed-muon-dropout", "Modern with Muon and dropout, interrupted and resumed",
         {**MUON, "model.dropout": 0.1, "train.max_steps": 200}, stop_at=75),
    _unusual("resumed-accumulated-average", "averaged weights and four micro-batches, interrupted and resumed",
         {"train.ema_decay": 0.98, "train.micro_batch_size": 3, "train.max_steps": 200}, stop_at=101),
    _unusual("resumed-first-steps", "interrupted after five steps and resumed", {"train.max_steps": 120}, stop_at=5),
    _unusual("bf16-muon-accumulated", "bfloat16 with Muon and three micro-batches",
         {**MUON, "train.precision": "bf16", "train.micro_batch_size": 4, "train.max_steps": 160}),
    _unusual("bf16-dropout", "bfloat16 with dropout on Shakespeare", {"train.precision": "bf16", "model.dropout": 0.1, "train.max_steps": 160},
         dataset=datasets.plays),
    _unusual("fp16-accumulated", "float16 with a scaler and four micro-batches",
         {"train.precision": "fp16", "train.micro_batch_size": 3, "train.max_steps": 200}),
    _unusual("recomputed-with-dropout", "recomputed activations with dropout and two micro-batches",
         {"train.recompute_activations": True, "model.dropout": 0.2, "train.micro_batch_size": 6, "train.max_steps": 160}),
    _unusual("chunked-average-clip", "chunked loss, averaged weights and a low clip",
         {"train.loss_chunk_tokens": 64, "train.ema_decay": 0.95, "train.clip_norm": 0.2, "train.max_steps": 160}),
    # Other shapes and settings.
    _unusual("context-1", "a context of one token", {"model.context_length": 1, "train.batch_tokens": 128, "train.max_steps": 160}),
    _unusual("one-key-head", "Modern with a single key and value head", {**MODERN, "model.n_head": 4, "model.n_kv_head": 1, "train.max_steps": 160}),
    _unusual("no-biases", "GPT-2 without biases", {"model.bias": False, "train.max_steps": 160}),
    _unusual("wide-batch-muon", "96 sequences per step with Muon", {**MUON, "train.batch_tokens": 96 * 32, "train.max_steps": 120}),
    _unusual("pytorch-betas", "PyTorch's default decay rates and no weight decay",
         {"optimizer.beta2": 0.999, "optimizer.weight_decay": 0.0, "train.max_steps": 200}),
    _unusual("epsilon-1e-6", "an epsilon of 1e-6", {"optimizer.epsilon": 1e-6, "train.max_steps": 160}),
    _unusual("rates-by-kind", "other rates for embeddings, head and vectors",
         {**MODERN, "optimizer.embedding_rate_ratio": 3.0, "optimizer.head_rate_ratio": 0.3, "train.max_steps": 160}),
    _unusual("half-dropout", "a dropout of one half", {"model.dropout": 0.5, "train.max_steps": 200}),
    _unusual("bpe-plays-modern", "Shakespeare as 1,500 BPE tokens, Modern with AdamW",
         {**MODERN, "train.max_steps": 200}, dataset=lambda folder: datasets.plays_as(folder, "bpe:1500")),
)  # fmt: skip


def from_folder(folder: Path) -> list[Healthy]:
    """Return a healthy run on each text or JSON file of a folder and its subfolders."""
    kinds = (".txt", ".jsonl", ".jsonl.xz", ".jsonl.gz", ".json", ".json.xz")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(kinds)]
    settings = ({"train.max_steps": 160}, {**MUON, "train.max_steps": 160})
    return [
        Healthy(
            name=f"file-{path.name}",
            what=f"the text of {path.name}",
            settings=settings[n % 2],
            dataset=datasets.text_of(path),
        )
        for n, path in enumerate(files)
    ]
