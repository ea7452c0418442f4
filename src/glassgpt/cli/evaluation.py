"""Commands that evaluate a model and search for decoding settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from glassgpt import console
from glassgpt.cli.chat_evaluation import DECODING, ChatFiles, evaluate_chat, require_no_text_options
from glassgpt.cli.code_evaluation import evaluate_code, require_code
from glassgpt.cli.index_evaluation import evaluate_an_index
from glassgpt.cli.media_evaluation import evaluate_media
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer, Run
from glassgpt.errors import UsageError
from glassgpt.lazy import import_for_good

HELD_OUT = Group("Held-out text", sort_key=1)
GENERATED = Group("Generated text", sort_key=2)
CHAT = Group("Chat", sort_key=3)
CODE = Group("Code", sort_key=4)
INDEX = Group("Search", sort_key=5)
MEDIA = Group("Pictures and sound", sort_key=6)
OptionalRun = Annotated[Path | None, Parameter(help="Folder of a run, created by glassgpt train or import.")]


def evaluate(
    run: OptionalRun = None,
    *others: Path,
    data: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    context_length: Annotated[Integer, Parameter(group=HELD_OUT)] = 0,
    stride: Annotated[Integer, Parameter(group=HELD_OUT)] = 0,
    per_document: Annotated[Flag, Parameter(group=HELD_OUT)] = False,
    generate: Annotated[Flag, Parameter(group=GENERATED)] = False,
    compare: Annotated[str | None, Parameter(group=GENERATED)] = None,
    prompts: Annotated[Integer, Parameter(group=GENERATED)] = 32,
    prompt_tokens: Annotated[Integer, Parameter(group=GENERATED)] = 0,
    new_tokens: Annotated[Integer | None, Parameter(group=GENERATED)] = None,
    seed: Annotated[Integer, Parameter(group=GENERATED)] = 0,
    embedding_model: Annotated[Path | None, Parameter(group=GENERATED)] = None,
    samples: Annotated[Integer, Parameter(group=GENERATED)] = 2,
    picture: Annotated[Path | None, Parameter(group=GENERATED)] = None,
    chat: Annotated[Flag, Parameter(group=CHAT)] = False,
    ifeval: Annotated[Path | None, Parameter(group=CHAT)] = None,
    gsm8k: Annotated[Path | None, Parameter(group=CHAT)] = None,
    conversations: Annotated[Path | None, Parameter(group=CHAT)] = None,
    limit: Annotated[Integer, Parameter(group=CHAT)] = 0,
    shots: Annotated[Integer, Parameter(group=CHAT)] = 0,
    decoding: Annotated[str, Parameter(group=CHAT)] = DECODING,
    code: Annotated[Literal["humaneval", "mbpp", "infilling", "exercism"] | None, Parameter(group=CODE)] = None,
    problems: Annotated[Path | None, Parameter(group=CODE)] = None,
    execute: Annotated[Flag, Parameter(group=CODE)] = False,
    attempts: Annotated[Integer, Parameter(group=CODE)] = 1,
    ranked: Annotated[Flag, Parameter(group=CODE)] = False,
    index: Annotated[Path | None, Parameter(group=INDEX)] = None,
    questions: Annotated[Path | None, Parameter(group=INDEX)] = None,
    rows: Annotated[Path | None, Parameter(group=MEDIA)] = None,
    top: Annotated[Integer, Parameter(group=MEDIA)] = 0,
    json: Flag = False,
    json_file: Path | None = None,
    force: Flag = False,
) -> None:
    """Measure how well a run's model predicts held-out text, and the quality of the text it generates, or how it chats.

    Parameters
    ----------
    others:
        With --chat: more runs, to be compared with the first one.
    data:
        Dataset to evaluate on; defaults to the one the run was trained on.
    context_length:
        Tokens the model sees at once; 0 means its whole context.
    stride:
        Use a sliding window that advances by this many tokens. Each token is scored once, with at least context - stride
        tokens of context. 0 means windows without overlap.
    per_document:
        Also evaluate each held-out document by itself, and list the hardest and the easiest.
    generate:
        Generate continuations of held-out prompts, and compare them with the human ones.
    compare:
        Compare several settings, separated by commas: presets, greedy, pure, default, .toml files, or values such as
        temperature=0.7+top_p=0.9.
    prompts:
        Number of prompts: beginnings of held-out documents first, then passages from inside.
    prompt_tokens:
        Tokens per prompt; 0 means 32, or half of the context if that is smaller.
    new_tokens:
        Maximum tokens per text; by default 128, with --chat 512.
    seed:
        Selects the prompts and seeds the sampling.
    embedding_model:
        Folder of a local sentence-embedding model to measure coherence with; defaults to the model's own hidden states.
    samples:
        Number of prompts whose texts are printed below the metrics.
    picture:
        Plot the comparison into this .png, .svg or .pdf file.
    chat:
        Evaluate replies to conversations instead of held-out text; needs one of the files below.
    ifeval:
        Prompts of IFEval: instructions whose following a program can check (needs the extra eval).
    gsm8k:
        Problems of GSM8K, whose answer is the last number of the reply.
    conversations:
        Held-out conversations, to measure the loss of what the assistant says.
    limit:
        Rows to take from the start of each file; 0 means all.
    shots:
        Solved problems that precede each problem: the first of --gsm8k, which are not scored then.
    decoding:
        Settings to generate the replies with; one of those that --compare takes.
    code:
        Evaluate solutions of problems instead of held-out text: HumanEval, MBPP, the single-line infilling of HumanEval, or
        Exercism's exercises.
        --limit, --decoding, --new-tokens, --seed and --samples apply to it as to --chat.
    problems:
        The problems, in the file that their authors publish (JSON, one object per line, perhaps .gz), or Exercism's folder
        exercises/practice.
    execute:
        Run the tests of the problems, and so code that the model wrote: in processes with limits of time and memory and,
        where the system allows it, without a network. This is isolation against accidents, not security.
    attempts:
        Solutions of each problem; pass@10 needs 10, pass@100 needs 100, and --decoding that samples.
    ranked:
        Of the attempts at a problem, count only the one that glassgpt complete would show first.
    index:
        Evaluate an index of documents, created by glassgpt index, and with a run its answers; needs --questions.
    questions:
        Questions whose document is known: rows of JSON with source and question (or term and meaning) and perhaps options
        and answer, or a file in the format of SQuAD.
    rows:
        Pictures and sounds whose text is known, as rows of prepare --format multimodal, to measure how often the model says it
        exactly; also by other keys of the rows, such as the language. --limit and --samples apply to it as to --chat.
    top:
        Also count how often the text is among the TOP most probable ones of all texts with the same prompt.
    json:
        Print one JSON object instead of tables.
    json_file:
        Also write the JSON object to this file.
    force:
        Overwrite existing files.
    """
    from glassgpt.cli.checks import check_run_and_dataset
    from glassgpt.data.files import check_output_path
    from glassgpt.generation.presets import load_generation_preset
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    files = ChatFiles(ifeval, gsm8k, conversations, limit, shots)
    text_options = {
        "--data": data is not None, "--context-length": context_length != 0, "--stride": stride != 0,
        "--per-document": per_document, "--generate": generate, "--compare": compare is not None,
        "--prompts": prompts != 32, "--prompt-tokens": prompt_tokens != 0,
        "--embedding-model": embedding_model is not None, "--picture": picture is not None,
    }  # fmt: skip
    if top and rows is None:
        raise UsageError("--top is for pictures and sound; add --rows FILE")
    if rows is not None:
        require_no_text_options(
            "--rows", {**text_options, "--chat": chat, "--code": code is not None, "--index": index is not None}
        )
        if run is None or others:
            raise UsageError("--rows evaluates one run; give its folder")
        evaluate_media(
            run, rows, top=top, limit=limit, samples=samples, checkpoint=checkpoint, device=device, json=json,
            json_file=json_file, force=force,
        )  # fmt: skip
        return
    if index is not None or questions is not None:
        require_no_text_options("--index", {**text_options, "--chat": chat, "--code": code is not None})
        evaluate_an_index(
            run, index, questions, limit=limit, checkpoint=checkpoint, device=device, json=json, json_file=json_file,
            force=force,
        )  # fmt: skip
        return
    if run is None:
        raise UsageError("no run is given; give the folder of a run, or --index INDEX with --questions FILE")
    if code is None:
        require_code(
            {"--problems": problems is not None, "--execute": execute, "--attempts": attempts != 1, "--ranked": ranked}
        )
    if chat or code is not None:
        require_no_text_options(
            "--chat" if code is None else "--code",
            text_options,
        )
    if code is not None:
        files.require_limit_alone(len(others), chat=chat)
        evaluate_code(
            run, code, problems, execute=execute, attempts=attempts, ranked=ranked, limit=limit, decoding=decoding,
            new_tokens=new_tokens, seed=seed, samples=samples, checkpoint=checkpoint, device=device, json=json, json_file=json_file, force=force,
        )  # fmt: skip
        return
    if chat:
        evaluate_chat(
            [run, *others], files, decoding=decoding, new_tokens=new_tokens, seed=seed, samples=samples, checkpoint=checkpoint,
            device=device, json=json, json_file=json_file, force=force,
        )  # fmt: skip
        return
    files.require_none(len(others), decoding)
    check_run_and_dataset(run, data, is_continued=generate or compare is not None)
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    if picture is not None:
        check_output_path("--picture", picture, force=force)
    if embedding_model is not None and not embedding_model.is_dir():
        raise UsageError(f"--embedding-model is {embedding_model}, which is not a folder")

    for name in (compare or "").split(","):
        if name.strip().endswith(".toml"):
            load_generation_preset(name.strip())
    require_checkpoint_and_hash(RunFolder(run), checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt import api
    from glassgpt.evaluation.compare import parse_settings_list
    from glassgpt.evaluation.evaluate import EvaluationRequest
    from glassgpt.evaluation.held_out import PromptOptions

    settings = parse_settings_list(compare) if compare is not None else {"default": {}} if generate else {}
    if picture is not None and not settings:
        raise UsageError("--picture plots a comparison; add --compare SETTINGS or --generate")
    if embedding_model is not None and not settings:
        raise UsageError("--embedding-model is for generated text; add --compare SETTINGS or --generate")
    request = EvaluationRequest(
        context_length=context_length,
        stride=stride,
        per_document=per_document,
        settings=settings,
        prompts=PromptOptions(prompts, prompt_tokens, 128 if new_tokens is None else new_tokens, seed),
        embedding_model=embedding_model,
    )
    loaded, dataset = api.load_with_dataset(run, data, checkpoint=checkpoint, device=device, batch_size=prompts)
    console.info(f"checkpoint: {loaded.checkpoint}")
    api.evaluate(
        loaded, dataset, request, as_json=json, samples=samples, json_file=json_file, picture=picture, force=force
    )


def sweep_decoding(
    run: Run,
    *,
    purpose: Annotated[str, Parameter(name="--for")],
    out: Path | None = None,
    force: Flag = False,
    budget: Integer = 1500,
    prompts: Integer = 64,
    prompt_tokens: Integer = 0,
    new_tokens: Integer = 96,
    seed: Integer = 0,
    samples: Integer = 1,
    data: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
) -> None:
    """Search for the temperature, top-p or min-p, and repetition penalty whose texts best match human text for a purpose.

    Parameters
    ----------
    purpose:
        creative, technical, chat or code: defines the score, and the preset whose other settings are kept.
    out:
        Settings file to write, for generate --settings; defaults to decoding-PURPOSE.toml in the run.
    force:
        Overwrite an existing file.
    budget:
        Approximate number of texts that the search may generate; more is slower and more reliable.
    prompts:
        Maximum number of held-out prompts to compare the finalists on. Half as many again are set aside to validate the
        winner against the preset and the defaults of generate.
    prompt_tokens:
        Tokens per prompt; 0 means 32, or half of the context if that is smaller.
    new_tokens:
        Maximum tokens per text.
    seed:
        Selects the prompts and seeds the sampling; the same seed finds the same settings.
    samples:
        Number of prompts whose texts are printed below the ranking.
    data:
        Dataset to take prompts from; defaults to the one the run was trained on.
    """
    from glassgpt.cli.checks import check_run_and_dataset
    from glassgpt.data.files import check_output_path
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    check_run_and_dataset(run, data, is_continued=True)
    path = out or run / f"decoding-{purpose}.toml"
    check_output_path("--out", path, (".toml",), force=force)
    require_checkpoint_and_hash(RunFolder(run), checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt import api
    from glassgpt.api.evaluation import require_sample_count
    from glassgpt.evaluation.held_out import PromptOptions
    from glassgpt.evaluation.objectives import objective_for
    from glassgpt.evaluation.show_sweep import show_sweep

    objective_for(purpose)
    require_sample_count(samples)
    loaded, dataset = api.load_with_dataset(run, data, checkpoint=checkpoint, device=device, batch_size=prompts)
    console.info(f"checkpoint: {loaded.checkpoint}")
    options = PromptOptions(prompts, prompt_tokens, new_tokens, seed)
    found = api.sweep_decoding(loaded, dataset, purpose, options, budget=budget, out=path, run=run.absolute().name)
    show_sweep(found, loaded.tokenizer, samples)
    console.info(
        f"wrote {path}; use it with: glassgpt generate {shlex.quote(str(run))} --settings {shlex.quote(str(path))}"
    )
