"""The recipe for chat models in benchmarks/chat_recipe: rewrites follow their instructions, and the choice follows from the figures."""

import json
import random
from pathlib import Path

import pytest

from glassgpt.evaluation.chat.ifeval import Instruction
from scripts import load_script

REPLY = (
    "Honey is made by bees. They visit many flowers in spring, summer and autumn. The nectar is carried home, where other "
    "bees fan it with their wings. Water leaves it slowly. What remains is sweet, thick and keeps for years."
)
CONTEXT = {"prompt": "Explain honey.", "topic": "the life of honeybees", "other": "It is food.", "near": ["honeybees"]}
RESULTS = Path(__file__).parents[2] / "benchmarks/results/chat.json"


@pytest.fixture(scope="module")
def prompts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RESULTS.parents[1] / "chat_recipe"))
        yield load_script("chat_recipe/prompts", patch)


def test_rewritten_replies_follow_their_instructions(prompts):
    rng = random.Random(0)
    made = [(rewrite, rewrite(REPLY, rng, CONTEXT)) for rewrite in prompts.REWRITES for _ in range(4)]
    assert {rewrite for rewrite, result in made if result is not None} == set(prompts.REWRITES)
    for rewrite, result in made:
        if result is not None:
            reply, words, name, given = result
            arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            assert Instruction(name, arguments).is_followed(reply), (rewrite.__name__, words, reply)


def test_instructed_prompts_have_their_checks(prompts):
    rng = random.Random(0)
    for count in (1, 2):
        text, checks = prompts.instructed("Describe snow.", "snow", rng, count)
        assert "Describe snow." in text
        assert len(text) > len("Describe snow.")
        assert 1 <= len(checks) <= count


def test_recorded_choice_follows_from_the_dev_figures(monkeypatch):
    choose = load_script("chat_recipe/choose", monkeypatch)
    recorded = json.loads(RESULTS.read_text())
    chosen = recorded["chosen"]
    assert choose.choose(recorded["models"]) == (f"rate {chosen['rate']}", chosen["decoding"])
    assert all(each["met"] for each in recorded["targets"].values())
