"""Functions of lesson 0 as students write them: with each mistake, and right in three styles."""

PLANTED = {
    "0.1": {
        "reversed": """
def count_next(text):
    counts = {}
    for i in range(1, len(text)):
        counts.setdefault(text[i], {})
        counts[text[i]][text[i - 1]] = counts[text[i]].get(text[i - 1], 0) + 1
    return counts
""",
        "every-second-pair": """
def count_next(text):
    counts = {}
    for a, b in zip(text[::2], text[1::2]):
        if a not in counts:
            counts[a] = {}
        counts[a][b] = counts[a].get(b, 0) + 1
    return counts
""",
        "presence": """
def count_next(text):
    counts = {}
    for a, b in zip(text, text[1:]):
        counts.setdefault(a, {})[b] = 1
    return counts
""",
        "last-pair-missing": """
def count_next(text):
    counts = {}
    for i in range(len(text) - 2):
        row = counts.setdefault(text[i], {})
        row[text[i + 1]] = row.get(text[i + 1], 0) + 1
    return counts
""",
    },
    "0.2": {
        "total-without-add": """
def to_probabilities(counts, alphabet, add):
    total = sum(counts.values())
    return {c: (counts.get(c, 0) + add) / total for c in alphabet}
""",
        "add-once": """
def to_probabilities(counts, alphabet, add):
    result = {}
    for c in alphabet:
        result[c] = (counts.get(c, 0) + add) / (sum(counts.values()) + add)
    return result
""",
        "nothing-added": """
def to_probabilities(counts, alphabet, add):
    total = sum(counts.values())
    return {c: counts.get(c, 0) / total for c in alphabet}
""",
        "seen-only": """
def to_probabilities(counts, alphabet, add):
    more = {c: n + add for c, n in counts.items()}
    total = sum(more.values())
    return {c: n / total for c, n in more.items()}
""",
    },
    "0.3": {
        "single-probability-or-none": """
def draw(probabilities, u):
    for i, p in enumerate(probabilities):
        if u < p:
            return i
""",
        "most-probable": """
def draw(probabilities, u):
    best = 0
    for i, p in enumerate(probabilities):
        if p > probabilities[best]:
            best = i
    return best
""",
        "single-probability": """
def draw(probabilities, u):
    for i, p in enumerate(probabilities):
        if u < p:
            return i
    return len(probabilities) - 1
""",
        "one-too-far": """
def draw(probabilities, u):
    end, i = 0.0, 0
    for p in probabilities:
        end += p
        i += 1
        if u < end:
            return i
    return len(probabilities)
""",
        "all-equal": """
def draw(probabilities, u):
    return int(u * len(probabilities))
""",
    },
    "0.4": {
        "whole-text": """
def write(start, length, next_character):
    text = start
    while len(text) < len(start) + length:
        text = text + next_character(text)
    return text
""",
        "from-the-start": """
def write(start, length, next_character):
    text = start
    for _ in range(length):
        text = text + next_character(start[-1])
    return text
""",
        "from-the-first": """
def write(start, length, next_character):
    text = start
    for _ in range(length):
        text += next_character(text[0])
    return text
""",
        "start-missing": """
def write(start, length, next_character):
    result, last = "", start[-1]
    for _ in range(length):
        last = next_character(last)
        result += last
    return result
""",
        "length-with-start": """
def write(start, length, next_character):
    text = start
    while len(text) < length:
        text += next_character(text[-1])
    return text
""",
    },
    "0.5": {
        "sum": """
import math
def average_loss(text, rows):
    loss = 0.0
    for a, b in zip(text, text[1:]):
        loss -= math.log(rows[a][b])
    return loss
""",
        "by-characters": """
import math
def average_loss(text, rows):
    loss = 0.0
    for i in range(len(text) - 1):
        loss += -math.log(rows[text[i]][text[i + 1]])
    return loss / len(text)
""",
        "bits": """
import math
def average_loss(text, rows):
    losses = [-math.log2(rows[a][b]) for a, b in zip(text, text[1:])]
    return sum(losses) / len(losses)
""",
        "log-of-mean": """
import math
def average_loss(text, rows):
    total = 0
    for a, b in zip(text, text[1:]):
        total += rows[a][b]
    return -math.log(total / (len(text) - 1))
""",
        "sign": """
import math
def average_loss(text, rows):
    losses = [math.log(rows[a][b]) for a, b in zip(text, text[1:])]
    return sum(losses) / len(losses)
""",
        "backwards": """
import math
def average_loss(text, rows):
    losses = [-math.log(rows[b][a]) for a, b in zip(text, text[1:])]
    return sum(losses) / len(losses)
""",
    },
}

