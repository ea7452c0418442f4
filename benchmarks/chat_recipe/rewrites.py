"""Instructions about the form of a reply, each with a rewrite of the reply that follows it."""

from __future__ import annotations

import json
import re
from itertools import pairwise

END_PHRASES = [
    "That is all for today.",
    "Let me know what you think.",
    "Thank you for reading.",
    "Is there anything else I can help with?",
    "I hope this helps.",
    "The end.",
    "Stay curious!",
    "Any other questions?",
]
POSTSCRIPTS = [
    "I would be glad to tell you more.",
    "Write to me if anything is unclear.",
    "Keep this note for later.",
    "The best part comes when you try it yourself.",
    "Thank you for your patience.",
]
PLACEHOLDERS = ["name", "address", "date", "phone number", "email", "city", "company", "time", "place", "title"]
HEADS = ["SECTION", "Section", "PARAGRAPH", "Part", "Day", "Chapter"]
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*])")


def sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.split(" ".join(text.split())) if part.strip()]


def _groups(parts: list[str], count: int) -> list[str]:
    """Join parts to `count` groups of nearly equal size, in order."""
    edges = [round(at * len(parts) / count) for at in range(count + 1)]
    return [" ".join(parts[a:b]) for a, b in pairwise(edges)]


# Each rewrite takes (reply, rng, context) and returns (reply, words of the instruction, id, arguments), or None if it does not suit.
# context: {"prompt", "topic", "other": another reply to the same prompt or ""}.


def asked(rng, reply, name, arguments, *wordings):
    """Return a reply, one of the wordings of its instruction, and the id and arguments of the check."""
    return reply, rng.choice(wordings), name, arguments


def lowercase(reply, rng, context):
    return asked(
        rng,
        reply.lower(),
        "change_case:english_lowercase",
        {},
        "Use small letters only.",
        "Write everything in lowercase, in English.",
        "Please answer in English without a single capital letter.",
        "No capital letters, please.",
        "Your answer should be in all lowercase letters.",
    )


def uppercase(reply, rng, context):
    if len(reply.split()) > 90:
        return None
    return asked(
        rng,
        reply.upper(),
        "change_case:english_capital",
        {},
        "USE CAPITAL LETTERS ONLY.",
        "Write in English and in capital letters only.",
        "Everything should be in uppercase.",
        "Answer in all capital letters, in English.",
    )


def no_comma(reply, rng, context):
    text = re.sub(r",(?=\d{3})", "", reply).replace(",", "")
    return asked(
        rng,
        text,
        "punctuation:no_comma",
        {},
        "Do not use commas.",
        "Avoid commas.",
        "Write without any commas.",
        "Your reply must not contain a comma.",
        "Commas are not allowed.",
    )


def quotation(reply, rng, context):
    return asked(
        rng,
        '"' + reply.replace('"', "'") + '"',
        "startend:quotation",
        {},
        "Put your whole answer in double quotation marks.",
        "Wrap the entire reply in double quotes.",
        "Begin and end the response with a double quotation mark.",
        "Enclose everything that you write in double quotation marks.",
    )


def title(reply, rng, context):
    words = context["topic"].strip(".?!").split()[:8]
    name = " ".join(word if word.isupper() else word.capitalize() for word in words)
    return asked(
        rng,
        f"<<{name}>>\n\n{reply}",
        "detectable_format:title",
        {},
        "Give it a title in double angular brackets, such as <<my title>>.",
        "Add a title wrapped in <<double angular brackets>>.",
        "Your answer needs a title, written like <<this>>.",
        "It must have a title inside double angle brackets, i.e. <<title>>.",
    )


def postscript(reply, rng, context):
    marker = rng.choice(["P.S.", "P.S.", "P.P.S"])
    said = rng.choice(POSTSCRIPTS)
    return asked(
        rng,
        f"{reply}\n\n{marker} {said}",
        "detectable_content:postscript",
        {"postscript_marker": marker},
        f"Add a postscript at the end that starts with {marker}",
        f"Finish with a postscript beginning with {marker}",
        f"At the end, please write a postscript starting with {marker}",
    )


def ending(reply, rng, context):
    phrase = rng.choice(END_PHRASES)
    return asked(
        rng,
        f"{reply}\n\n{phrase}" if rng.random() < 0.5 else f"{reply} {phrase}",
        "startend:end_checker",
        {"end_phrase": phrase},
        f'Finish your answer with exactly this phrase: "{phrase}" Nothing may follow it.',
        f"The very last words must be: {phrase}",
        f"End your reply with the exact words {phrase}",
        f"Your last sentence should be: {phrase} Write no more after it.",
    )


