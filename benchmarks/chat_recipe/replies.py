"""Sample replies of a base model to prompts of ours, keep and rewrite the good ones, and mix them with other conversations.

python benchmarks/chat_recipe/replies.py --run runs/smollm2 --data DATA --out OUT

DATA holds ifeval.jsonl (only to leave out prompts that share eight words in a row with it), instructions-preferences.jsonl
(`instruction`, `input`, `output`), gsm8k.train.jsonl or .jsonl.xz, and perhaps topics.json with lists of `titles` and `terms`
to ask about. OUT gets own.jsonl, the mixture chat2.jsonl for `glassgpt finetune --format chat`, dev.jsonl and
gsm8k.dev.jsonl for choosing settings, and own.json with counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import lzma
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import prompts as ours

from glassgpt.api.load_run import load
from glassgpt.api.serving import chat_template
from glassgpt.evaluation.chat.gsm8k import load_gsm8k
from glassgpt.evaluation.chat.ifeval import Instruction, load_ifeval
from glassgpt.evaluation.chat.loops import is_loop
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.options import options_from_kwargs

HELD_OUT_PROBLEMS = 300
LONGEST_REPLY = 470
"""Tokens of a reply that is learned; evaluations stop at 512."""
DEV_SHARE = 26
"""Topics of 256 whose prompts only serve to choose settings."""


def is_dev(topic):
    return hashlib.sha256(topic.encode()).digest()[0] < DEV_SHARE


def repeats(text, words=6, times=3):
    """Return whether the same six words stand three times in a text."""
    split = text.lower().split()
    return max(Counter(zip(*(split[at:] for at in range(words)), strict=False)).values(), default=0) >= times


def eights(text):
    """Return the runs of eight words in a text."""
    split = "".join(each if each.isalnum() else " " for each in text.lower()).split()
    return set(zip(*(split[at:] for at in range(8)), strict=False))


def follows(checks, text):
    exact = [
        (name, {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}) for name, given in checks
    ]
    return all(Instruction(name, given).is_followed(text) for name, given in exact)


def make_tasks(given, taught, rng):
    """Return the prompts to sample replies to, and those for choosing settings."""
    pools = ours.pools(given.data / "topics.json")
    plain, dev_pool = [], []
    for name, share in (("tasks", 0.5), ("titles", 0.3), ("terms", 0.2)):
        rng.shuffle(pools[name])
        training = [each for each in pools[name] if not is_dev(each[1])]
        plain += training[: int(share * (given.plain + given.instructed) * 1.05)]
        dev_pool += [each for each in pools[name] if is_dev(each[1])][: int(share * given.dev * 1.3) + 2]
    rng.shuffle(plain)
    rng.shuffle(dev_pool)
    count = min(given.plain, len(plain) * 3 // 5)
    tasks = [{"prompt": prompt, "topic": topic, "checks": [], "samples": 2} for prompt, topic in plain[:count]]
    for number, (prompt, topic) in enumerate(plain[count : count + given.instructed]):
        if number % 12 == 0:
            text, checks = ours.in_language(prompt, rng)
        else:
            text, checks = ours.instructed(prompt, topic, rng, 1 + (rng.random() < 0.25))
        tasks.append({"prompt": text, "topic": topic, "checks": checks, "samples": 3 if checks else 1})
    for prompt, _ in taught:
        tasks.append({"prompt": prompt, "topic": prompt[:50], "checks": [], "samples": 1})
    return tasks, dev_pool


def dev_rows(pool, count, rng):
    """Return prompts in the format of IFEval's file."""
    rows = []
    for number, (prompt, topic) in enumerate(pool):
        if number % 14 == 0:
            text, checks = ours.in_language(prompt, rng)
        elif number % 14 == 1:
            text, checks = ours.constrained(topic, rng)
        elif number % 14 == 2:
            text, arguments = ours.repeated(prompt, rng)
            checks = [("combination:repeat_prompt", arguments)]
        else:
            text, checks = ours.instructed(prompt, topic, rng, 1 + (number % 2))
        if checks and len(rows) < count:
            names, arguments = [name for name, _ in checks], [each for _, each in checks]
            rows.append({"key": number, "prompt": text, "instruction_id_list": names, "kwargs": arguments})
    return rows


def sample_replies(given, tasks, rng):
    """Return (text, whether it ended by itself) of each task's replies, and the number of tokens and seconds."""
    loaded = load(given.run, device=given.device, batch_size=given.slots)
    model, tokenizer, template = loaded.decoding_model, loaded.tokenizer, chat_template(given.run)
    encoded = [template.encode(tokenizer, [("user", each["prompt"])]) for each in tasks]
    options = options_from_kwargs(
        {"temperature": 0.8, "top_p": 0.95, "max_tokens": given.new_tokens, "num_samples": 1, "stop": template.stop}
    )
    requests = [(at, number) for at, each in enumerate(tasks) for number in range(each["samples"])]
    requests = [(at, number) for at, number in requests if len(encoded[at]) < 400]
    rng.shuffle(requests)
    capacity = min(model.config.context_length, max(len(encoded[at]) for at, _ in requests) + given.new_tokens)
    engine = Engine(model, tokenizer, slots=min(given.slots, len(requests)), capacity=capacity)
    owner, samples, replies, tokens, submitted = {}, {}, defaultdict(list), 0, 0
    began = time.monotonic()
    while time.monotonic() - began < given.seconds:
        while submitted < len(requests) and len(samples) < 3 * given.slots:
            at, number = requests[submitted]
            request = engine.submit(encoded[at], dataclasses.replace(options, seed=1000 * at + number))
            owner[request], samples[request] = at, Sample(0)
            submitted += 1
        if engine.is_idle:
            break
        for chunk in engine.step():
            sample = samples[chunk.request]
            sample.add(chunk)
            tokens += 1
            if chunk.finish_reason is not None:
                replies[owner[chunk.request]].append((sample.text.strip(), sample.finish_reason != "length"))
                del samples[chunk.request]
    return replies, tokens, time.monotonic() - began, tokenizer


