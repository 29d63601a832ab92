"""Embeddings follow from the prompt alone, once each; vocabulary and encoder are as transformers has them."""

import json
import logging
import pickle
import shutil
from importlib.util import find_spec

import pytest
import torch
from texts import TEXT, Hashed

from flowlit.data import CLIPText, RandomCLIPText, text_encoder
from flowlit.data.clip_vocabulary import byte_signs, clip_merges, clip_vocabulary, write_tokenizer
from flowlit.errors import FlowlitError

PROMPTS = ["a photo of a cat", "", "собака 犬 🐶", "العربية हिन्दी ไทย 한국어", "Ünïcode's  don't 123"]


def test_each_prompt_is_encoded_once_and_the_same_in_any_batch():
    encoder = Hashed()
    many = encoder([f"p{i}" for i in range(40)])
    assert many.shape == (40, *TEXT) and many.dtype == torch.float32
    assert torch.equal(encoder(["p7", "p7", "new", "p39"])[[0, 1, 3]], many[[7, 7, 39]])
    assert len(encoder.encoded) == len(set(encoder.encoded)) == 41
    assert torch.equal(Hashed()(["p7"])[0], many[7])
    assert torch.equal(encoder.null(), encoder([""])[0])
    assert encoder([]).shape == (0, *TEXT)


def test_precision_rounds_and_memory_is_bounded(monkeypatch):
    exact = Hashed()(["a"])
    assert torch.equal(Hashed(precision="bf16")(["a"]), exact.bfloat16().float())
    monkeypatch.setattr(text_encoder, "REMEMBERED", 3 * 4 * 24)
    encoder = Hashed()
    encoder(list("abcdef"))
    assert torch.equal(encoder(list("abcdefgh"))[:1], exact), "more than are remembered, in one call"
    assert len(encoder._known()) == 3
    assert not pickle.loads(pickle.dumps(encoder)).__dict__.get("_cache")


def test_what_is_no_text_is_refused():
    with pytest.raises(FlowlitError, match="a prompt is 3; expected text"):
        Hashed()(["a", 3])


def test_the_vocabulary_is_that_of_clip():
    if find_spec("open_clip") is None:
        pytest.skip("open_clip_torch is not installed")
    assert len(set(byte_signs())) == 256
    vocabulary = clip_vocabulary(clip_merges())
    assert len(vocabulary) == 49408 and vocabulary["<|endoftext|>"] == 49407
    assert vocabulary["cat</w>"] == 2368 and vocabulary["a</w>"] == 320, "as CLIP numbers them"


@pytest.fixture(scope="module")
def tiny():
    if find_spec("transformers") is None or find_spec("open_clip") is None:
        pytest.skip("the extra text is not installed")
    return RandomCLIPText(16, 1, 2)


@pytest.fixture(scope="module")
def pipeline(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny.model().save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    return folder


@pytest.mark.slow
def test_tokens_are_those_of_open_clip(tiny):
    from open_clip.tokenizer import SimpleTokenizer

    for ours, theirs in zip(tiny.tokens(PROMPTS), SimpleTokenizer()(PROMPTS), strict=True):
        used = int((theirs != 0).sum())
        assert torch.equal(ours[:used], theirs[:used]) and set(ours[used:].tolist()) <= {49407}


@pytest.mark.slow
def test_weights_follow_from_the_seed_and_embeddings_from_the_prompt(tiny):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    other = RandomCLIPText(16, 1, 2)
    text = other(PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), before), "no draw of the caller's generator is used"
    assert text.shape == (5, 77, 16) and text.isfinite().all() and other.shape == (77, 16)
    assert other.fingerprint == tiny.fingerprint != RandomCLIPText(16, 1, 2, seed=1).fingerprint
    assert torch.equal(tiny(PROMPTS[::-1] + ["more"] * 20)[:5], text.flip(0))
    assert not torch.allclose(text[0], text[1], atol=0.01), "prompts differ"
    assert RandomCLIPText(**other.spec["init_args"]).fingerprint == other.fingerprint


