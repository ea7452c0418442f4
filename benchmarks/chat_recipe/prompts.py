"""Prompts of ours, and the instructions that can be added to them or to a reply by construction.

The kinds of instructions are IFEval's; the words are ours, and no prompt of IFEval is used (`replies.py` checks it).
"""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from pathlib import Path

TOPICS = """a neighborhood library; the first day at a new job; growing tomatoes on a balcony; a lost umbrella; learning to swim as an adult; a small bakery;
the history of the bicycle; why the sky is blue; a trip to the mountains; saving water at home; an old lighthouse; a robot that learns to cook; the life of honeybees;
a school garden; how bridges are built; the smell of rain; moving to a new city; a chess club; the sound of a violin; a broken dishwasher; public transport; a winter market;
the first steam engines; keeping a diary; a stray cat; baking bread; space telescopes; a family reunion; a night train; the value of sleep; a museum of clocks; learning Spanish;
recycling glass; a football match in the rain; how vaccines work; a forgotten letter; a coffee shop on the corner; the deep sea; volcanoes; a group of friends who start a band;
working from home; a healthy breakfast; wind energy; the invention of paper; a birthday party for a grandmother; camping with children; photography for beginners; stage fright;
a used car; a community theatre; the moon landing; maps and how to read them; a vegetarian dinner; running a first half marathon; an allergy to peanuts; noise in big cities;
an apprenticeship as a carpenter; the migration of birds; a mistake in an invoice; a late delivery; the rules of basketball; earthquakes; a talking parrot; the color green;
a summer internship; a power cut; the Roman aqueducts; gardening tools; a delayed flight; a new mobile phone; river fishing; how computers add numbers; a wedding speech;
teaching a dog to sit; the printing press; an art class for retired people; glaciers; a science fair; housework shared fairly; a secret recipe; an unusual pet; snow; the tides;
a lost suitcase; learning to play the piano; a village without cars; the first snowfall; jigsaw puzzles; good manners at the table; a night in the desert; plastic bags""".replace(
    "\n", " "
).split(";")
TOPICS = [topic.strip() for topic in TOPICS]

TASKS = """Write a short story about {}.|Write a poem about {}.|Write a blog post about {}.|Write an email to a friend about {}.|Write a letter of complaint about {}.|Write a product review about {}.
Give me advice about {}.|Explain {} to a child.|Write a song about {}.|List some facts about {}.|Write a dialogue between two people about {}.|Write a summary of what people should know about {}.
Write a newspaper article about {}.|What are the advantages and disadvantages of {}?|Write a joke about {}.|Write a speech about {}.|Write a social media post about {}.|Make a plan for a day about {}.
Write an advertisement about {}.|What is interesting about {}?|Write a riddle about {}.|Give three ideas for a talk about {}.|Write an invitation to an event about {}.|Describe {}.
Write a limerick about {}.|Write a rubric to mark an essay about {}.|Write a short biography of someone who loves {}.|Come up with a slogan for {}.|Write a proposal for a project about {}.|Compare two opinions about {}.
Write a cover letter that mentions {}.|Write a scene of a play about {}.|Give a definition and an example of {}.|Write a list of questions about {}.|How would you start a conversation about {}?|Write a thank-you note about {}.""".replace(
    "\n", "|"
).split("|")

ABOUT_TITLES = [
    "What is {}?",
    "Explain {} in simple words.",
    "Write a paragraph about {}.",
    "Why does {} matter?",
    "Give a short overview of {}.",
    "What should a student know about {}?",
    "Tell me something about {}.",
]
ABOUT_TERMS = [
    "What does {} mean?",
    "Define {}.",
    "Explain the term {} with an example.",
    "What is meant by {}?",
    "Use {} in a sentence and explain it.",
]
YES_NO = [
    "Is {} worth a visit?",
    "Is {} a good topic for a school essay?",
    "Would you recommend reading about {}?",
    "Can children learn about {}?",
    "Is {} older than one hundred years?",
    "Do most people know {}?",
]
LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "pt": "Portuguese"}
OPTIONS = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
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
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*])")
_WORD = re.compile(r"[A-Za-z]{4,}")


