"""Generation after pictures and sound: every strategy sees them, and the engine's texts are those of a plain loop."""

import asyncio
import functools
import gc
import io
import json
import re
import threading
import wave

import numpy as np
import pytest
import torch
from multimodal_helpers import GEOMETRY, picture, sound
from named_media import NAMES
from PIL import Image
from safetensors.torch import load_file

from glassgpt import api
from glassgpt.api.multimodal import encoded_prompts, prompt_with_media
from glassgpt.api.releasing import ReleasingIterator
from glassgpt.data import PrepareOptions, prepare
from glassgpt.errors import GenerationError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.vectors import VectorTable
from glassgpt.multimodal.audio import encode_audio_readable
from glassgpt.multimodal.image import encode_image_readable
from glassgpt.multimodal.media_input import read_medium
from glassgpt.multimodal.model import MultimodalModel

GREEDY = {"temperature": 0.0, "max_tokens": 20}


@pytest.fixture(scope="module")
def named(named_run):
    return api.load(named_run, device="cpu")


def png(item):
    stream = io.BytesIO()
    Image.fromarray(item.data).save(stream, "PNG")
    return stream.getvalue()


def wav(item, rate=GEOMETRY.rate):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(item.data.tobytes())
    return stream.getvalue()


@torch.no_grad()
def plain_loop(model, tokenizer, item, text, steps=12):
    """Return the greedy continuation by the readable encoders and whole forward passes without a cache."""
    encode = {"image": encode_image_readable, "audio": encode_audio_readable}[item.modality]
    begin = tokenizer.special_tokens[f"<|{item.modality}|>"]
    embedding, output = model.token_embedding, []
    for _ in range(steps):
        before = embedding(torch.tensor([tokenizer.end_of_text, begin]))
        after = embedding(torch.tensor([*tokenizer.encode(text), *output], dtype=torch.long))
        vectors = torch.cat([before, encode(model.encoder(item.modality), item.data), after])
        token = int(model.language_model(vectors[None])[0, -1, : tokenizer.vocab_size].argmax())
        if token == tokenizer.end_of_text:
            break
        output.append(token)
    return tokenizer.decode(output)


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_seen_or_heard_is_named_and_equals_a_plain_loop(named, kind):
    item, heard = picture(kind), sound(kind, 720)
    assert (
        named.generate(images=[item.data], **GREEDY)
        == NAMES[kind]
        == plain_loop(named.model, named.tokenizer, item, "")
    )
    assert named.generate(audio=[(heard.data, GEOMETRY.rate)], **GREEDY) == NAMES[kind]
    assert plain_loop(named.model, named.tokenizer, heard, "") == NAMES[kind]


def test_text_after_a_picture_is_continued(named):
    expected = plain_loop(named.model, named.tokenizer, picture(1), "a blue")
    assert named.generate("a blue", images=[picture(1).data], **GREEDY) == expected


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_every_strategy_sees_the_picture(named_run, precision):
    named = api.load(named_run, device="cpu", precision=precision)
    strategies = [None, BeamOptions(beams=3), ContrastiveOptions(k=2, alpha=0.1), named.speculative_decoding(tokens=3)]
    for strategy in strategies:
        options = {"max_tokens": 20, **({} if strategy and not hasattr(strategy, "stats") else {"temperature": 0.0})}
        for kind in (0, 1):
            assert named.generate(images=[picture(kind).data], strategy=strategy, **options) == NAMES[kind]


def test_streams_samples_explanations_and_batches_see_the_picture(named):
    images = [picture(1).data]
    assert "".join(named.stream(images=images, **GREEDY)) == NAMES[1]
    assert [each.text for each in named.samples(images=images, num_samples=2, **GREEDY)] == [NAMES[1]] * 2
    prompts = [prompt_with_media(named.model, None, [picture(kind).data], []) for kind in (0, 1, 0)]
    assert named.generate_many([*prompts, "a red"], **GREEDY)[:3] == [NAMES[0], NAMES[1], NAMES[0]]
    found = {each.index: each.text for each in named.iterate_many(prompts, **GREEDY)}
    assert found == {0: NAMES[0], 1: NAMES[1], 2: NAMES[0]}
    ((sample, trace),) = named.explain(prompts[1], top=2, **GREEDY)
    assert (sample.text, len(trace.steps)) == (NAMES[1], len(sample.tokens) + 1)


