"""Prompts of ours, and the instructions that can be added to them or to a reply by construction.

The kinds of instructions are IFEval's; the words are ours, and no prompt of IFEval is used (`replies.py` checks it).
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from topics import ABOUT_TERMS, ABOUT_TITLES, LANGUAGES, OPTIONS, TASKS, TOPICS, YES_NO
from word_rewrites import ADDABLE, LAST, REWRITES, keywords


def pools(topics_file: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the plain prompts by source, each with its topic."""
    data = json.loads(topics_file.read_text()) if topics_file.is_file() else {"titles": [], "terms": []}
    tasks = [(task.format(topic), topic) for task in TASKS for topic in TOPICS]
    titles = [(form.format(title), title) for title in data["titles"] for form in ABOUT_TITLES]
    terms = [(form.format(term), term) for term in data["terms"] for form in ABOUT_TERMS]
    return {"tasks": tasks, "titles": titles, "terms": terms}


def two_kinds(rng: random.Random) -> list:
    """Return a rewrite that adds something and one of the whole text, in this order."""
    return [rng.choice(sorted(kinds, key=lambda each: each.__name__)) for kinds in (ADDABLE, LAST)]


def repeated(prompt: str, rng: random.Random) -> tuple[str, dict]:
    """Return a prompt that asks to be repeated, and the arguments of the check."""
    form = rng.choice(
        [
            "{}\n\nFirst repeat the request above word for word, then give your answer.",
            "First, repeat the request below without any change; after that, answer it.\n\n{}",
            "{} Before you answer, say this request again exactly as it is. Do not repeat this sentence.",
        ]
    )
    return form.format(prompt), {"prompt_to_repeat": prompt}


def joined(prompt: str, words: list[str], rng: random.Random) -> str:
    """Return a prompt with its instructions."""
    text = " ".join(words)
    return rng.choice(
        [f"{prompt} {text}", f"{prompt} {text}", f"{prompt}\n{text}", f"{prompt}\n\n{text}", f"{text} {prompt}"]
    )


def instructed(prompt: str, topic: str, rng: random.Random, count: int) -> tuple[str, list[tuple[str, dict]]]:
    """Return a prompt with instructions that are chosen before there is a reply, and their ids and arguments."""
    # A stand-in text gives each rewrite something to choose its arguments by; its reply is not used.
    stand_in = " ".join(
        [
            f"This is a longer text about {topic} and what people think of it. It has several sentences, and each of them says something. Some readers like it. Others ask for more details about the matter."
        ]
        * rng.randint(1, 2)
    )
    context = {"prompt": prompt, "topic": topic, "other": "Another answer."}
    # Keywords of the stand-in would be arbitrary.
    chosen = [each for each in (two_kinds(rng) if count > 1 else rng.sample(list(REWRITES), 1)) if each is not keywords]
    words, checks = [], []
    for rewrite in chosen:
        made = rewrite(stand_in, rng, context)
        if made is not None:
            words.append(made[1])
            checks.append((made[2], made[3]))
    return (joined(prompt, words, rng), checks) if checks else (prompt, [])


def in_language(prompt: str, rng: random.Random) -> tuple[str, list[tuple[str, dict]]]:
    code, name = rng.choice(sorted(LANGUAGES.items()))
    return rng.choice(
        [
            f"{prompt} Answer in {name}.",
            f"{prompt} Your whole reply must be in {name}, no other language is allowed.",
            f"Reply only in {name}. {prompt}",
        ]
    ), [("language:response_language", {"language": code})]


def constrained(topic: str, rng: random.Random) -> tuple[str, list[tuple[str, dict]]]:
    question = rng.choice(YES_NO).format(topic)
    listed = " / ".join(f"'{option}'" for option in OPTIONS)
    return rng.choice(
        [
            f"{question} Answer with one of: {listed}",
            f"{question} Choose one of these replies: {listed}",
            f"{question} You may only say {', '.join(OPTIONS[:2])} or {OPTIONS[2]}",
        ]
    ), [("detectable_format:constrained_response", {})]
