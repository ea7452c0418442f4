"""The Korean translations, one module per package of messages. `docs/glossary.ko.md` fixes the terms."""

from __future__ import annotations

from glassgpt.locale.ko import (
    adaptation,
    answers,
    chat,
    code,
    commands,
    compression,
    data,
    diagnosis,
    drawing,
    evaluation,
    generation,
    image_tokens,
    inspection,
    interchange,
    learn,
    media,
    model,
    multimodal,
    options,
    parts,
    preferences,
    program,
    retrieval,
    serving,
    sweeps,
    training,
)
from glassgpt.locale.ko.reasons import reason_templates

MESSAGES: dict[str, str] = {
    **program.MESSAGES,
    **data.MESSAGES,
    **chat.MESSAGES,
    **code.MESSAGES,
    **learn.MESSAGES,
    **model.MESSAGES,
    **training.MESSAGES,
    **sweeps.MESSAGES,
    **generation.MESSAGES,
    **evaluation.MESSAGES,
    **diagnosis.MESSAGES,
    **inspection.MESSAGES,
    **adaptation.MESSAGES,
    **preferences.MESSAGES,
    **compression.MESSAGES,
    **interchange.MESSAGES,
    **retrieval.MESSAGES,
    **media.MESSAGES,
    **multimodal.MESSAGES,
    **image_tokens.MESSAGES,
    **drawing.MESSAGES,
    **serving.MESSAGES,
    **answers.MESSAGES,
    **parts.COMPOSED,
}
"""Messages and results by English template."""
HELP: dict[str, str] = {
    **commands.HELP,
    **options.HELP,
    **compression.HELP,
    **retrieval.HELP,
    **media.HELP,
    **multimodal.HELP,
    **image_tokens.HELP,
    **drawing.HELP,
    **serving.HELP,
    **chat.HELP,
    **code.HELP,
    **learn.HELP,
    **sweeps.HELP,
    **answers.HELP,
}
"""The help of commands and options."""
PARTS: dict[str, str] = {**parts.PARTS, **reason_templates()}
"""Pieces of messages that are translated only inside of messages."""
CONNECTED: dict[str, str] = parts.CONNECTED
"""Connections of pieces."""
