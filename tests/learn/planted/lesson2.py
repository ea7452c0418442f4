"""Functions of lesson 2 as students write them: with each mistake, and right in three styles."""

TRAIN_HELPERS = """
def pairs_of(words):
    counts = {}
    for ids, n in words.items():
        for pair in zip(ids, ids[1:]):
            counts[pair] = counts.get(pair, 0) + n
    return counts

def replaced(ids, pair, new_id):
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return tuple(out)
"""

MERGE_LOOP = """
def merge(ids, pair, new_id):
    result, i = [], 0
    while i < len(ids):
        if {condition}:
            result.append(new_id)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return result
"""

TRAIN_LOOP = """
def train_merges(words, n_merges):
    words = {tuple(word): n for word, n in words.items()}
    merges = []
    for i in range(n_merges):
        counts = pairs_of(words)
        if {stop}:
            break
        best = {best}
        words = {replaced(ids, best, {new_id}): n for ids, n in words.items()}
        merges.append(best)
    return merges
"""


def merge_loop(condition):
    """Return the usual loop, with a condition that finds the pair at `i`."""
    return MERGE_LOOP.replace("{condition}", condition)


def train_loop(best="min(counts, key=lambda pair: (-counts[pair], pair))", new_id="256 + i", stop="not counts"):
    """Return the usual loop, with expressions for the pair to merge, its id, and the end."""
    return TRAIN_HELPERS + TRAIN_LOOP.replace("{best}", best).replace("{new_id}", new_id).replace("{stop}", stop)


BYTES_OF_IDS = """
def bytes_of_ids(merges):
    table = {i: bytes([i]) for i in range(256)}
    for i, (a, b) in enumerate(merges):
        table[256 + i] = table[a] + table[b]
    return table
"""