@pytest.mark.slow
def test_fewer_tokens_make_short_prompts_less_alike(tmp_path):
    short = RandomCLIPText(16, 1, 2, length=8)
    prompts = ["ship", "frog", "red truck"]

    def share(encoder):
        text = encoder(prompts)
        return ((text - text.mean(0)).square().sum() / (text - text.mean((0, 1))).square().sum()).item()

    assert short.shape == (8, 16) and share(short) > 2 * share(RandomCLIPText(16, 1, 2))
    assert RandomCLIPText(**short.spec["init_args"]).fingerprint == short.fingerprint
    short.model().save_pretrained(tmp_path / "text_encoder")
    short.tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert torch.equal(CLIPText(str(tmp_path))(prompts), short(prompts))
    assert CLIPText(str(tmp_path)).tokenizer().model_max_length == 8


@pytest.mark.slow
def test_a_text_that_is_too_long_is_cut_which_is_said_once(caplog, tiny):
    encoder = RandomCLIPText(16, 1, 2)
    with caplog.at_level(logging.WARNING, "flowlit"):
        long = encoder(["word " * 75])
        longer = encoder(["word " * 76, "word " * 200])
    assert torch.equal(longer, long.expand(2, -1, -1))
    assert [record.getMessage().count("78 tokens, of which CLIP reads 77") for record in caplog.records] == [
        1
    ]


@pytest.mark.slow
def test_a_pipeline_folder_is_read_as_stock_transformers_reads_it(tiny, pipeline):
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = CLIPText(str(pipeline))
    assert torch.equal(encoder(PROMPTS), tiny(PROMPTS)) and encoder.fingerprint == tiny.fingerprint
    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    stock = CLIPTextModel.from_pretrained(pipeline / "text_encoder").eval()
    with torch.no_grad():
        torch.testing.assert_close(stock(tokens.input_ids)[0], encoder(PROMPTS), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_half_precision_is_read_as_float32(tiny, tmp_path):
    tiny.model().half().save_pretrained(tmp_path / "text_encoder", variant="fp16")
    tiny.model().float()
    write_tokenizer(tmp_path / "tokenizer")
    assert {path.name for path in (tmp_path / "text_encoder").glob("*.safetensors")} == {
        "model.fp16.safetensors"
    }
    text = CLIPText(str(tmp_path))(PROMPTS)
    assert text.dtype == torch.float32 and (text - tiny(PROMPTS)).abs().max() < 0.05


@pytest.mark.slow
def test_code_that_a_configuration_names_is_not_looked_for(tiny, pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "copy")
    file = folder / "text_encoder/config.json"
    named = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    assert torch.equal(CLIPText(str(folder))(PROMPTS), tiny(PROMPTS))


def test_folders_that_hold_no_encoder_are_refused(tmp_path):
    def refused(message):
        with pytest.raises(FlowlitError, match=message) as error:
            CLIPText(str(tmp_path / "p"))(["a"])
        assert "\n" not in str(error.value)

    refused("there is no such folder")
    encoder = tmp_path / "p" / "text_encoder"
    encoder.mkdir(parents=True)
    refused("there is no config.json")
    (encoder / "config.json").write_text("{}")
    refused("has no vocab.json and merges.txt, nor tokenizer.json")
    (tmp_path / "p" / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "p" / "tokenizer" / name).write_text("{}")
    refused("found nothing, expected model.safetensors")
    (encoder / "pytorch_model.bin").write_bytes(b"x")
    refused("found pytorch_model.bin, expected model.safetensors; pickled weights are not read")


@pytest.mark.slow
def test_damaged_weights_and_those_of_other_models_are_refused(pipeline, tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    def changed(state):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (folder / "text_encoder").mkdir(parents=True)
        write_tokenizer(folder / "tokenizer")
        config = json.loads((pipeline / "text_encoder/config.json").read_text())
        (folder / "text_encoder/config.json").write_text(json.dumps(config))
        if isinstance(state, bytes):
            (folder / "text_encoder/model.safetensors").write_bytes(state)
        else:
            save_file(state, folder / "text_encoder/model.safetensors", {"format": "pt"})
        return CLIPText(str(folder))

    whole = load_file(pipeline / "text_encoder/model.safetensors")
    with pytest.raises(FlowlitError, match="are missing or of another shape"):
        changed(dict(list(whole.items())[:-2]))(["a"])
    with pytest.raises(FlowlitError, match="cannot be read as CLIPTextModel"):
        changed(b"nothing of the kind")(["a"])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(FlowlitError, match="width is 10, no multiple of heads, 4"):
        RandomCLIPText(10)
    with pytest.raises(FlowlitError, match="length is 2; expected 3 tokens at least"):
        RandomCLIPText(length=2)
