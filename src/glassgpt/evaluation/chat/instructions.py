"""The instructions of IFEval that a program can check (Zhou et al. 2023): one function each, named in `CHECKS`.

A function takes the reply and the arguments that the benchmark's file gives, by their names there, and returns whether
the reply follows the instruction. The rules are those of the benchmark, also where they are lenient (a keyword is found
inside another word, forbidden ones are not). Free of torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

from glassgpt.evaluation.chat.languages import is_language
from glassgpt.evaluation.chat.word_counts import count_capital_words, count_sentences, count_words

Relation = Literal["less than", "at least"]
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
PUNCTUATION = ".,?!'\""


def _holds(count: int, relation: Relation, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def includes_keywords(reply: str, *, keywords: tuple[str, ...]) -> bool:
    """Return whether every keyword occurs, ignoring case, also inside words."""
    return all(keyword.lower() in reply.lower() for keyword in keywords)


def keyword_frequency(reply: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """Return whether a keyword occurs often or rarely enough, ignoring case, also inside words."""
    return _holds(reply.lower().count(keyword.strip().lower()), relation, frequency)


def avoids_words(reply: str, *, forbidden_words: tuple[str, ...]) -> bool:
    """Return whether none of the words occurs as a whole word, ignoring case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(reply: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """Return whether a character occurs often or rarely enough, ignoring case."""
    return _holds(reply.lower().count(letter.strip().lower()), let_relation, let_frequency)


def language(reply: str, *, language: str) -> bool:
    """Return whether the reply is in a language, given by its ISO 639-1 code."""
    return is_language(reply, language)


def number_of_sentences(reply: str, *, num_sentences: int, relation: Relation) -> bool:
    """Return whether the reply has enough, or few enough, sentences."""
    return _holds(count_sentences(reply), relation, num_sentences)


def number_of_words(reply: str, *, num_words: int, relation: Relation) -> bool:
    """Return whether the reply has enough, or few enough, words."""
    return _holds(count_words(reply), relation, num_words)


def number_of_paragraphs(reply: str, *, num_paragraphs: int) -> bool:
    """Return whether `***` divides the reply into this many paragraphs; the first and the last may be empty and don't count."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", reply)]
    inner = parts[1:-1]
    return all(inner) and sum(map(bool, parts)) == num_paragraphs


def first_word_of_paragraph(reply: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Return whether blank lines divide the reply into this many paragraphs, and a word begins one of them."""
    parts = [part.strip() for part in reply.split("\n\n")]
    count = sum(map(bool, parts))
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(f"[{re.escape(PUNCTUATION)}]", word)[0].lower() == first_word.lower()


def number_of_placeholders(reply: str, *, num_placeholders: int) -> bool:
    """Return whether the reply has at least this many placeholders such as [name]."""
    return len(re.findall(r"\[[^\n]*?\]", reply)) >= num_placeholders


def postscript(reply: str, *, postscript_marker: str) -> bool:
    """Return whether the reply has a postscript; P.P.S may be written with spaces."""
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return re.search(patterns.get(marker, re.escape(marker.lower())), reply.lower()) is not None


def number_of_bullets(reply: str, *, num_bullets: int) -> bool:
    """Return whether exactly this many lines begin with `-`, or with one `*` and something after it."""
    lines = [line.lstrip() for line in reply.split("\n")]
    return sum(line.startswith("-") or re.match(r"\*[^*]", line) is not None for line in lines) == num_bullets


def one_of_the_options(reply: str) -> bool:
    """Return whether the reply contains one of the three answers that the prompt allows."""
    return any(option in reply for option in OPTIONS)


def number_of_highlights(reply: str, *, num_highlights: int) -> bool:
    """Return whether at least this many passages are *highlighted* or **highlighted**."""
    single, double = (re.findall(pattern, reply) for pattern in (r"\*([^\n*]*)\*", r"\*\*([^\n*]*)\*\*"))
    return sum(bool(passage.strip()) for passage in single + double) >= num_highlights


def number_of_sections(reply: str, *, section_spliter: str, num_sections: int) -> bool:
    """Return whether the reply has at least this many headings such as `SECTION 1`."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", reply)) >= num_sections


def is_json(reply: str) -> bool:
    """Return whether the whole reply is JSON, in a code block or not."""
    text = reply.strip()
    fence = next((mark for mark in ("```json", "```Json", "```JSON", "```") if text.startswith(mark)), "")
    try:
        json.loads(text.removeprefix(fence).removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(reply: str) -> bool:
    """Return whether the reply has a title in <<double angular brackets>>."""
    return any(title.strip("<> \t") for title in re.findall(r"<<([^\n]+)>>", reply))


def two_responses(reply: str) -> bool:
    """Return whether six asterisks divide the reply into two different answers."""
    parts = [part.strip() for part in reply.split("******")]
    answers = [part for part in parts if part]
    return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]


def repeats_prompt(reply: str, *, prompt_to_repeat: str) -> bool:
    """Return whether the reply begins with the request, ignoring case."""
    return reply.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(reply: str, *, end_phrase: str) -> bool:
    """Return whether the reply ends with a phrase, ignoring case and quotation marks around the reply."""
    return reply.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def in_quotation_marks(reply: str) -> bool:
    """Return whether the whole reply is in double quotation marks."""
    text = reply.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(reply: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """Return whether enough, or few enough, words are in capital letters."""
    return _holds(count_capital_words(reply), capital_relation, capital_frequency)


def capital_english(reply: str) -> bool:
    """Return whether the reply is English in capital letters."""
    return reply.isupper() and is_language(reply, "en")


def lowercase_english(reply: str) -> bool:
    """Return whether the reply is English in small letters."""
    return reply.islower() and is_language(reply, "en")


def no_comma(reply: str) -> bool:
    """Return whether the reply has no comma."""
    return "," not in reply


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": includes_keywords,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": avoids_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": language,
    "length_constraints:number_sentences": number_of_sentences,
    "length_constraints:number_paragraphs": number_of_paragraphs,
    "length_constraints:number_words": number_of_words,
    "length_constraints:nth_paragraph_first_word": first_word_of_paragraph,
    "detectable_content:number_placeholders": number_of_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_of_bullets,
    "detectable_format:constrained_response": one_of_the_options,
    "detectable_format:number_highlighted_sections": number_of_highlights,
    "detectable_format:multiple_sections": number_of_sections,
    "detectable_format:json_format": is_json,
    "detectable_format:title": has_title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeats_prompt,
    "startend:end_checker": ends_with,
    "startend:quotation": in_quotation_marks,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": capital_english,
    "change_case:english_lowercase": lowercase_english,
    "punctuation:no_comma": no_comma,
}
"""Every kind of instruction in the benchmark's file, by its id there."""