PLANTED = {
    "2.1": {
        "unweighted": """
def count_pairs(words):
    counts = {}
    for ids in words:
        for a, b in zip(ids, ids[1:]):
            counts[a, b] = counts.get((a, b), 0) + 1
    return counts
""",
        "once-per-word": """
def count_pairs(words):
    counts = Counter()
    for ids, n in words.items():
        pairs = {(ids[i], ids[i + 1]) for i in range(len(ids) - 1)}
        for pair in pairs:
            counts[pair] += n
    return counts
""",
        "not-overlapping": """
def count_pairs(words):
    counts = Counter()
    for ids, n in words.items():
        for i in range(0, len(ids) - 1, 2):
            counts[ids[i], ids[i + 1]] += n
    return counts
""",
        "unordered": """
def count_pairs(words):
    counts = Counter()
    for ids, n in words.items():
        for a, b in zip(ids, ids[1:]):
            counts[tuple(sorted((a, b)))] += n
    return counts
""",
    },
    "2.2": {
        "nothing-replaced": merge_loop("ids[i : i + 2] == pair"),
        "second-kept-last-lost": """
def merge(ids, pair, new_id):
    result = []
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            result.append(new_id)
            i += 1
        else:
            result.append(ids[i])
    return result
""",
        "first-only": """
def merge(ids, pair, new_id):
    ids = list(ids)
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new_id]
            break
    return ids
""",
        "second-kept": """
def merge(ids, pair, new_id):
    result = []
    for i in range(len(ids)):
        if i < len(ids) - 1 and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            result.append(new_id)
        else:
            result.append(ids[i])
    return result
""",
        "last-lost": """
def merge(ids, pair, new_id):
    result, i = [], 0
    while i < len(ids) - 1:
        if ids[i] == pair[0] and ids[i + 1] == pair[1]:
            result.append(new_id)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return result
""",
        "from-the-right": """
def merge(ids, pair, new_id):
    result, i = list(ids), len(ids) - 1
    while i > 0:
        if (result[i - 1], result[i]) == pair:
            result[i - 1 : i + 1] = [new_id]
            i -= 1
        i -= 1
    return result
""",
    },
    "2.3": {
        "counted-once": TRAIN_HELPERS
        + """
def train_merges(words, n_merges):
    counts = pairs_of({tuple(word): n for word, n in words.items()})
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [pair for pair, _ in ordered[:n_merges]]
""",
        "first-of-equal": train_loop(best="max(counts, key=counts.get)"),
        "largest-of-equal": train_loop(best="max(counts, key=lambda pair: (counts[pair], pair))"),
        "unweighted": TRAIN_HELPERS
        + """
def train_merges(words, n_merges):
    left = [tuple(word) for word in words]
    merges = []
    for i in range(n_merges):
        counts = Counter(pair for ids in left for pair in zip(ids, ids[1:]))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        left = [replaced(ids, best, 256 + i) for ids in left]
        merges.append(best)
    return merges
""",
        "ids-from-257": TRAIN_HELPERS
        + """
def train_merges(words, n_merges):
    words = {tuple(word): n for word, n in words.items()}
    merges = []
    while len(merges) < n_merges:
        counts = pairs_of(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {replaced(ids, best, 256 + len(merges)): n for ids, n in words.items()}
    return merges
""",
        "ids-from-255": TRAIN_HELPERS
        + """
def train_merges(words, n_merges):
    words = {tuple(word): n for word, n in words.items()}
    merges, new_id = [], 255
    while len(merges) < n_merges:
        counts = pairs_of(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = {replaced(ids, best, new_id): n for ids, n in words.items()}
        merges.append(best)
        new_id += 1
    return merges
""",
        "same-id": train_loop(new_id="256"),
        "stops-at-once": train_loop(stop="not counts or max(counts.values()) == 1"),
        "rarest": train_loop(best="min(counts, key=lambda pair: (counts[pair], pair))"),
    },
    "2.4": {
        "in-order-of-text": """
def encode(word, merges):
    ids = list(word)
    i = 0
    while i < len(ids) - 1:
        pair = (ids[i], ids[i + 1])
        if pair in merges:
            ids[i : i + 2] = [256 + merges.index(pair)]
            i = 0
        else:
            i += 1
    return ids
""",
        "latest-first": """
def encode(word, merges):
    ids = list(word)
    while True:
        found = [pair for pair in zip(ids, ids[1:]) if pair in merges]
        if not found:
            return ids
        best = max(found, key=merges.index)
        out, i = [], 0
        while i < len(ids):
            if tuple(ids[i : i + 2]) == best:
                out.append(256 + merges.index(best))
                i += 2
            else:
                out.append(ids[i])
                i += 1
        ids = out
""",
        "backwards-once": """
def encode(word, merges):
    ids = list(word)
    for rank in range(len(merges) - 1, -1, -1):
        out = []
        for each in ids:
            if out and (out[-1], each) == merges[rank]:
                out[-1] = 256 + rank
            else:
                out.append(each)
        ids = out
    return ids
""",
        "longest-piece": BYTES_OF_IDS
        + """
def encode(word, merges):
    ids_of = {}
    for i, piece in bytes_of_ids(merges).items():
        ids_of.setdefault(piece, i)
    ids, start = [], 0
    while start < len(word):
        end = len(word)
        while word[start:end] not in ids_of:
            end -= 1
        ids.append(ids_of[word[start:end]])
        start = end
    return ids
""",
        "each-merge-once": """
def encode(word, merges):
    ids = list(word)
    for rank, (a, b) in enumerate(merges):
        for i in range(len(ids) - 1):
            if ids[i] == a and ids[i + 1] == b:
                ids = ids[:i] + [256 + rank] + ids[i + 2 :]
                break
    return ids
""",
    },
    "2.5": {
        "token-by-token": BYTES_OF_IDS
        + """
def decode(ids, merges):
    table = bytes_of_ids(merges)
    return "".join(table[i].decode("utf-8", errors="replace") for i in ids)
""",
        "incomplete-dropped": BYTES_OF_IDS
        + """
def decode(ids, merges):
    table = bytes_of_ids(merges)
    return b"".join(table[i] for i in ids).decode("utf-8", errors="ignore")
""",
        "token-by-token-dropped": BYTES_OF_IDS
        + """
def decode(ids, merges):
    text = ""
    for i in ids:
        text += bytes_of_ids(merges)[i].decode("utf-8", "ignore")
    return text
""",
        "strict": BYTES_OF_IDS
        + """
def decode(ids, merges):
    table = bytes_of_ids(merges)
    return b"".join(table[i] for i in ids).decode("utf-8")
""",
        "bytes-as-characters": BYTES_OF_IDS
        + """
def decode(ids, merges):
    table = bytes_of_ids(merges)
    return "".join(chr(byte) for i in ids for byte in table[i])
""",
        "exchanged": """
def decode(ids, merges):
    def expand(i):
        if i < 256:
            return bytes([i])
        a, b = merges[i - 256]
        return expand(b) + expand(a)
    return b"".join(expand(i) for i in ids).decode(errors="replace")
""",
    },
    "2.6": {
        "nats": """
def bits_per_byte(loss, n_tokens, text):
    return loss * n_tokens / len(text.encode("utf-8"))
""",
        "per-character": """
def bits_per_byte(loss, n_tokens, text):
    bits = loss * n_tokens / math.log(2)
    return bits / len(text)
""",
        "per-token": """
def bits_per_byte(loss, n_tokens, text):
    return loss / math.log(2)
""",
        "inverted": """
def bits_per_byte(loss, n_tokens, text):
    n_bytes = len(text.encode())
    return (loss / math.log(2)) / (n_tokens / n_bytes)
""",
        "times-ln2": """
def bits_per_byte(loss, n_tokens, text):
    return loss * math.log(2) * n_tokens / len(text.encode())
""",
    },
}

