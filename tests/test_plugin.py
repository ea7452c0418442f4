"""Plug-ins `module:name`: imported only if the user has allowed the module, errors in one line."""

import sys

import pytest

from glassgpt import plugin
from glassgpt.plugin import VARIABLE, PluginError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = {*sys.modules}
    yield tmp_path
    monkeypatch.undo()
    for name in {*sys.modules} - modules:
        del sys.modules[name]


def test_module_of_the_current_folder_is_loaded_if_it_is_allowed(folder):
    (folder / "lesson_a").mkdir()
    (folder / "lesson_a" / "__init__.py").touch()
    (folder / "lesson_a" / "exercises.py").write_text("def attend(): return 7\n")
    plugin.allow("lesson_a.exercises:attend")
    assert plugin.load("lesson_a.exercises:attend")() == 7


def test_module_that_is_not_allowed_does_not_run(folder):
    (folder / "stranger.py").write_text("open('ran', 'w')\n")
    with pytest.raises(PluginError, match=f"stranger, which is not allowed yet.* set {VARIABLE}=stranger"):
        plugin.load("stranger:f")
    assert not (folder / "ran").exists()


def test_environment_allows_exactly_the_named_modules(folder, monkeypatch):
    (folder / "one.py").write_text("f = 1\n")
    (folder / "one_more.py").write_text("f = 2\n")
    monkeypatch.setenv(VARIABLE, "zero, one")
    assert plugin.load("one:f") == 1
    with pytest.raises(PluginError, match="not allowed"):
        plugin.load("one_more:f")
    plugin.allow("one_more:f")
    assert plugin.load("one_more:f") == 2
    assert plugin.is_allowed("zero")


@pytest.mark.parametrize("spec", ["", "module", "module:", ":name", "a b:c", "a:b:c", "a..b:c", "../a:b", "a.b.c"])
def test_other_forms_are_rejected(folder, spec):
    with pytest.raises(PluginError, match="write module:name, such as"):
        plugin.allow(spec)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import missing_thing\n",
            "broken:f cannot be imported: ModuleNotFoundError: No module named 'missing_thing' .*broken.py:1",
        ),
        ("\nf = 1 / 0\n", "broken:f cannot be imported: ZeroDivisionError: division by zero .*broken.py:2"),
        ("import sys\nsys.exit()\n", "broken:f cannot be imported: SystemExit .*broken.py:2"),
        ("def f(:\n", "broken:f cannot be imported: SyntaxError: .*broken.py:1"),
        ("def ff(): pass\n", "the module broken has no f; did you mean ff?"),
    ],
)
def test_module_that_cannot_be_used_is_one_line(folder, source, message):
    (folder / "broken.py").write_text(source)
    plugin.allow("broken:f")
    with pytest.raises(PluginError, match=message) as caught:
        plugin.load("broken:f")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["time:time", "itertools:count", "json:dumps"])
def test_functions_in_c_are_loaded(folder, spec):
    plugin.allow(spec)
    assert callable(plugin.load_function(spec))


@pytest.mark.parametrize(
    ("source", "taken"),
    [("def f(): pass", ""), ("def f(logits): pass", "logits"), ("def f(a, b, c): pass", "a, b, c")],
)
def test_function_with_other_parameters_is_refused_before_it_is_called(folder, source, taken):
    (folder / "other.py").write_text(source)
    plugin.allow("other:f")
    with pytest.raises(PluginError, match=rf"^other:f takes \({taken}\); it must take \(logits, targets\)$"):
        plugin.load_function("other:f", ("logits", "targets"))


@pytest.mark.parametrize("source", ["def f(a, b): pass", "def f(*all): pass", "def f(a, b, c=1): pass", "f = max"])
def test_function_with_suitable_parameters_is_loaded(folder, source):
    (folder / "suitable.py").write_text(source)
    plugin.allow("suitable:f")
    assert callable(plugin.load_function("suitable:f", ("logits", "targets")))


@pytest.mark.parametrize("spec", ["no_such_module:f", "no_such_package.module:f", "json.no_such:f"])
def test_missing_module_is_named(folder, spec):
    plugin.allow(spec)
    with pytest.raises(PluginError, match="there is no module .* run the command in the folder that holds it"):
        plugin.load(spec)


def test_built_in_module_can_be_named(folder):
    plugin.allow("sys:intern")
    assert plugin.load_function("sys:intern") is sys.intern
    with pytest.raises(PluginError, match="the module sys has no interm; did you mean intern?"):
        plugin.load("sys:interm")
