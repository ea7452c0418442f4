import subprocess
import sys

from glassgpt.data import compare_tokenizers, load_tokenizer, show_tokens
from glassgpt.data.show import SAMPLES
from glassgpt.data.tokenizers.printable import printable


def test_show_tokens_prints_text_ids_and_bytes(capsys):
    show_tokens(load_tokenizer("gpt2"), "Hello, [b]world[/b]!\n")
    printed = capsys.readouterr().out
    for part in ("Hello, [b]world[/b]!⏎", "15496", "48 65 6c 6c 6f", "11 tokens, 21 characters, 21 bytes"):
        assert part in printed


def test_show_tokens_accepts_empty_text(capsys):
    show_tokens(load_tokenizer("bytes"), "")
    assert "0 tokens, 0 characters" in capsys.readouterr().out


def test_show_tokens_notes_special_tokens_and_reads_them_if_asked(capsys):
    tokenizer = load_tokenizer("bytes")
    show_tokens(tokenizer, "a<|endoftext|>")
    printed = capsys.readouterr()
    assert "14 tokens" in printed.out
    assert "--parse-special-tokens" in printed.err
    show_tokens(tokenizer, "a<|endoftext|>", parse_special_tokens=True)
    printed = capsys.readouterr()
    assert "2 tokens" in printed.out
    assert str(tokenizer.end_of_text) in printed.out
    assert printed.err == ""


def test_printable_escapes_control_and_incomplete_characters():
    assert printable(b"\xed\x95") == "<ED><95>"
    assert printable(" 한글".encode()[:-1]) == " 한<EA><B8>"
    assert printable(" a\t\x00\u200b한".encode()) == " a→<U+0000><U+200B>한"


def test_compare_tokenizers_prints_characters_per_token(capsys):
    compare_tokenizers(["gpt2", "bytes"], {"three": "abc", "한": "한국"})
    printed = capsys.readouterr().out
    assert "bytes" in printed
    assert "0.33" in printed, "a Korean syllable takes three bytes"


def test_compare_tokenizers_uses_samples_by_default(capsys):
    compare_tokenizers(["bytes"])
    printed = capsys.readouterr().out
    assert len(SAMPLES) == 9
    assert all(language in printed for language in SAMPLES)


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, glassgpt.data; "
        "heavy = {'torch', 'pyarrow', 'tokenizers', 'sentencepiece', 'fastokens', 'datasets'}; "
        "print(heavy & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
