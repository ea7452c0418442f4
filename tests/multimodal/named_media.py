"""Documents of two pictures and two sounds with their names, and the settings that learn them."""

import numpy as np
from multimodal_helpers import document, picture, sound

NAMES = ("a red apple", "a blue bird")
SETTINGS = {
    "model.context_length": "64", "model.n_layer": "2", "model.n_head": "2", "model.n_embd": "32", "model.init_std": "0.05",
    "train.max_steps": "60", "train.batch_tokens": "512", "train.learning_rate": "1e-2", "train.eval_every_steps": "30",
    "schedule.warmup_steps": "5", "multimodal.mels": "16", "multimodal.augment_image": "0.2", "multimodal.augment_audio": "0",
}  # fmt: skip


def noisy(item, seed, scale):
    noise = np.random.default_rng(seed).normal(0, scale, item.data.shape)
    limits = np.iinfo(item.data.dtype)
    return item._replace(data=np.clip(item.data + noise, limits.min, limits.max).astype(item.data.dtype))


def named_documents(media):
    """Return documents of either of two pictures or sounds, with noise, and its name."""
    documents = [
        document(media, [noisy(item, seed, scale)], NAMES[kind], f"{item.modality} {seed}")
        for seed in range(60)
        for kind in (seed % 2,)
        for item, scale in ((picture(kind), 9), (sound(kind, 700 + seed), 300))
    ]
    return documents[:100], documents[100:]
