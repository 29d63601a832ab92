"""Averages of a module's weights: their keys, their choice, and what checkpoints hold of them."""

from copy import deepcopy

import pytest
import tiny
import torch

from flowlit.errors import FlowlitError
from flowlit.modules import Teacher
from flowlit.modules.averages import Averages, averages_of

KEYS = {"mix.weight", "mix.bias", "drift", "calls"}


def keeping(*names, updates=3, **options):
    """A module that keeps averages, each of which has moved away from the others."""
    module = Teacher(tiny.Affine(), **options)
    for place, name in enumerate(names, 1):
        module.averages.begin(name, module.network)
        module.averages.average(name).drift.data.fill_(place)
        module.averages.record(name, {"decay": place / 10, "updates": updates})
    return module


def checkpoint(module, step=3):
    content = {"global_step": step, "state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    return content


def test_keys_of_a_state_dict_are_flat():
    def keys(*prefixes):
        return {f"{prefix}.{key}" for prefix in prefixes for key in KEYS}

    assert keeping().state_dict().keys() == keys("network", "ema")
    module = keeping("ema", "long", "short")
    assert module.state_dict().keys() == keys("network", "ema", "averages.long", "averages.short")


def test_a_copy_of_a_module_has_averages_of_its_own():
    """``ema`` stands in two places, of which one is no sub-module."""
    module = keeping("ema", "long")
    copy = deepcopy(module)
    assert copy.averages.ema is copy.ema and copy.ema is not module.ema
    assert [id(n) for n in copy.networks()] == [id(copy.network), id(copy.ema), id(copy.averages["long"])]
    assert module.to(torch.float64).averages.ema.drift.dtype == torch.float64


@pytest.mark.parametrize(("choice", "drift"), [("ema", 1.0), ("long", 2.0), ("raw", 1.0)])
def test_outside_training_the_choice_is_read_into_ema(choice, drift):
    content = checkpoint(keeping("ema", "long"))
    module = Teacher(tiny.Affine(), weights=choice)
    module.on_load_checkpoint(content)
    module.load_state_dict(content["state_dict"])
    assert not module.averages and float(module.ema.drift.mean()) == drift
    assert module.averages.generating() == choice
    assert module.velocity() is (module.network if choice == "raw" else module.ema)
    expected = {} if choice == "raw" else {"decay": drift / 10, "updates": 3}
    assert module.averages.describe(choice) == expected


def test_a_choice_that_a_checkpoint_lacks_is_refused():
    with pytest.raises(FlowlitError, match="weights is 'short', but the checkpoint holds ema, long, raw"):
        Teacher(tiny.Affine(), weights="short").on_load_checkpoint(checkpoint(keeping("ema", "long")))
    with pytest.raises(FlowlitError, match="weights is 'short'; expected 'ema' or 'raw' or 'long'"):
        keeping("long", weights="short").velocity()


def test_training_goes_on_with_the_same_averages_only():
    content = checkpoint(keeping("ema", "long"))
    same, other = Averages(tiny.Affine()), Averages(tiny.Affine())
    for name in ("ema", "long"):
        same.begin(name, tiny.Affine())
    same.read_checkpoint(content, training=True)
    assert (
        same.metadata
        == averages_of(content)
        == {
            "ema": {"decay": 0.1, "updates": 3},
            "long": {"decay": 0.2, "updates": 3},
        }
    )
    other.begin("ema", tiny.Affine())
    with pytest.raises(FlowlitError, match=r"averages of the checkpoint are ema, long, .* callbacks ema;"):
        other.read_checkpoint(content, training=True)


def test_an_average_that_has_not_moved_is_none():
    module = keeping("ema", updates=0)
    assert module.averages.describe("ema") == {} and module.velocity() is module.network
    assert averages_of(checkpoint(module)) == {}
