"""Measure encoding alone, in a separate process, so that tokenizers start with empty word caches.

Loading is not measured. glassgpt gets documents in batches as large as `prepare`'s, tiktoken one at a time.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cpu_parts.corpus import read_documents
from glassgpt.data.pipeline import BATCH_CHARACTERS
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, gpt2_tokenizer


def batches(texts: list[str]) -> Iterator[list[str]]:
    """Group texts into batches of about `BATCH_CHARACTERS`."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def with_glassgpt(texts: list[str]) -> tuple[float, int]:
    tokenizer = gpt2_tokenizer()
    tokenizer.encode_batch(["Hello, world!"])  # loads the fast backend
    start = time.perf_counter()
    tokens = sum(len(ids) for batch in batches(texts) for ids in tokenizer.encode_batch(batch))
    return time.perf_counter() - start, tokens


def with_tiktoken(texts: list[str]) -> tuple[float, int]:
    import tiktoken

    tokenizer = gpt2_tokenizer()
    ranks = {tokenizer.token_bytes(token): token for token in range(tokenizer.end_of_text)}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    start = time.perf_counter()
    tokens = sum(len(encoding.encode_ordinary(text)) for text in texts)
    return time.perf_counter() - start, tokens


def main() -> None:
    """Print seconds and number of tokens. Arguments: glassgpt or tiktoken, and the documents."""
    encode = {"glassgpt": with_glassgpt, "tiktoken": with_tiktoken}[sys.argv[1]]
    print(*encode(list(read_documents(Path(sys.argv[2])))))
