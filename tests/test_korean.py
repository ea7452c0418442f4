"""The command line in Korean: complete, with the right particles, by one rule and one glossary."""

import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pytest

import translations
from forked import ForkedCommand
from glassgpt import console
from glassgpt.cli.korean_help import help_in_korean
from glassgpt.cli.language import use_user_language
from glassgpt.diagnosis.catalogue import reason, reasons, words
from glassgpt.diagnosis.replay_result import Cause
from glassgpt.errors import UsageError
from glassgpt.locale import VARIABLE, ko, to_korean, user_language
from glassgpt.locale.ko import CONNECTED, HELP, MESSAGES, PARTS
from glassgpt.locale.particles import choose_particles, final_consonant
from help_texts import help_texts

ROOT = Path(__file__).parents[1]
ENTRIES = {**MESSAGES, **HELP, **PARTS, **CONNECTED}


@pytest.fixture
def korean(monkeypatch):
    monkeypatch.setenv(VARIABLE, "ko")
    console.use_translation(to_korean)
    yield
    console.use_translation(None)


# Completeness: what these three name is to be added to src/glassgpt/locale/ko (python tests/messages.py lists it).


def test_every_message_has_a_translation():
    assert [f"{each.path}:{each.line}: {each.template!r}" for each in translations.missing()] == []


def test_every_help_text_has_a_translation():
    korean = {text: help_in_korean(text) for text in help_texts()}
    assert [
        english
        for english, text in korean.items()
        if not translations.HANGUL.search(text) or translations.ENGLISH_PROSE.search(text)
    ] == []


def test_no_translation_is_left_without_its_english_text():
    assert translations.unused() == []


def test_each_text_is_translated_in_one_module():
    """A second translation would hide the first."""
    modules = [import_module(f"{ko.__name__}.{module.name}") for module in iter_modules(ko.__path__)]
    tables = [vars(module)["MESSAGES"] for module in modules if "MESSAGES" in vars(module)]
    texts = Counter(english for table in tables for english in table)
    assert len(tables) > 20
    assert [english for english, count in texts.items() if count > 1] == []


def test_translations_use_each_value():
    used = {english: {int(number) for number in translations.FIELD.findall(ENTRIES[english])} for english in ENTRIES}
    assert [english for english in ENTRIES if used[english] != set(range(english.count("{}")))] == []


def test_check_finds_a_message_without_translation(tmp_path, monkeypatch):
    import messages

    (tmp_path / "new.py").write_text('def f(x):\n    raise DataError(f"{x} wobbles too much; hold it")\n')
    monkeypatch.setattr(messages, "SOURCE", tmp_path)
    assert [(each.path, each.line) for each in translations.missing()] == [("new.py", 2)]


# Matching.


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        ("runs/a does not exist", "runs/a가 없습니다"),
        ("train.max_steps is 0; it must be at least 1", "train.max_steps: 0 값은 쓸 수 없습니다. 1 이상을 지정하세요"),
        (
            "temperature is -1; it must be a number of at least 0 (0 always takes the most probable token)",
            "temperature: -1 값은 쓸 수 없습니다. 0 이상의 수(0이면 언제나 확률이 가장 높은 토큰을 고름)를 지정하세요",
        ),
        (
            "unknown option --temprature; did you mean --temperature?; see: glassgpt generate --help",
            "--temprature 옵션은 없습니다 (혹시 --temperature?). 도움말: glassgpt generate --help",
        ),
        (
            "a.jsonl, line 3: not valid JSON (x); each line must be one JSON object",
            "a.jsonl, 3번째 줄: 올바른 JSON이 아닙니다(x). 줄마다 JSON 객체가 하나씩 있어야 합니다",
        ),
        (
            "m.jsonl, line 1: no field 'text' (available: a); choose one with --field",
            "m.jsonl, 1번째 줄: 'text' 필드가 없습니다(있는 필드: a). --field로 고르세요",
        ),
        (
            "seed is -1; it must be between 0 and 2**63 - 1\nmodel.n_layer is 0; it must be at least 1",
            "seed: -1 값은 쓸 수 없습니다. 0 이상 2**63 - 1 이하를 지정하세요\n"
            "model.n_layer: 0 값은 쓸 수 없습니다. 1 이상을 지정하세요",
        ),
        ("training: 10 of 200 steps, 3 min 05 s left, 2.5 steps/s loss 4.1", None),
    ],
)
def test_message_is_translated_with_its_values(english, korean):
    if korean is None:
        assert to_korean(english).startswith("학습: 200 steps 중 10, 3분 05초 남음, 2.5 steps/s")
    else:
        assert to_korean(english) == korean