def test_penalties_and_bans_leave_ids_of_pictures_alone(named):
    images = [picture(0).data]
    strong = {**GREEDY, "repetition_penalty": 1.01, "no_repeat_ngram": 3, "ban": ["zebra"], "presence_penalty": 0.01}
    assert named.generate(images=images, **strong) == NAMES[0]


def test_rows_of_the_table_are_given_back(named):
    table = named.decoding_model.token_embedding
    assert isinstance(table, VectorTable)
    for _ in range(3):
        named.generate(images=[picture(0).data], **GREEDY)
        with pytest.raises(GenerationError):
            named.generate(images=[picture(0).data], max_tokens=-1)
        next(iter(named.stream(images=[picture(0).data], **GREEDY)))
    assert table.n_added == 0
    assert table.add(torch.zeros(1, table.embedding_dim)).start == table.num_embeddings  # the first row is free again
    table.remove(range(table.num_embeddings, table.num_embeddings + 1))


def test_rows_of_texts_that_are_never_read_are_given_back(named):
    table, prompt = named.decoding_model.token_embedding, prompt_with_media(named.model, None, [picture(0).data], [])
    for make in (
        lambda: named.stream(images=[picture(0).data], **GREEDY),
        lambda: named.stream_chunks(prompt, **GREEDY),
        lambda: named.iterate_many([prompt, prompt], **GREEDY),
    ):
        kept = make()
        assert table.n_added > 0
        kept.close()  # although it has not begun, and is still referred to
        assert table.n_added == 0
        assert list(kept) == []
        make()  # and dropped
        assert table.n_added == 0
        in_a_cycle = [make()]
        in_a_cycle.append(in_a_cycle)
        del in_a_cycle
        gc.collect()
        assert table.n_added == 0
        with make() as begun:
            next(begun)
            assert table.n_added > 0
        assert table.n_added == 0


def test_an_iterator_releases_once_however_it_ends():
    def failing():
        yield 1
        raise ValueError("broken")

    def exhausted_with_an_error(it):
        with pytest.raises(ValueError, match="broken"):
            list(it)

    for items, end in (
        (iter([1]), list),
        (failing(), exhausted_with_an_error),
        (iter([1]), ReleasingIterator.close),
        (iter([1]), lambda it: None),
    ):
        released = []
        each = ReleasingIterator(items, functools.partial(released.append, True))
        end(each)
        del each
        gc.collect()
        assert released == [True]


def test_the_collector_may_give_rows_back_while_others_are_added():
    table = VectorTable(torch.nn.Embedding(5, 3))

    class Vectors(torch.Tensor):
        """Garbage is collected, in the thread that adds them, while they are added."""

        def detach(self):
            gc.collect()
            return torch.ones(2, 3)

    garbage = ReleasingIterator(iter([]), functools.partial(table.remove, table.add(torch.ones(4, 3))))
    cycle = [garbage]
    cycle.append(cycle)
    del garbage, cycle
    gc.disable()
    try:
        thread = threading.Thread(target=table.add, args=(torch.ones(2, 3).as_subclass(Vectors),), daemon=True)
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert table.n_added == 2


def test_rows_can_be_taken_back_while_another_thread_looks_for_one():
    table = VectorTable(torch.nn.Embedding(5, 3))
    first, second = table.add(torch.ones(2, 3)), table.add(torch.ones(1, 3))
    spans = iter(table._added.used)  # what `in` goes through
    next(spans)
    table.remove(first)
    assert next(spans) == (2, 3)
    assert second.start in table
    assert first.start not in table


def test_a_table_reuses_gaps_and_keeps_what_is_in_use():
    embedding = torch.nn.Embedding(5, 3)
    table = VectorTable(embedding)
    ids = torch.tensor([[0, 4]])
    assert torch.equal(table(ids), embedding(ids))
    vectors = [torch.randn(count, 3) for count in (4, 2, 3)]
    first, second, third = (table.add(each) for each in vectors)
    table.remove(second)
    fourth = table.add(torch.ones(1, 3))
    assert fourth == range(second.start, second.start + 1)
    assert second.start in table
    assert second.start + 1 not in table
    assert torch.equal(
        table(torch.tensor([*first, 2, *third])), torch.cat([vectors[0], embedding.weight[2:3], vectors[2]])
    )


def test_copies_of_a_model_share_what_is_added(named):
    original = named.decoding_model
    copied = copy_sharing_weights(original)
    with original.token_embedding.holding(torch.ones(2, original.config.n_embd)) as ids:
        assert torch.equal(copied.token_embedding(torch.tensor([[*ids]])), torch.ones(1, 2, original.config.n_embd))
        assert copied.token_embedding is not original.token_embedding
    assert copied.token_embedding.n_added == 0


