"""The peer for preparation, as a separate program: a typical script with tiktoken on one thread.

    python tiktoken_reference.py RANKS PATTERN DOCUMENTS.jsonl OUT.bin

Does not import glassgpt. Prints the number of tokens written.
"""

import json
import sys

import numpy as np
import tiktoken
from tiktoken.load import load_tiktoken_bpe


def prepare(ranks_path: str, pattern: str, documents_path: str, out_path: str) -> int:
    """Encode each document, prepend end-of-text, and append the ids to the file as uint16. Return the number of tokens."""
    ranks = load_tiktoken_bpe(ranks_path)
    end_of_text = len(ranks)
    special = {"<|endoftext|>": end_of_text}
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    written = 0
    with open(documents_path, encoding="utf-8") as documents, open(out_path, "wb") as out:
        for line in documents:
            tokens = [end_of_text, *encoding.encode_ordinary(json.loads(line)["text"])]
            out.write(np.array(tokens, dtype=np.uint16).tobytes())
            written += len(tokens)
    return written


if __name__ == "__main__":
    print(prepare(*sys.argv[1:5]))