@pytest.mark.parametrize(
    "text", ["", "한국어", "x" * 30_000, "an ordinary sentence that nobody translated", "{} {0} %s"]
)
def test_other_texts_stay_as_they_are(text):
    assert to_korean(text) == text


def test_english_prose_is_not_mistaken_for_messages():
    texts = [path.read_text() for path in (ROOT / "docs").glob("*.md") if path.name != "log.md"]
    korean = {line: to_korean(line) for line in {line for text in texts for line in text.split("\n")}}
    changed = [line for line in korean if korean[line] != line]
    assert [line for line in changed if translations.ENGLISH_PROSE.search(korean[line])] == []


def test_values_stay_as_they_are():
    """A path may be named like a message; only values that the program wrote are translated."""
    assert to_korean("cannot read does not exist: Permission denied").startswith(
        "does not exist 파일을 읽을 수 없습니다"
    )


CAUSES = [(cause, key) for cause in get_args(Cause) for key in ("row-not-finite-by-itself", "finite-at-a-lower-rate")]


@pytest.mark.parametrize(("cause", "key"), [*CAUSES, *(("weights", key) for key in reasons())])
def test_replay_in_the_message_that_ends_a_run_is_korean(cause, key):
    texts = reasons()[key]
    values = dict.fromkeys(re.findall(r"\{(\w+)\}", texts["en"]), "blocks.0.attn.c_attn.weight")
    outcome = "step 7: the loss is nan and the gradient norm inf; nothing of it was saved."
    printed = to_korean(f"{outcome} The cause is {cause}: {reason(key, values)}. What to do: glassgpt doctor runs/a")
    assert printed == (
        "7스텝: 손실이 nan, 기울기 노름이 inf입니다. 이 스텝은 저장하지 않았습니다. "
        f"원인: {words()[cause]['ko']}. {reason(key, values, 'ko')}. 해결 방법: glassgpt doctor runs/a"
    )


# Particles.


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("값", "값을"), ("나무", "나무를"), ("3", "3을"), ("2", "2를"), ("10", "10을"), ("1,000", "1,000을"), ("0.5", "0.5를"),
        ("'a.json'", "'a.json'을"), ("model.n_head", "model.n_head를"), ("--beams 5", "--beams 5를"), ("step", "step을"),
        ("runs/demo", "runs/demo를"), ("config.toml", "config.toml을"), ("정수(0이면 끔)", "정수(0이면 끔)를"), ("", "를"),
    ],
)  # fmt: skip
def test_particle_follows_the_sound(word, shown):
    assert choose_particles(f"{word}을(를)") == shown


@pytest.mark.parametrize(
    ("word", "shown"), [("서울", "서울로"), ("부산", "부산으로"), ("1", "1로"), ("3", "3으로"), ("2", "2로")]
)
def test_direction_has_its_own_rule(word, shown):
    assert choose_particles(f"{word}(으)로") == shown


def test_long_texts_take_no_time():
    assert final_consonant("(" * 5000) == ""


# One rule for the language.


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", VARIABLE: "en"}, "en"),
        ({"LC_ALL": "C", VARIABLE: "ko"}, "ko"),
    ],
)
def test_language_comes_from_the_variable_then_the_locale(monkeypatch, variables, language):
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert user_language() == language