STYLES = {
    "0.1": {
        "loop": """
def count_next(text):
    counts = {}
    for i in range(len(text) - 1):
        a, b = text[i], text[i + 1]
        if a not in counts:
            counts[a] = {}
        if b not in counts[a]:
            counts[a][b] = 0
        counts[a][b] += 1
    return counts
""",
        "defaultdict": """
from collections import Counter, defaultdict
def count_next(text):
    counts = defaultdict(Counter)
    for a, b in zip(text, text[1:]):
        counts[a][b] += 1
    return counts
""",
        "counter": """
from collections import Counter
from itertools import pairwise
def count_next(text):
    pairs = Counter(pairwise(text))
    return {a: {b: n for (c, b), n in pairs.items() if c == a} for a, _ in pairs}
""",
    },
    "0.2": {
        "loop": """
def to_probabilities(counts, alphabet, add):
    more = {}
    for c in alphabet:
        more[c] = add
        if c in counts:
            more[c] += counts[c]
    total = sum(more.values())
    for c in more:
        more[c] /= total
    return more
""",
        "comprehension": """
def to_probabilities(counts, alphabet, add):
    total = sum(counts.get(c, 0) + add for c in alphabet)
    return {c: (counts.get(c, 0) + add) / total for c in alphabet}
""",
        "numpy": """
import numpy as np
def to_probabilities(counts, alphabet, add):
    values = np.array([counts.get(c, 0) for c in alphabet]) + add
    return dict(zip(alphabet, values / values.sum()))
""",
    },
    "0.3": {
        "loop": """
def draw(probabilities, u):
    i = 0
    while i < len(probabilities) - 1 and u >= probabilities[i]:
        u = u - probabilities[i]
        i = i + 1
    return i
""",
        "accumulate": """
from bisect import bisect_right
from itertools import accumulate
def draw(probabilities, u):
    return bisect_right(list(accumulate(probabilities)), u)
""",
        "numpy": """
import numpy as np
def draw(probabilities, u):
    return int(np.searchsorted(np.cumsum(probabilities), u, side="right"))
""",
    },
    "0.4": {
        "loop": """
def write(start, length, next_character):
    text = start
    for i in range(length):
        text = text + next_character(text[-1])
    return text
""",
        "list": """
def write(start, length, next_character):
    characters = list(start)
    while len(characters) < len(start) + length:
        characters.append(next_character(characters[-1]))
    return "".join(characters)
""",
        "recursion": """
def write(start, length, next_character):
    if length == 0:
        return start
    return write(start + next_character(start[-1]), length - 1, next_character)
""",
    },
    "0.5": {
        "loop": """
import math
def average_loss(text, rows):
    total = 0.0
    for i in range(1, len(text)):
        total -= math.log(rows[text[i - 1]][text[i]])
    return total / (len(text) - 1)
""",
        "statistics": """
import math
from statistics import fmean
def average_loss(text, rows):
    return fmean(-math.log(rows[a][b]) for a, b in zip(text, text[1:]))
""",
        "numpy": """
import numpy as np
def average_loss(text, rows):
    return -np.log([rows[a][b] for a, b in zip(text, text[1:])]).mean()
""",
    },
}