def test_files_of_any_kind_give_the_same_picture_and_sound(named, tmp_path):
    item, heard, config = picture(0), sound(0), named.model.multimodal
    path = tmp_path / "a.png"
    path.write_bytes(png(item))
    for given in (path, str(path), png(item), item.data, Image.fromarray(item.data)):
        assert np.array_equal(read_medium(given, "image", config).data, item.data)
    for given in (wav(heard), (heard.data, GEOMETRY.rate), (heard.data / 32768, GEOMETRY.rate)):
        assert np.array_equal(read_medium(given, "audio", config).data, heard.data)


def test_marks_in_the_text_place_the_media(named):
    options = GenerationOptions()
    model, decoding, tokenizer = named.model, named.decoding_model, named.tokenizer
    begin = tokenizer.special_tokens["<|image|>"]
    n = GEOMETRY.image_positions

    def ids(text, *images):
        prompt = prompt_with_media(model, text, [each.data for each in images], [])
        with encoded_prompts(model, decoding, tokenizer, [prompt], options) as (tokens,):
            return tokens

    before = ids("a bird", picture(0))
    assert before[:2] == [tokenizer.end_of_text, begin]
    assert before[2 + n :] == tokenizer.encode("a bird")
    within = ids("a <|image|> bird", picture(0))
    assert within[1 : 1 + len(tokenizer.encode("a "))] == tokenizer.encode("a ")
    assert within[-len(tokenizer.encode(" bird")) :] == tokenizer.encode(" bird")
    with pytest.raises(GenerationError, match=r"has <\|image\|> 1 times, but there are 2 media"):
        ids("a <|image|>", picture(0), picture(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": "a.png"}, "images is 'a.png'; it must be a list"),
        ({"images": ["missing.png"]}, "missing.png: it cannot be"),
        ({"images": [b"no picture"]}, "the image: it is not a picture"),
        ({"images": [np.zeros((4, 4))]}, "a picture is an array .4, 4. of float64"),
        ({"images": [3]}, "a picture is a int; it must be a path"),
        ({"audio": [b"no sound"]}, "the audio: it is not sound"),
        ({"audio": [(np.zeros((2, 2)), 8000)]}, r"a sound is an array .2, 2."),
        ({"audio": [(np.array([np.nan]), 8000)]}, "not finite"),
        ({"audio": [(np.zeros(8000 * 60 + 1), 8000)]}, "longer than 60 seconds"),
        ({"audio": [(np.zeros(50), 1)]}, "its rate is 1; it must be from 1,000"),
        ({"audio": [(np.zeros(9), 0)]}, "a pair of samples and their rate"),
        ({"images": [picture(0).data] * 30}, "takes 151 positions, more than the model's context of 64"),
    ],
)  # fmt: skip
def test_mistakes_name_the_problem(named, arguments, message):
    with pytest.raises(GenerationError, match=message):
        named.generate(**arguments, **GREEDY)


def test_a_draft_model_is_refused_and_a_text_model_says_that_it_cannot_see(named, nano_run):
    strategy = named.speculative_decoding(named)
    with pytest.raises(GenerationError, match="a draft model cannot see or hear"):
        named.generate(images=[picture(0).data], strategy=strategy, **GREEDY)
    with pytest.raises(GenerationError, match="trained on text alone"):
        api.load(nano_run, device="cpu").generate(images=[picture(0).data])


def test_generate_names_files_on_the_command_line(named_run, run_main, tmp_path):
    (tmp_path / "bird.png").write_bytes(png(picture(1)))
    (tmp_path / "apple.wav").write_bytes(wav(sound(0, 720)))
    common = ("generate", named_run, "--temperature", "0", "--device", "cpu", "--max-tokens", "20")
    assert run_main(*common, "--image", tmp_path / "bird.png")[:2] == (0, NAMES[1] + "\n")
    assert run_main(*common, "--audio", tmp_path / "apple.wav")[:2] == (0, NAMES[0] + "\n")
    code, out, _ = run_main(*common, "--image", tmp_path / "bird.png", "--prompt", "a blue", "--json")
    line = json.loads(out)
    assert (code, line["prompt_text"] + line["text"]) == (0, NAMES[1])
    code, out, _ = run_main(*common, "--image", tmp_path / "bird.png", "--explain")
    assert code == 0
    code, out, _ = run_main(
        *common[:2], "--beams", "2", "--device", "cpu", "--max-tokens", "20", "--image", tmp_path / "bird.png"
    )
    assert (code, out) == (0, NAMES[1] + "\n")


