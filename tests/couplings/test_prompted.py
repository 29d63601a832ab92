"""Prompts with seeded noise, and labelled images whose labels become prompts."""

import pytest
import torch
from texts import TEXT, Hashed

from flowlit.couplings import PromptedImages, PromptedNoise, SeededNoise
from flowlit.couplings.prompted import without_text
from flowlit.data import Digits, Pixels, Prompts
from flowlit.errors import FlowlitError

DIGITS = [str(i) for i in range(10)]
SHAPE = (1, 8, 8)


def source(num=12, seed=3, texts=("a", "b", "c"), encoder=None):
    return PromptedNoise(SHAPE, num, Prompts(texts=list(texts)), encoder or Hashed(), seed)


def test_a_row_is_a_function_of_seed_and_index_alone():
    rows = source().batch(range(12))
    assert torch.equal(rows.x0, SeededNoise(SHAPE, 12, 3).batch(range(12)).x0)
    expected = Hashed()(["a", "b", "c"])
    assert torch.equal(rows.cond["text"], expected.repeat(4, 1, 1))
    some = source(5).first(100).batch([7, 2])
    assert torch.equal(some.x0, rows.x0[[7, 2]]) and torch.equal(some.cond["text"], rows.cond["text"][[7, 2]])
    assert torch.equal(source()[7].cond["text"], expected[1])
    assert not torch.equal(source().reseeded(4).batch([0]).x0, rows.x0[:1])


def test_its_identity_has_the_prompts_and_the_encoder():
    same = source().identity()
    assert same == source(99).identity() and same["prompts"]["number"] == 3
    others = [source(seed=1), source(texts="abd"), source(texts="acb"), source(encoder=Hashed(1))]
    others.append(source(encoder=Hashed(precision="bf16")))
    assert all(other.identity() != same for other in others)


def coupling(share=0.0, **arguments):
    prompts = Prompts(classes=DIGITS, template="a {}")
    return PromptedImages(Digits(limit=64), prompts, Hashed(), share, **arguments)


def batch(rows=64):
    images = Digits(limit=64)
    items = [images[i] for i in range(rows)]
    labels = torch.stack([item["cond"]["label"] for item in items])
    return {"x1": torch.stack([item["x1"] for item in items]), "cond": {"label": labels}}, labels


def test_labels_become_prompts_and_are_gone():
    given, labels = batch()
    paired = coupling()
    paired.dataset()
    pair = paired.complete(given, torch.device("cpu"))
    assert pair.cond.keys() == {"text"}
    assert torch.equal(pair.cond["text"], Hashed()([f"a {int(label)}" for label in labels]))
    assert torch.equal(pair.x1, Pixels().encode(given["x1"]))
    assert len(paired.encoder.encoded) == 11, "each prompt once, and the empty one"
    _, cond = paired.blank(given["x1"][0], given["cond"])
    assert {name: value.shape for name, value in cond.items()} == {"text": TEXT}


def test_dropout_puts_the_empty_text_in_place_of_its_share():
    paired = coupling(0.25)
    paired.dataset()
    given, labels = batch()
    null = Hashed().null()
    torch.manual_seed(0)
    texts = torch.cat([paired.complete(given, torch.device("cpu")).cond["text"] for _ in range(40)])
    empty = (texts == null).all((1, 2))
    assert abs(float(empty.float().mean()) - 0.25) < 0.04, "0.009 is one standard deviation"
    whole = Hashed()([f"a {int(label)}" for label in labels]).repeat(40, 1, 1)
    assert torch.equal(texts[~empty], whole[~empty])
    torch.manual_seed(0)
    again = paired.complete(given, torch.device("cpu")).cond["text"]
    assert torch.equal(again, texts[:64]), "the same draws"


def test_dropout_of_embeddings_has_its_extremes():
    text, null = torch.randn(5, *TEXT), torch.randn(TEXT)
    assert without_text(text, null, 0.0) is text
    assert torch.equal(without_text(text, null, 1.0), null.expand(5, -1, -1))


def test_images_without_labels_and_too_few_prompts_are_refused():
    few = PromptedImages(Digits(limit=64), Prompts(classes=DIGITS[:7]), Hashed())
    with pytest.raises(FlowlitError, match="have 10 classes, but there are 7 prompts"):
        few.dataset()
    unlabelled = PromptedImages(Digits(labels=False), Prompts(classes=DIGITS), Hashed())
    with pytest.raises(FlowlitError, match="have no labels to make prompts of; set labels: true"):
        unlabelled.dataset()