def test_unknown_language_is_a_usage_error(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fr")
    with pytest.raises(UsageError, match="GLASSGPT_LANGUAGE is 'fr'; it must be one of en, ko"):
        user_language()


def test_terminal_without_korean_letters_gets_english(monkeypatch):
    monkeypatch.setenv(VARIABLE, "ko")
    monkeypatch.setattr(type(console.out), "encoding", "ascii")
    console.use_translation(to_korean)
    assert not use_user_language()
    assert console.translated("interrupted") == "interrupted"


# As a user sees it.


def run_in_korean(*arguments):
    code = "from glassgpt.cli import main; main()"
    environment = {
        "GLASSGPT_LANGUAGE": "ko",
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "100",
    }
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("command", ["", "generate"])
def test_help_is_korean(command):
    printed = run_in_korean(*command.split(), "--help").stdout
    assert printed.startswith("사용법: glassgpt")
    assert not translations.ENGLISH_PROSE.search(re.sub(r"[│─╭╮╰╯\n]", "|", printed))
    assert "[default" not in printed


def test_errors_are_korean_and_json_is_not():
    failed = run_in_korean("train", "nano", "--steps", "3")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("오류: --steps 옵션은 없습니다")
    doctor = ForkedCommand("doctor", "--json", environment={VARIABLE: "ko"})  # loads torch
    assert '"verdict"' in doctor.communicate(timeout=120)[0]


def test_results_are_korean_and_data_is_not(korean, capsys):
    console.result("total: 3 parameters")
    console.output("total: 3 parameters")
    console.info("interrupted")
    console.warn("cannot draw loss.png: Permission denied")
    printed = capsys.readouterr()
    assert printed.out == "합계: 매개변수 3개\ntotal: 3 parameters\n"
    assert printed.err == "중단했습니다\n경고: loss.png 그림을 그릴 수 없습니다: 권한이 없습니다\n"


def test_english_loads_no_tables():
    code = "import sys; from glassgpt.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nsys.exit(any('locale.ko' in m for m in sys.modules))"
    environment = {"GLASSGPT_LANGUAGE": "en", "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment).returncode == 0


# One glossary.

UNUSED_WORDS = re.compile(
    "십시오|열쇠|무늬|내트|질의|문맥|파라미터|그래디언트|파인튜닝|레이어|데이터 세트|혼란도|훈련|마이크로배치|빔 서치|로짓 처리기|옮겨 심"
)


def korean_texts():
    """Return every Korean text outside of the glossary by file: documents, catalogue, report, page and messages."""
    source = ROOT / "src" / "glassgpt"
    documents = [ROOT / "README.ko.md", *(ROOT / "docs").rglob("*.ko.md"), *(ROOT / "docs" / "diagnosis").glob("*.md")]
    files = [*documents, *source.rglob("*.toml"), *source.rglob("*.js"), *source.rglob("*.py")]
    return {path: path.read_text(encoding="utf-8") for path in files if path.name != "glossary.ko.md"}


def test_korean_texts_use_the_words_of_the_glossary():
    glossary = (ROOT / "docs" / "glossary.ko.md").read_text(encoding="utf-8")
    assert all(word in glossary for word in ("열쇠", "무늬", "내트", "질의", "문맥", "파라미터"))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path, text in korean_texts().items()
        for match in UNUSED_WORDS.finditer(text)
    ]
    assert found == []


def test_particles_after_values_have_both_forms():
    """A value can end in any sound, so that its particle is chosen when the value is known."""
    fixed = re.compile(r"\{\w+(?::[^}]*)?\}(?:은|는|이|가|을|를|과|와|으로)(?=[ ,.)\"]|$)")
    catalogue = (ROOT / "src" / "glassgpt" / "diagnosis" / "catalogue").glob("*.toml")
    texts = [*ENTRIES.values(), *(path.read_text(encoding="utf-8") for path in catalogue)]
    assert [match[0] for text in texts for match in fixed.finditer(text)] == []
    unknown = re.compile(r"를\(을\)|가\(이\)|는\(은\)|와\(과\)|로\(으로\)")
    assert [text for text in texts if unknown.search(text)] == []


def test_problems_on_lines_of_their_own_are_translated_one_by_one():
    reported = [
        "s.toml: unknown setting seeds; did you mean seed?",
        "s.toml: seed cannot be searched: the best of several seeds is luck; --seeds measures it",
        "s.toml: optimizer.name has 1 choices; give at least 2",
    ]
    translated = to_korean("\n".join(reported))
    assert translated.split("\n") == [to_korean(line) for line in reported]
    assert "cannot be searched" not in translated
    assert to_korean("trial 0  loss 3.8  seed 1, x 0.1; best so far").endswith("x 0.1; 지금까지 최고")
