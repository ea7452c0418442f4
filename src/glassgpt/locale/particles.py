"""Korean particles whose form depends on the sound before them: `3을(를)` becomes `3을`, `2을(를)` becomes `2를`."""

from __future__ import annotations

import re

PARTICLES = {
    "을(를)": ("을", "를"), "이(가)": ("이", "가"), "은(는)": ("은", "는"), "과(와)": ("과", "와"),
    "(으)로": ("으로", "로"), "(이)라": ("이라", "라"), "(이)며": ("이며", "며"), "(이)고": ("이고", "고"), "(이)지만": ("이지만", "지만"),
}  # fmt: skip
"""The notation with both forms, then the form after a final consonant and the one after a vowel."""
PATTERN = re.compile("|".join(re.escape(each) for each in PARTICLES))
SYLLABLES, FINALS, FINAL_RIEUL = range(0xAC00, 0xD7A4), 28, 8
DIGIT_FINALS = {"0": "ㅇ", "1": "ㄹ", "3": "ㅁ", "6": "ㄱ", "7": "ㄹ", "8": "ㄹ"}
"""Digits read with a final consonant: 영, 일, 삼, 육, 칠, 팔. Larger numbers end in 십, 백, 천, 만 or 억: in one, too."""
LETTER_FINALS = {"l": "ㄹ", "m": "ㅁ", "n": "ㄴ"}
"""Last letters of English words and abbreviations that are pronounced as a final consonant."""
SILENT = re.compile(r"(?:ne|le|me)$", re.IGNORECASE)
STOPS = re.compile(r"(?:(?<![a-z])|[^aeiou])?[aeiou](?:p|b|k|ck|c|t)$", re.IGNORECASE)
"""A short vowel before a stop, as in `map`: Korean ends such a syllable in a consonant."""


def final_consonant(text: str) -> str:
    """Return the consonant that a text ends in when it is pronounced in Korean, or "" after a vowel. A remark in brackets is skipped."""
    word = re.sub(r"(?:\s*\([^()]*\))?[^0-9A-Za-z가-힣]*$", "", text)
    if not word:
        return ""
    last = word[-1]
    if ord(last) in SYLLABLES:
        final = (ord(last) - SYLLABLES.start) % FINALS
        return "" if final == 0 else "ㄹ" if final == FINAL_RIEUL else "ㄱ"
    if last.isdigit():
        return DIGIT_FINALS.get(last, "")
    latin = re.split(r"[^A-Za-z]", word)[-1]
    if silent := SILENT.search(latin):
        return LETTER_FINALS[silent[0][0].lower()]
    if latin.lower().endswith("ng"):
        return "ㅇ"
    if latin.islower() and STOPS.search(latin):
        return "ㄱ"
    return LETTER_FINALS.get(last.lower(), "")


def choose_particles(text: str) -> str:
    """Replace each particle that is written with both forms by the form that fits the word before it."""

    def chosen(match: re.Match[str]) -> str:
        final = final_consonant(text[max(0, match.start() - 40) : match.start()])
        after_consonant, after_vowel = PARTICLES[match[0]]
        if match[0] == "(으)로":
            return after_consonant if final not in ("", "ㄹ") else after_vowel
        return after_consonant if final else after_vowel

    return PATTERN.sub(chosen, text)