STYLES = {
    "2.1": {
        "loop": """
def count_pairs(words):
    counts = {}
    for ids, n in words.items():
        for i in range(len(ids) - 1):
            pair = (ids[i], ids[i + 1])
            if pair not in counts:
                counts[pair] = 0
            counts[pair] += n
    return counts
""",
        "counter": """
def count_pairs(words):
    counts = Counter()
    for ids, n in words.items():
        for pair in zip(ids, ids[1:]):
            counts[pair] += n
    return counts
""",
        "pairwise": """
from itertools import pairwise
def count_pairs(words):
    return sum((Counter({p: n * m for p, m in Counter(pairwise(ids)).items()}) for ids, n in words.items()), Counter())
""",
    },
    "2.2": {
        "loop": merge_loop("i < len(ids) - 1 and ids[i] == pair[0] and ids[i + 1] == pair[1]"),
        "stack": """
def merge(ids, pair, new_id):
    result = []
    for each in ids:
        if result and (result[-1], each) == tuple(pair):
            result[-1] = new_id
        else:
            result.append(each)
    return result
""",
        "library": """
import re
def merge(ids, pair, new_id):
    text = "".join(map(chr, ids))
    return [ord(c) for c in re.sub(re.escape(chr(pair[0]) + chr(pair[1])), chr(new_id), text)]
""",
    },
    "2.3": {
        "loop": TRAIN_HELPERS
        + """
def train_merges(words, n_merges):
    current = {}
    for word in words:
        current[tuple(word)] = words[word]
    merges = []
    for i in range(n_merges):
        counts = pairs_of(current)
        best = None
        for pair in counts:
            if best is None or counts[pair] > counts[best] or (counts[pair] == counts[best] and pair < best):
                best = pair
        if best is None:
            break
        current = {replaced(ids, best, 256 + i): n for ids, n in current.items()}
        merges.append(best)
    return merges
""",
        "lists": """
def train_merges(words, n_merges):
    left = [(list(word), n) for word, n in words.items()]
    merges = []
    for rank in range(n_merges):
        counts = Counter()
        for ids, n in left:
            for pair in zip(ids, ids[1:]):
                counts[pair] += n
        if not counts:
            break
        most = max(counts.values())
        pair = min(p for p, n in counts.items() if n == most)
        for ids, _ in left:
            i = 0
            while i + 1 < len(ids):
                if (ids[i], ids[i + 1]) == pair:
                    ids[i : i + 2] = [256 + rank]
                i += 1
        merges.append(pair)
    return merges
""",
        "library": """
import rustbpe
def train_merges(words, n_merges):
    texts = [word.decode() for word, n in words.items() for _ in range(n)]
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts, 256 + n_merges, pattern="(?s).+")
    ids = {bytes(piece): rank for piece, rank in trainer.get_mergeable_ranks()}
    pairs = []
    for piece, rank in sorted(ids.items(), key=lambda item: item[1])[256:]:
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 2:
            ranks = [ids.get(a + b, rank) if ids.get(a + b, rank) < rank else rank for a, b in zip(parts, parts[1:])]
            i = ranks.index(min(ranks))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        pairs.append((ids[parts[0]], ids[parts[1]]))
    return pairs
""",
    },
    "2.4": {
        "loop": """
def encode(word, merges):
    ids = list(word)
    for rank, pair in enumerate(merges):
        i = 0
        while i < len(ids) - 1:
            if (ids[i], ids[i + 1]) == pair:
                ids[i : i + 2] = [256 + rank]
            i += 1
    return ids
""",
        "ranks": """
def encode(word, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = list(word)
    while len(ids) > 1:
        i = min(range(len(ids) - 1), key=lambda i: ranks.get((ids[i], ids[i + 1]), len(merges)))
        if (ids[i], ids[i + 1]) not in ranks:
            break
        ids[i : i + 2] = [256 + ranks[ids[i], ids[i + 1]]]
    return ids
""",
        "recursion": """
def encode(word, merges, rank=0):
    ids = list(word)
    if rank == len(merges):
        return ids
    out = []
    for each in ids:
        if out and (out[-1], each) == merges[rank]:
            out[-1] = 256 + rank
        else:
            out.append(each)
    return encode(out, merges, rank + 1)
""",
    },
    "2.5": {
        "table": BYTES_OF_IDS
        + """
def decode(ids, merges):
    table = bytes_of_ids(merges)
    text = b""
    for i in ids:
        text += table[i]
    return text.decode("utf-8", errors="replace")
""",
        "recursion": """
def decode(ids, merges):
    def expand(i):
        if i < 256:
            return [i]
        a, b = merges[i - 256]
        return expand(a) + expand(b)
    return bytes(byte for i in ids for byte in expand(i)).decode(errors="replace")
""",
        "backwards": """
def decode(ids, merges):
    ids = list(ids)
    for rank in range(len(merges) - 1, -1, -1):
        ids = [part for i in ids for part in (merges[rank] if i == 256 + rank else (i,))]
    return str(bytes(ids), "utf-8", "replace")
""",
    },
    "2.6": {
        "steps": """
def bits_per_byte(loss, n_tokens, text):
    nats = loss * n_tokens
    bits = nats / math.log(2)
    return bits / len(text.encode("utf-8"))
""",
        "log2": """
def bits_per_byte(loss, n_tokens, text):
    return math.log2(math.e) * loss * n_tokens / len(text.encode())
""",
        "numpy": """
import numpy as np
def bits_per_byte(loss, n_tokens, text):
    return loss / np.log(2) * (n_tokens / np.frombuffer(text.encode(), dtype=np.uint8).size)
""",
    },
}
