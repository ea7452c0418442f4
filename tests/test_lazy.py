"""Deferred imports, and imports without garbage collection."""

import gc
import sys

import pytest

from glassgpt import lazy
from glassgpt.lazy import caller_has_frozen, import_for_good, lazy_attribute, without_collecting


def test_an_attribute_comes_from_its_module():
    assert lazy_attribute("a", {"pi": "math"}, "pi") == pytest.approx(3.14159, abs=1e-4)
    with pytest.raises(AttributeError, match=r"module 'a' has no attribute 'tau'; use pi$"):
        lazy_attribute("a", {"pi": "math"}, "tau", "; use pi")


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_is_not_collected_within_the_block_only(was_enabled):
    before = gc.isenabled()
    (gc.enable if was_enabled else gc.disable)()
    try:
        with without_collecting():
            assert not gc.isenabled()
        assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize(
    ("frozen", "expected"), [(0, ["freeze", "unfreeze"]), (375, ["freeze", "unfreeze"]), (20_000, [])]
)
def test_what_was_imported_counts_as_old_unless_the_caller_has_frozen_objects(frozen, expected, monkeypatch):
    called = []
    monkeypatch.setattr(lazy.gc, "get_freeze_count", lambda: frozen)
    for name in ("freeze", "unfreeze"):
        monkeypatch.setattr(lazy.gc, name, lambda name=name: called.append(name))
    with without_collecting():
        assert called == []
    assert called == expected


def test_what_a_command_has_exempted_stays_so_while_more_is_imported(monkeypatch):
    monkeypatch.setattr(lazy, "_frozen_for_good", 50_000)
    monkeypatch.setattr(lazy.gc, "get_freeze_count", lambda: 50_000)
    monkeypatch.setattr(lazy.gc, "unfreeze", lambda: pytest.fail("everything would be searched at the end"))
    with without_collecting():
        pass


def test_objects_are_frozen_when_a_module_is_new(monkeypatch):
    frozen = []
    monkeypatch.setattr(lazy, "_frozen_for_good", 0)  # restored afterwards
    monkeypatch.setattr(lazy.gc, "get_freeze_count", lambda: 50_000)
    monkeypatch.setattr(lazy.gc, "freeze", lambda: frozen.append(gc.isenabled()))
    import_for_good("glassgpt.errors")
    assert frozen == []
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.setattr(lazy, "import_module", lambda name: sys.modules.setdefault(name, sys))
    assert caller_has_frozen()
    import_for_good("this")
    assert frozen == [gc.isenabled()]
    assert not caller_has_frozen()  # the command itself has
    monkeypatch.setattr(lazy.gc, "get_freeze_count", lambda: 51_000)
    assert caller_has_frozen()