def pools(topics_file: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the plain prompts by source, each with its topic."""
    data = json.loads(topics_file.read_text()) if topics_file.is_file() else {"titles": [], "terms": []}
    tasks = [(task.format(topic), topic) for task in TASKS for topic in TOPICS]
    titles = [(form.format(title), title) for title in data["titles"] for form in ABOUT_TITLES]
    terms = [(form.format(term), term) for term in data["terms"] for form in ABOUT_TERMS]
    return {"tasks": tasks, "titles": titles, "terms": terms}


def sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.split(" ".join(text.split())) if part.strip()]


def _groups(parts: list[str], count: int) -> list[str]:
    """Join parts to `count` groups of nearly equal size, in order."""
    edges = [round(at * len(parts) / count) for at in range(count + 1)]
    return [" ".join(parts[a:b]) for a, b in pairwise(edges)]


# Each rewrite takes (reply, rng, context) and returns (reply, words of the instruction, id, arguments), or None if it does not suit.
# context: {"prompt", "topic", "other": another reply to the same prompt or ""}.


def _asked(rng, reply, name, arguments, *wordings):
    """Return a reply, one of the wordings of its instruction, and the id and arguments of the check."""
    return reply, rng.choice(wordings), name, arguments


def lowercase(reply, rng, context):
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
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
    return _asked(
        rng,
        f"{reply}\n******\n{context['other']}",
        "combination:two_responses",
        {},
        "Give two different answers and separate them with six asterisks: ******",
        "Write two different versions, with ****** between them and nothing else.",
        "I want two different replies, divided by ******.",
    )


def _words(reply, rng, count):
    found = sorted({word.lower() for word in _WORD.findall(reply)})
    return rng.sample(found, count) if len(found) >= count else None


def keywords(reply, rng, context):
    words = _words(reply, rng, rng.choice([1, 2, 2, 3]))
    if not words:
        return None
    listed = " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"
    return _asked(
        rng,
        reply,
        "keywords:existence",
        {"keywords": words},
        f"Include the keyword{'s' * (len(words) > 1)} {listed}.",
        f"Use the word{'s' * (len(words) > 1)} {listed} in your answer.",
        f"Make sure that {listed} appear{'s' * (len(words) == 1)} in it.",
    )


def keyword_count(reply, rng, context):
    words = [word.lower() for word in _WORD.findall(reply)]
    repeated = sorted({word for word in words if reply.lower().count(word) >= 2})
    if not repeated or rng.random() < 0.3:
        word, most = rng.choice(COMMON), rng.choice([2, 3, 4])
        return _asked(
            rng,
            reply,
            "keywords:frequency",
            {"keyword": word, "frequency": most, "relation": "less than"},
            f"Use the word {word} less than {most} times.",
            f"The word {word} should appear fewer than {most} times.",
        )
    word = rng.choice(repeated)
    count = min(reply.lower().count(word), rng.choice([2, 2, 3, 4]))
    return _asked(
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
    return _asked(
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
        return _asked(
            rng,
            reply,
            "keywords:letter_frequency",
            {"letter": letter, "let_frequency": least, "let_relation": "at least"},
            f"The letter {letter} should appear at least {least} times.",
            f"Use the letter {letter} at least {least} times.",
        )
    most = count + rng.randint(1, 5)
    return _asked(
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
        return _asked(
            rng,
            reply,
            "length_constraints:number_sentences",
            {"num_sentences": least, "relation": "at least"},
            f"Write at least {least} sentences.",
            f"Your answer should have {least} or more sentences.",
        )
    most = count + rng.randint(1, 3)
    return _asked(
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
        return _asked(
            rng,
            reply,
            "length_constraints:number_words",
            {"num_words": least, "relation": "at least"},
            f"Write at least {least} words.",
            f"Your answer should have {least}+ words.",
            f"It must be {least} words or longer.",
        )
    most = (count + rng.randint(10, 40)) // 10 * 10
    return _asked(
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
        return _asked(
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
    return _asked(
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
