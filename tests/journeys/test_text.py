"""Text through every stage, from YAMLs: a teacher of prompts, its pairs, a student, its samples."""

from importlib.util import find_spec

import pytest
import tiny
import torch
from commandline import in_process
from texts import Hashed

import flowlit
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs

pytestmark = pytest.mark.journey

NETWORK = {"class_path": "texts.Reader"}
PROMPTS = {"classes": [str(k) for k in range(10)], "template": "the digit {}"}
HASHED = {"class_path": "texts.Hashed", "init_args": {"seed": 4}}
CLIP = {"class_path": "flowlit.data.RandomCLIPText", "init_args": {"width": 16, "layers": 1, "heads": 2}}


def noise(encoder, num=8):
    arguments = {"shape": list(tiny.SHAPE), "num": num, "prompts": PROMPTS, "encoder": encoder}
    return {"class_path": "flowlit.couplings.PromptedNoise", "init_args": arguments}


def images(encoder):
    digits = {"class_path": "flowlit.data.Digits", "init_args": {"limit": 40}}
    arguments = {"images": digits, "prompts": PROMPTS, "encoder": encoder, "text_dropout": 0.2}
    return {"class_path": "flowlit.couplings.PromptedImages", "init_args": arguments}


def run(command, root, configuration, *words):
    file = tiny.write(root / f"{command}.yaml", configuration)
    outcome = in_process(command, "-c", file, *words)
    assert outcome.code == 0, outcome.err
    return outcome


def stages(root, encoder, network=NETWORK):
    """Train a teacher, make its pairs, train a student on them."""
    data = {"noise": noise(encoder)}
    run("fit", root / "teacher", tiny.fit(root / "teacher", "Teacher", network, images(encoder), data=data))
    teacher = str(next((root / "teacher").rglob("*.ckpt")))
    couple = tiny.fit(root, network=network, data=data)
    couple["data"]["init_args"].pop("coupling")
    couple["trainer"] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    size = {"num": 30, "seed": 5, "shard_size": 20, "batch_size": 10, "store": str(root / "pairs")}
    run("couple", root, {**couple, **size}, "--ckpt_path", teacher)
    pairs = tiny.cached(root / "pairs", text_dropout=0.1)
    student = tiny.fit(root / "student", "ReflowStudent", network, pairs, data=data)
    run("fit", root / "student", student)
    return root / "pairs", root / "student"


def test_a_student_of_prompted_pairs_samples_by_prompt(tmp_path):
    store, student = stages(tmp_path, HASHED)
    manifest = read_manifest(store)
    assert manifest["conditions"] == {"prompt": ["int64", []]} and manifest["labels"] is None
    texts = StoredPairs([store]).__getitems__(range(30)).cond["text"]
    assert torch.equal(texts[:10], Hashed(4)([f"the digit {k}" for k in range(10)]))
    assert torch.equal(texts[10:20], texts[:10])
    assert in_process("couplings", "verify", store).code == 0
    assert "number 10, law by index" in in_process("couplings", "info", store).out
    generator = flowlit.load(student, weights="raw")
    assert generator.network.text_encoder["fingerprint"] == "hashed 4"
    assert torch.equal(generator.network.null_text, Hashed(4).null())
    words = ("--prompt", "the digit 3", "the digit 8", "--weights", "raw", "--into", tmp_path / "two.npz")
    outcome = in_process("sample", student, *words)
    assert outcome.code == 0 and "2 images" in outcome.out, outcome.err


@pytest.mark.slow
def test_the_same_with_the_encoder_of_clip(tmp_path):
    if find_spec("transformers") is None or find_spec("open_clip") is None:
        pytest.skip("the extra text is not installed")
    network = {"class_path": "texts.Reader", "init_args": {"text": [77, 16]}}
    store, student = stages(tmp_path, CLIP, network)
    assert StoredPairs([store])[0].cond["text"].shape == (77, 16)
    generator = flowlit.load(student, weights="raw")
    first, again, other = generator.sample(
        seeds=[1, 1, 1], prompts=["the digit 3", "the digit 3", "the digit 8"]
    )
    assert torch.equal(first, again) and generator.network.text_encoder["class_path"].endswith(
        "RandomCLIPText"
    )
    assert other.shape == first.shape
