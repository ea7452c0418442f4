"""Instructions about the words of a reply, each with a rewrite of the reply that follows it; and the list of all rewrites."""

from __future__ import annotations

import re

from rewrites import (
    as_json,
    asked,
    bullets,
    ending,
    first_word,
    highlights,
    lowercase,
    no_comma,
    placeholders,
    postscript,
    quotation,
    sections,
    starred_paragraphs,
    title,
    two_responses,
    uppercase,
)

COMMON = [
    "good",
    "people",
    "time",
    "important",
    "different",
    "world",
    "life",
    "work",
    "help",
    "water",
    "best",
    "learn",
    "great",
    "many",
    "small",
    "need",
    "way",
    "day",
    "use",
    "make",
]
WORD = re.compile(r"[A-Za-z]{4,}")


def _words(reply, rng, count):
    found = sorted({word.lower() for word in WORD.findall(reply)})
    return rng.sample(found, count) if len(found) >= count else None


def keywords(reply, rng, context):
    words = _words(reply, rng, rng.choice([1, 2, 2, 3]))
    if not words:
        return None
    listed = " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"
    return asked(
        rng,
        reply,
        "keywords:existence",
        {"keywords": words},
        f"Include the keyword{'s' * (len(words) > 1)} {listed}.",
        f"Use the word{'s' * (len(words) > 1)} {listed} in your answer.",
        f"Make sure that {listed} appear{'s' * (len(words) == 1)} in it.",
    )


def keyword_count(reply, rng, context):
    words = [word.lower() for word in WORD.findall(reply)]
    repeated = sorted({word for word in words if reply.lower().count(word) >= 2})
    if not repeated or rng.random() < 0.3:
        word, most = rng.choice(COMMON), rng.choice([2, 3, 4])
        return asked(
            rng,
            reply,
            "keywords:frequency",
            {"keyword": word, "frequency": most, "relation": "less than"},
            f"Use the word {word} less than {most} times.",
            f"The word {word} should appear fewer than {most} times.",
        )
    word = rng.choice(repeated)
    count = min(reply.lower().count(word), rng.choice([2, 2, 3, 4]))
    return asked(
        rng,
        reply,
        "keywords:frequency",
        {"keyword": word, "frequency": count, "relation": "at least"},
        f"Use the word {word} at least {count} times.",
        f"The word {word} must appear at least {count} times.",
    )


def forbidden(reply, rng, context):
    absent = [
        word for word in COMMON + context.get("near", []) if not re.search(rf"\b{re.escape(word)}\b", reply, re.I)
    ]
    if len(absent) < 2:
        return None
    words = rng.sample(absent, rng.choice([1, 2, 2, 3]) if len(absent) > 2 else 1)
    listed = " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"
    return asked(
        rng,
        reply,
        "keywords:forbidden_words",
        {"forbidden_words": words},
        f"Do not use the word{'s' * (len(words) > 1)} {listed}.",
        f"Avoid saying {listed}.",
        f"Your answer must not contain {listed}.",
    )


def letters(reply, rng, context):
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    count = reply.lower().count(letter)
    if count >= 2 and rng.random() < 0.6:
        least = max(1, min(count, rng.randint(1, 8)))
        return asked(
            rng,
            reply,
            "keywords:letter_frequency",
            {"letter": letter, "let_frequency": least, "let_relation": "at least"},
            f"The letter {letter} should appear at least {least} times.",
            f"Use the letter {letter} at least {least} times.",
        )
    most = count + rng.randint(1, 5)
    return asked(
        rng,
        reply,
        "keywords:letter_frequency",
        {"letter": letter, "let_frequency": most, "let_relation": "less than"},
        f"The letter {letter} should appear less than {most} times.",
        f"Use the letter {letter} fewer than {most} times.",
    )


def sentence_count(reply, rng, context):
    from glassgpt.evaluation.chat.word_counts import count_sentences

    count = count_sentences(reply)
    if rng.random() < 0.5 and count >= 2:
        least = max(2, count - rng.randint(0, 2))
        return asked(
            rng,
            reply,
            "length_constraints:number_sentences",
            {"num_sentences": least, "relation": "at least"},
            f"Write at least {least} sentences.",
            f"Your answer should have {least} or more sentences.",
        )
    most = count + rng.randint(1, 3)
    return asked(
        rng,
        reply,
        "length_constraints:number_sentences",
        {"num_sentences": most, "relation": "less than"},
        f"Write less than {most} sentences.",
        f"Use fewer than {most} sentences.",
    )


def word_count(reply, rng, context):
    from glassgpt.evaluation.chat.word_counts import count_words

    count = count_words(reply)
    if rng.random() < 0.6 and count >= 25:
        least = max(10, (count - rng.randint(0, 20)) // 10 * 10)
        return asked(
            rng,
            reply,
            "length_constraints:number_words",
            {"num_words": least, "relation": "at least"},
            f"Write at least {least} words.",
            f"Your answer should have {least}+ words.",
            f"It must be {least} words or longer.",
        )
    most = (count + rng.randint(10, 40)) // 10 * 10
    return asked(
        rng,
        reply,
        "length_constraints:number_words",
        {"num_words": most, "relation": "less than"},
        f"Write less than {most} words.",
        f"Keep it under {most} words.",
        f"Use fewer than {most} words.",
    )


def capital_words(reply, rng, context):
    from glassgpt.evaluation.chat.word_counts import count_capital_words

    count = count_capital_words(reply)
    if rng.random() < 0.4:
        most = count + rng.randint(1, 4)
        return asked(
            rng,
            reply,
            "change_case:capital_word_frequency",
            {"capital_frequency": most, "capital_relation": "less than"},
            f"Use less than {most} words in all capital letters.",
            f"Words in capital letters should appear fewer than {most} times.",
        )
    matches = list(re.finditer(r"\b[a-z]{5,}\b", reply))
    wanted = rng.randint(1, 4)
    if len(matches) < wanted:
        return None
    for match in sorted(rng.sample(matches, wanted), key=lambda each: -each.start()):
        reply = reply[: match.start()] + match.group().upper() + reply[match.end() :]
    return asked(
        rng,
        reply,
        "change_case:capital_word_frequency",
        {"capital_frequency": wanted, "capital_relation": "at least"},
        f"Use at least {wanted} words in all capital letters.",
        f"Write at least {wanted} words in capitals for emphasis.",
    )


REWRITES = {  # with their weights: those that the base hardly follows count more
    lowercase: 4, uppercase: 3, no_comma: 4, quotation: 4, title: 4, postscript: 3, ending: 3, highlights: 4, bullets: 4, sections: 2,
    starred_paragraphs: 3, first_word: 2, placeholders: 3, as_json: 3, two_responses: 3, keywords: 3, keyword_count: 3, forbidden: 3, letters: 2,
    sentence_count: 3, word_count: 4, capital_words: 2,
}  # fmt: skip
LAST = {lowercase, uppercase, no_comma, quotation, as_json}
"""Rewrites of the whole text, which come after an additional one."""
ADDABLE = {title, postscript, ending, placeholders, keywords, forbidden, word_count, sentence_count, highlights}
