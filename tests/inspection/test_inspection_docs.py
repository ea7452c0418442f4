"""The examples and the table of docs/inspection.md."""

from pathlib import Path

from test_docs import code_blocks

PAGE = Path(__file__).parents[2] / "docs" / "inspection.md"


def test_the_examples_run(nano_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(nano_run)
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(PAGE)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})
    out = capsys.readouterr().out
    assert "blocks.0.attention.weights ('head', 'query', 'key')" in out
    assert "glassgpt/model/attention.py" in out


def test_every_activation_is_documented(nano_run):
    import glassgpt

    names = glassgpt.load(nano_run, device="cpu").trace("ab").names()
    for page in (PAGE, PAGE.with_suffix(".ko.md")):
        text = page.read_text(encoding="utf-8")
        assert [name for name in names if name.split(".")[-1] not in text] == []