def highlights(reply, rng, context):
    words = list(re.finditer(r"\b[A-Za-z]{4,}(?: [A-Za-z]{3,}){1,3}\b", reply))
    count = rng.choice([1, 2, 2, 3, 3, 4])
    if len(words) < count or "*" in reply:
        return None
    for match in sorted(rng.sample(words, count), key=lambda each: -each.start()):
        reply = f"{reply[: match.start()]}*{match.group()}*{reply[match.end() :]}"
    return asked(
        rng,
        reply,
        "detectable_format:number_highlighted_sections",
        {"num_highlights": count},
        f"Highlight at least {count} passages with markdown, i.e. *like this*.",
        f"Mark at least {count} parts of your answer with asterisks, such as *this part*.",
        f"Emphasize {count} or more phrases with markdown, like *highlighted phrase*.",
    )


def bullets(reply, rng, context):
    parts = [re.sub(r"^(?:[-*•]|\d+[.)])\s*", "", part) for part in sentences(reply)]
    parts = [part for part in parts if len(part) > 8 and not part.startswith(("-", "*"))]
    if not 2 <= len(parts) <= 12 or "*" in reply or "\n-" in reply:
        return None
    count = rng.randint(2, min(6, len(parts)))
    mark = rng.choice("-*")
    return asked(
        rng,
        "\n".join(f"{mark} {part}" for part in _groups(parts, count)),
        "detectable_format:number_bullet_lists",
        {"num_bullets": count},
        f"Answer in exactly {count} bullet points, each starting with '{mark} '.",
        f"Your answer must contain exactly {count} markdown bullet points such as: {mark} This is a point.",
        f"Use {count} bullet points ({mark}), no more and no fewer.",
    )


def sections(reply, rng, context):
    parts = sentences(reply)
    if not 3 <= len(parts) <= 16:
        return None
    count, head = rng.randint(2, min(5, len(parts))), rng.choice(HEADS)
    return asked(
        rng,
        "\n\n".join(f"{head} {at}\n{part}" for at, part in enumerate(_groups(parts, count), 1)),
        "detectable_format:multiple_sections",
        {"section_spliter": head, "num_sections": count},
        f"Divide your answer into {count} sections, each beginning with {head} X, such as {head} 1.",
        f"It should have {count} parts. Mark the beginning of each with {head} and its number, for example {head} 1.",
        f"Write {count} sections headed {head} 1, {head} 2 and so on.",
    )


def starred_paragraphs(reply, rng, context):
    parts = sentences(reply)
    if not 2 <= len(parts) <= 16 or "*" in reply:
        return None
    count = rng.randint(2, min(5, len(parts)))
    return asked(
        rng,
        "\n***\n".join(_groups(parts, count)),
        "length_constraints:number_paragraphs",
        {"num_paragraphs": count},
        f"Write {count} paragraphs and separate them with the markdown divider ***",
        f"There should be {count} paragraphs, divided by ***",
        f"Use exactly {count} paragraphs with *** between them.",
    )


def first_word(reply, rng, context):
    parts = sentences(reply)
    if not 3 <= len(parts) <= 16:
        return None
    count = rng.randint(2, min(4, len(parts)))
    groups = _groups(parts, count)
    nth = rng.randint(1, count)
    word = groups[nth - 1].split()[0]
    if not word.isalpha():
        return None
    return asked(
        rng,
        "\n\n".join(groups),
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": count, "nth_paragraph": nth, "first_word": word.lower()},
        f"Write {count} paragraphs with a blank line between them. Paragraph {nth} must begin with the word {word.lower()}.",
        f"There should be {count} paragraphs, separated by two line breaks, and paragraph {nth} should start with {word.lower()}.",
    )


def placeholders(reply, rng, context):
    count = rng.randint(1, 4)
    names = rng.sample(PLACEHOLDERS, count)
    lines = "\n".join(f"{name.capitalize()}: [{name}]" for name in names)
    return asked(
        rng,
        f"{reply}\n\n{lines}",
        "detectable_content:number_placeholders",
        {"num_placeholders": count},
        f"Leave at least {count} placeholders in square brackets, such as [{names[0]}].",
        f"Include at least {count} placeholder{'s' * (count > 1)} like [{rng.choice(PLACEHOLDERS)}].",
        f"It must contain {count} or more placeholders written in square brackets, e.g. [address].",
    )


def as_json(reply, rng, context):
    key = rng.choice(["answer", "text", "response"])
    shape = {"title": context["topic"], key: sentences(reply)} if rng.random() < 0.5 else {key: " ".join(reply.split())}
    text = json.dumps(shape, indent=2, ensure_ascii=False)
    return asked(
        rng,
        f"```json\n{text}\n```" if rng.random() < 0.4 else text,
        "detectable_format:json_format",
        {},
        "Give the whole answer in JSON format.",
        "Output JSON only.",
        "Wrap everything in JSON; you may use markdown ticks such as ```.",
        "Your entire output must be valid JSON.",
    )


def two_responses(reply, rng, context):
    if not context["other"] or len((reply + context["other"]).split()) > 280:
        return None
    return asked(
        rng,
        f"{reply}\n******\n{context['other']}",
        "combination:two_responses",
        {},
        "Give two different answers and separate them with six asterisks: ******",
        "Write two different versions, with ****** between them and nothing else.",
        "I want two different replies, divided by ******.",
    )