@pytest.mark.parametrize("text", ["<|image|>", "a <|audio|> bird <|image|>", "a blue bird<|image|>"])
def test_a_spelled_begin_token_is_text_or_refused(named, text):
    """Without `parse_special_tokens` it is text; with it, it would stand where the model has always had a picture."""
    parsed = {**GREEDY, "parse_special_tokens": True}
    ids = named.tokenizer.encode(text)
    assert not set(ids) & set(named.tokenizer.special_tokens.values())
    assert [named.generate(text, **GREEDY)] == [named.generate_many([ids], **GREEDY)[0]]
    name = next(part for part in ("<|audio|>", "<|image|>") if part in text)
    refused = pytest.raises(GenerationError, match=rf"the prompt has {re.escape(name)} without what it begins")
    with refused:
        named.generate(text, **parsed)
    with refused:
        named.generate(text, strategy=BeamOptions(beams=2), max_tokens=5, parse_special_tokens=True)
    with refused:
        asyncio.run(named.agenerate(text, **parsed))
    with refused:
        named.generate_many([named.tokenizer.encode_with_special_tokens(text)], **GREEDY)


def test_a_spelled_begin_token_on_the_command_line(named_run, run_main):
    given = ("generate", named_run, "--prompt", "a <|image|> bird", "--device", "cpu", "--max-tokens", "3")
    code, _, errors = run_main(*given)
    assert code == 0
    assert "is ordinary text" in errors
    code, _, errors = run_main(*given, "--parse-special-tokens")
    assert code == 2
    assert "the prompt has <|image|> without what it begins" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image", "missing.png"), "--image is 'missing.png'; it must be a file"),
        (("--image", __file__), "it is not a picture in one of the formats"),
    ],
)
def test_mistakes_on_the_command_line(named_run, run_main, flags, message):
    code, _, errors = run_main("generate", named_run, *flags)
    assert code in (1, 2)
    assert message in " ".join(errors.split())


def test_a_run_of_text_refuses_pictures_before_it_is_loaded(nano_run, run_main, tmp_path):
    (tmp_path / "bird.png").write_bytes(png(picture(1)))
    code, _, errors = run_main("generate", nano_run, "--image", tmp_path / "bird.png")
    assert code == 2
    assert "--image needs a run that was trained on it" in errors


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_cost_of_a_precision_is_measured_on_documents_with_media(named_run, run_main, tmp_path, precision):
    (tmp_path / "bird.png").write_bytes(png(picture(1)))
    code, out, errors = run_main(
        "generate",
        named_run,
        "--image",
        tmp_path / "bird.png",
        "--precision",
        precision,
        "--device",
        "cpu",
        "--temperature",
        "0",
    )
    assert (code, out) == (0, NAMES[1] + "\n")
    assert f"{precision}: perplexity " in errors


def test_a_run_is_evaluated_on_its_documents(named_run, run_main):
    code, out, errors = run_main("evaluate", named_run)
    assert code == 0
    assert "validation loss" in out + errors


def test_an_export_is_the_language_model_and_says_so(named, named_run, run_main, tmp_path):
    code, _, errors = run_main("export", named_run, tmp_path / "hf")
    assert code == 0
    assert "only the language model is exported" in errors
    exported = load_file(tmp_path / "hf" / "model.safetensors")
    assert not any("encoder" in name for name in exported)
    assert torch.equal(exported["transformer.wte.weight"], named.model.token_embedding.weight)


def test_compression_is_that_of_the_language_model_and_says_so(named_run, run_main, tmp_path):
    words = ["a red apple and a blue bird, 빨간 사과"] * 50  # those of which `multimodal_helpers.tokenizer` is made
    (tmp_path / "text.txt").write_text("\n".join(words * 20))
    text = tmp_path / "text"
    prepare(PrepareOptions((str(tmp_path / "text.txt"),), text, tokenizer=str(named_run), deduplicate=False))
    code, _, errors = run_main("compress", named_run, "--out", tmp_path / "small", "--int8", "--data", text)
    assert code == 0, errors
    assert "only the language model is compressed" in errors
    assert not isinstance(api.load(tmp_path / "small", device="cpu").model, MultimodalModel)
