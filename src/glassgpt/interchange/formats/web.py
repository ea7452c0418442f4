"""A web page that runs the model in the reader's browser: ONNX in the layout of transformers.js, and the page itself.

The folder works on any static host. The libraries that the page runs on are copied from a folder that the user names,
because glassgpt fetches nothing by itself.
"""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.errors import InterchangeError
from glassgpt.interchange.formats import onnx
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel

PAGE = Path(__file__).parents[1] / "web_page"
TESTED_VERSION = "4.3.2"
LIBRARY_FILES = {
    "transformers.js": "@huggingface/transformers/dist/transformers.web.min.js",
    "LICENSE-transformers.js.txt": "@huggingface/transformers/LICENSE",
    "ort.js": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
}
"""Files of the page's library by name, and where npm puts them below `node_modules`."""
IMPORTS = ('from"onnxruntime-web/webgpu"', 'from"onnxruntime-common"')
"""Imports of transformers.js that no browser can resolve; both are found in ONNX Runtime's file."""
ADAPTED = "imports-adapted-by-glassgpt"
DTYPES = {"float32": "fp32", "int8": "q8", "int4": "q4"}
FILES = {"float32": "model.onnx", "int8": "model_quantized.onnx", "int4": "model_q4.onnx"}
"""transformers.js' names of the weights' types, and of their files."""


def library_folder(given: Path | None) -> Path | None:
    """Return `node_modules` with transformers.js: the given folder, or the nearest one above the working directory."""
    candidates = [given] if given else [folder / "node_modules" for folder in (Path.cwd(), *Path.cwd().parents)]
    return next((each for each in candidates if all((each / file).is_file() for file in LIBRARY_FILES.values())), None)


def _problem(config: ModelConfig, options: ExportOptions) -> str | None:
    if library_folder(options.library):
        return None
    advice = (
        f"install it with: npm install --ignore-scripts @huggingface/transformers@{TESTED_VERSION}, "
        f"and give --library node_modules"
    )
    if options.library:
        return f"{options.library} does not hold transformers.js, which the page runs on; {advice}"
    return f"no folder node_modules here holds transformers.js, which the page runs on; {advice}"


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    from glassgpt.interchange.onnx_export import write_onnx

    library = library_folder(options.library)
    assert library is not None
    _copy_library(library, folder / "library")
    (folder / "model" / "onnx").mkdir(parents=True)
    onnx.write_settings(model.config, tokenizer, folder / "model")
    write_onnx(model, folder / "model" / "onnx" / FILES[options.weights], options.weights)
    for path in sorted(PAGE.iterdir()):
        shutil.copyfile(path, folder / path.name)
    page = {
        "name": f"{model.config.arch}, {model.config.n_layer} × {model.config.n_embd}, {tokenizer.name}",
        "dtype": DTYPES[options.weights],
        "context_length": model.config.context_length,
        "end_of_text": tokenizer.end_of_text,
    }
    (folder / "page.json").write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_library(library: Path, folder: Path) -> None:
    folder.mkdir()
    for name, source in LIBRARY_FILES.items():
        shutil.copyfile(library / source, folder / name)
    script = (folder / "transformers.js").read_text(encoding="utf-8")
    if any(script.count(each) != 1 for each in IMPORTS):
        raise InterchangeError(
            f"{library / LIBRARY_FILES['transformers.js']} is not a version of transformers.js that the page can use; "
            f"install {TESTED_VERSION}"
        )
    for each in IMPORTS:
        script = script.replace(each, 'from"./ort.js"')
    (folder / "transformers.js").write_text(f"// {ADAPTED}\n{script}", encoding="utf-8")


def _usage(folder: Path) -> str:
    return f"python -m http.server --directory {shlex.quote(str(folder))}"


def _no_notice(tokenizer: Tokenizer) -> str | None:
    return None  # that of ONNX is about a program that does not read the page


FORMAT = replace(
    onnx.FORMAT,
    name="web",
    summary="a page for the browser",
    write=_write,
    usage=_usage,
    takes_library=True,
    problem=_problem,
    notice=_no_notice,
)
"""The requirements of the ONNX format also hold for the graph in a page: architectures, weights and check."""
