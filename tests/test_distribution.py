"""The contents of the wheel and the source archive that `make dist` builds."""

import importlib.util
import tarfile
import tomllib
import zipfile
from pathlib import Path

import glassgpt

ROOT = Path(__file__).parents[1]


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_distribution = load_tool("check_distribution")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_file_of_the_package_is_code_or_declared_as_data():
    package = ROOT / "src" / "glassgpt"
    declared = PROJECT["tool"]["setuptools"]["package-data"]["glassgpt"]
    data = {path.relative_to(package) for pattern in declared for path in package.glob(pattern)}
    code = {path.relative_to(package) for path in package.rglob("*.py") if (path.parent / "__init__.py").is_file()}
    files = {Path(name).relative_to("glassgpt") for name in check_distribution.package_files()}
    assert files == data | code
    for name in ("py.typed", "configs/gpt2.toml", "inspection/page/index.html", "diagnosis/report.css"):
        assert Path(name) in data
    assert any(path.parent == Path("diagnosis/catalogue") for path in data)


def test_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == glassgpt.__version__
    assert f"## {glassgpt.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_archives_that_lack_a_file_are_rejected(tmp_path):
    files = {"glassgpt/__init__.py", "glassgpt/inspection/page/index.html"}
    assert "has 0 wheels" in check_distribution.check(tmp_path, files)[0]
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("glassgpt/__init__.py", "")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in (*check_distribution.WITH_SOURCE, "src/glassgpt/inspection/page/index.html"):
            archive.add(__file__, f"glassgpt-0.1.0/{name}")
    assert check_distribution.check(tmp_path, files) == [
        "a.whl lacks glassgpt/inspection/page/index.html",
        "a.tar.gz lacks src/glassgpt/__init__.py",
    ]