class Writer:
    """Collects conversations, each checked once more."""

    def __init__(self, tokenizer, forbidden, rng):
        self.tokenizer, self.forbidden, self.rng = tokenizer, forbidden, rng
        self.rows, self.kinds = [], Counter()

    def add(self, prompt, reply, checks, how):
        if eights(prompt) & self.forbidden or repeats(reply) or not follows(checks, reply):
            return False
        if len(self.tokenizer.encode(reply)) > LONGEST_REPLY:
            return False
        self.kinds.update([f"{how}: {name}" for name, _ in checks] or [how])
        self.rows.append(conversation(prompt, reply))
        return True

    def add_rewritten(self, prompt, topic, reply, other):
        """Add a reply that is changed so that it follows an instruction; return whether it could be."""
        rng = self.rng
        near = [word.lower() for word in topic.split() if word.isalpha() and len(word) > 3]
        context = {"prompt": prompt, "topic": topic, "other": other, "near": near}
        if rng.random() < 0.07:
            text, arguments = ours.repeated(prompt, rng)
            return self.add(text, f"{prompt}\n\n{reply}", [("combination:repeat_prompt", arguments)], "rewritten")
        order = [rng.choices(list(ours.REWRITES), list(ours.REWRITES.values()))[0]]
        if rng.random() < 0.3:
            order = ours.two_kinds(rng)
        words, checks = [], []
        for rewrite in order:
            made = rewrite(reply, rng, context)
            if made is None:
                return False
            reply = made[0]
            words.append(made[1])
            checks.append((made[2], made[3]))
        return self.add(ours.joined(prompt, words, rng), reply, checks, "rewritten")


def conversation(prompt, reply):
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]}


def outcome(task, text, stopped):
    if not stopped:
        return "cut"
    if is_loop(text):
        return "loop"
    if repeats(text):
        return "repeats"
    if len(text) < 2:
        return "empty"
    return "kept" if follows(task["checks"], text) else "instruction"


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_problems(data, out):
    """Return the training problems; those for choosing settings are written apart."""
    packed = data / "gsm8k.train.jsonl.xz"
    raw = lzma.decompress(packed.read_bytes()) if packed.is_file() else (data / "gsm8k.train.jsonl").read_bytes()
    lines = raw.decode().splitlines(keepends=True)
    (out / "gsm8k.dev.jsonl").write_text("".join(lines[-HELD_OUT_PROBLEMS:]))
    (out / "gsm8k.rest.jsonl").write_text("".join(lines[:-HELD_OUT_PROBLEMS]))
    return load_gsm8k(out / "gsm8k.rest.jsonl")


def read_taught(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"], row["output"])
        for row in rows
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600, help="of sampling, at most")
    parser.add_argument("--plain", type=int, default=9000, help="prompts without instructions")
    parser.add_argument("--instructed", type=int, default=6000)
    parser.add_argument("--dev", type=int, default=400)
    parser.add_argument("--new-tokens", type=int, default=400)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(17)
    forbidden = set().union(*(eights(each.text) for each in load_ifeval(given.data / "ifeval.jsonl")))
    taught = read_taught(given.data / "instructions-preferences.jsonl")
    tasks, dev_pool = make_tasks(given, taught, rng)
    tasks = [each for each in tasks if not eights(each["prompt"]) & forbidden]
    write_rows(given.out / "dev.jsonl", dev_rows(dev_pool, given.dev, rng))
    print(f"{len(tasks)} prompts", flush=True)
    replies, tokens, seconds, tokenizer = sample_replies(given, tasks, rng)
    print(f"{tokens:,} tokens, {tokens / seconds:,.0f} tokens/s", flush=True)

    writer, outcomes = Writer(tokenizer, forbidden, rng), Counter()
    for at, found in replies.items():
        task, good = tasks[at], []
        for text, stopped in found:
            name = outcome(task, text, stopped)
            outcomes["plain " * (not task["checks"]) + name] += 1
            if name == "kept":
                good.append(text)
        good.sort(key=len)
        if not good:
            continue
        if task["checks"]:
            writer.add(task["prompt"], good[0], task["checks"], "sampled")
            continue
        other = good[-1] if good[-1] != good[0] else ""
        arguments = (task["prompt"], task["topic"], good[0], other)
        if rng.random() >= 0.8 or not any(writer.add_rewritten(*arguments) for _ in range(4)):
            writer.add(task["prompt"], good[0], [], "plain")
    topics = [each for each in ours.TOPICS if not is_dev(each)]
    for topic in rng.sample(topics, min(60, len(topics))) * 2:
        text, checks = ours.constrained(topic, rng)
        writer.add(text, rng.choice(ours.OPTIONS), checks, "rewritten")
    rng.shuffle(writer.rows)
    write_rows(given.out / "own.jsonl", writer.rows)
    mixture = [*writer.rows, *(conversation(*each) for each in taught * 2)]
    mixture += [conversation(each.question, each.solution) for each in read_problems(given.data, given.out)]
    rng.shuffle(mixture)
    write_rows(given.out / "chat2.jsonl", mixture)
    counts = {"tokens": tokens, "own": len(writer.rows), "conversations": len(mixture)}
    counts |= {"outcomes": dict(outcomes.most_common()), "kinds": dict(writer.kinds.most_common())}
    (given.out / "own.json").write_text(json.dumps(counts, indent=1))
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
