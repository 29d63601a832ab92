"""Files as the authors of SlimFlow, RectifiedFlow and EDM publish them: read, checked against independent
networks, refused.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from published import edm_state, labels_of, randomise, slimflow_checkpoint, with_weights
from reference import edm_network, slimflow_network
from reference.edm_network import DhariwalUNet, EDMPrecond, SongUNet
from reference.slimflow_network import Attention, NCSNpp, Residual
from safetensors.torch import save_file
from tools import write_checkpoint

from flowlit.errors import FlowlitError
from flowlit.networks import ADM, EDM, UNet, fingerprint, pretrained

SLIMFLOW = {
    "three levels": ((16, (1, 2, 2), 2, 32), {}),
    "wide at 16": ((16, (1, 1, 2), 1, 32), {}),
    "four levels": ((16, (1, 2, 2, 2), 1, 32), {}),
    "one level": ((16, (2,), 1, 16), {}),
    "two levels": ((24, (1, 2), 2, 16), {}),
    "64 pixels": ((16, (1, 2, 2), 1, 64), {}),
    "grey": ((16, (1, 2), 1, 32), {"channels": 1}),
}
SONG = {
    "plain": {},
    "augment": {"augment": 9},
    "labels": {"classes": 10},
    "labels and augment": {"classes": 10, "augment": 9},
}


def ncsnpp(name="wide at 16", seed=0):
    arguments, options = SLIMFLOW[name]
    return randomise(NCSNpp(*arguments, **options), seed)


def song(**options):
    return randomise(SongUNet(16, (2, 2), 1, 32, **options))


def adm(classes=10, **options):
    return randomise(DhariwalUNet(64, (1, 2), 1, 16, attention_resolutions=(16,), classes=classes, **options))


def inputs(network, batch=4):
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(batch, network.channels, network.resolution, network.resolution, generator=draw)
    return x, torch.tensor([0.0, 0.013, 0.4, 1.0])[:batch]


def labels_for(network):
    labels = torch.tensor([3, 0, 9, 3])
    return ({"label": labels}, labels_of(network, labels)) if network.classes else ({}, None)


def assert_close(found, expected, tolerance=1e-5):
    """Equal within a share of the largest value."""
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert expected.std() > 0.1, "a comparison of zeros says nothing"
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def refused(path, *words, weights="raw", network=None):
    """The one message of a FlowlitError."""
    with pytest.raises(FlowlitError) as caught:
        pretrained(str(path), weights, network)
    message = str(caught.value)
    for word in (Path(path).name, *words):
        assert word in message, message
    assert len(message) < 900, message
    return message


# the references themselves


def count(make):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())


@pytest.mark.parametrize(
    "nf, mult, blocks, resolution, expected",
    [
        (128, (1, 2, 2, 2), 4, 32, 61_804_419),
        (128, (1, 2, 2), 2, 32, 27_906_179),
        (96, (1, 2, 2), 2, 32, 15_707_235),
        (64, (1, 2, 2), 2, 32, 6_989_891),
        (64, (1, 1, 2), 1, 32, 3_437_123),
        (128, (1, 2, 2), 2, 64, 27_906_179),
        (96, (1, 2, 2), 2, 64, 15_707_235),
        (64, (1, 2, 2), 2, 64, 6_989_891),
        (64, (1, 1, 2), 1, 64, 3_536_195),
    ],
)
def test_reference_ncsnpp_has_the_published_size(nf, mult, blocks, resolution, expected):
    assert count(lambda: NCSNpp(nf, mult, blocks, resolution)) == expected


@pytest.mark.parametrize(
    "nf, mult, blocks, attention, expected",
    [
        (128, (1, 2, 2, 4), 2, (32, 16), 80_685_315),
        (128, (1, 2, 2, 2), 2, (32, 16), 44_685_827),
        (192, (1, 2, 3, 4), 3, (32, 16, 8), 295_899_267),
    ],
)
def test_reference_adm_has_the_published_size(nf, mult, blocks, attention, expected):
    assert (
        count(lambda: DhariwalUNet(nf, mult, blocks, 64, attention_resolutions=attention, classes=1000))
        == expected
    )


def test_reference_songunet_has_the_published_size():
    assert round(count(lambda: SongUNet(128, (2, 2, 2), 4, 32, augment=9)) / 1e6, 1) == 55.7


def test_reference_ncsnpp_has_the_23_entries_of_the_sheet():
    parts = NCSNpp(64, (1, 1, 2), 1, 32).all_modules
    assert len(parts) == 23
    letters = {
        Residual: "R",
        Attention: "A",
        torch.nn.Linear: "L",
        torch.nn.Conv2d: "C",
        torch.nn.GroupNorm: "G",
    }
    # time, stem, three levels down, bottleneck, three levels up, head
    expected = "LL C  R R  RA R  R  RAR  RR R  RR A R  RR  GC"
    assert "".join(letters[type(part)] for part in parts) == expected.replace(" ", "")


# RectifiedFlow's and SlimFlow's checkpoints


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", SLIMFLOW)
@torch.no_grad()
def test_ncsnpp_is_the_same_function(name, weights, tmp_path):
    reference = ncsnpp(name)
    average = slimflow_checkpoint(tmp_path / "c.pth", reference)
    found = pretrained(str(tmp_path / "c.pth"), weights)
    if weights == "ema":
        with_weights(reference, average)
    x, t = inputs(reference)
    assert_close(found(x, t, {}), slimflow_network.Velocity(reference)(x, t))


@pytest.mark.parametrize("name", SLIMFLOW)
def test_ncsnpp_is_built_as_its_weights_tell(name, tmp_path):
    reference = ncsnpp(name)
    slimflow_checkpoint(tmp_path / "c.pth", reference)
    found = pretrained(str(tmp_path / "c.pth"))
    assert type(found) is UNet and not found.training
    told = found.spec["init_args"]
    expected = {
        "resolution": reference.resolution,
        "in_channels": reference.channels,
        "width": reference.nf,
        "multipliers": list(reference.mult),
        "blocks": reference.blocks,
        "attention_resolutions": [16],
        "num_classes": 0,
        "time_scale": 999.0,
    }
    assert {key: told[key] for key in expected} == expected
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in reference.parameters())


def test_each_tensor_is_accounted_for(tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp())
    for weights in ("raw", "ema"):
        found = pretrained(str(tmp_path / "c.pth"), weights)
        assert sorted(found.report.loaded) == sorted(found.state_dict())
        assert found.report.missing == found.report.unexpected == found.report.mismatched == []
        assert found.report.unused == (["sigmas"] if weights == "raw" else []), (
            "the average lists parameters only"
        )
        assert found.loaded["weights"] == weights
    assert found.loaded["ema"] == {"decay": 0.999999, "updates": 800_000}


@torch.no_grad()
def test_a_resolution_that_weights_do_not_tell_is_given(tmp_path):
    """One level of 32 pixels has attention only in the bottleneck, like one level of 8."""
    reference = randomise(NCSNpp(16, (1,), 1, 32))
    slimflow_checkpoint(tmp_path / "c.pth", reference)
    refused(tmp_path / "c.pth", "cannot be told from its weights", "resolution")
    given = UNet(32, width=16, multipliers=(1,), blocks=1)
    x, t = inputs(reference, 2)
    found = pretrained(str(tmp_path / "c.pth"), "raw", given)
    assert_close(found(x, t), slimflow_network.Velocity(reference)(x, t))


@pytest.mark.parametrize("weights", ["raw", "ema"])
@torch.no_grad()
def test_adm_of_slimflow_is_the_same_velocity(weights, tmp_path):
    reference = adm()
    average = slimflow_checkpoint(tmp_path / "c.pth", reference)
    found = pretrained(str(tmp_path / "c.pth"), weights)
    assert type(found) is ADM and found.spec["init_args"]["attention_resolutions"] == [16]
    if weights == "ema":
        with_weights(reference, average)
    (x, t), (cond, one_hot) = inputs(reference), labels_for(reference)
    assert_close(found(x, t, cond), edm_network.Velocity(reference)(x, t, one_hot))


@torch.no_grad()
def test_adm_of_slimflow_behind_data_parallel(tmp_path):
    reference = adm()
    slimflow_checkpoint(tmp_path / "c.pth", reference, parallel=True)
    (x, t), (cond, one_hot) = inputs(reference), labels_for(reference)
    found = pretrained(str(tmp_path / "c.pth"), "raw")
    assert_close(found(x, t, cond), edm_network.Velocity(reference)(x, t, one_hot))


# EDM's weights


@pytest.mark.parametrize("options", SONG.values(), ids=SONG)
@torch.no_grad()
def test_songunet_is_the_same_denoiser(options, tmp_path):
    reference = song(**options)
    edm_state(tmp_path / "c.pt", reference)
    found = pretrained(str(tmp_path / "c.pt"))
    assert type(found) is EDM and type(found.network) is UNet
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    for sigma in (torch.tensor([0.002, 0.3, 5.0, 80.0]), torch.tensor([1.0] * 4)):
        y = (0.25 + sigma**2).sqrt()[:, None, None, None] * x
        assert_close(found.denoiser(y, sigma, cond), EDMPrecond(reference)(y, sigma, one_hot))
    assert_close(found.denoiser(x, 0.7, cond), EDMPrecond(reference)(x, torch.full((4,), 0.7), one_hot))


@torch.no_grad()
def test_dhariwal_unet_is_the_same_denoiser(tmp_path):
    reference = adm()
    edm_state(tmp_path / "c.pt", reference)
    found = pretrained(str(tmp_path / "c.pt"))
    assert type(found) is EDM and type(found.network) is ADM
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    sigma = torch.tensor([0.002, 0.3, 5.0, 80.0])
    y = (0.25 + sigma**2).sqrt()[:, None, None, None] * x
    assert_close(found.denoiser(y, sigma, cond), EDMPrecond(reference)(y, sigma, one_hot))


@torch.no_grad()
def test_dhariwal_unet_with_several_heads_and_augment_inputs(tmp_path):
    reference = randomise(DhariwalUNet(64, (1, 3), 1, 16, attention_resolutions=(8,), augment=9))
    edm_state(tmp_path / "c.pt", reference)
    found = pretrained(str(tmp_path / "c.pt"))
    assert found.network.spec["init_args"]["attention_resolutions"] == [8]
    x, _ = inputs(reference)
    sigma = torch.tensor([0.002, 0.3, 5.0, 80.0])
    assert_close(found.denoiser(x, sigma), EDMPrecond(reference)(x, sigma))


@pytest.mark.parametrize("make", [lambda: song(classes=10, augment=9), adm], ids=["SongUNet", "DhariwalUNet"])
@torch.no_grad()
def test_edm_as_a_velocity(make, tmp_path):
    """v = (D - x_t) / (1 - t) at σ = (1 - t) / t, everywhere between σ = 80 and σ = 0.002."""
    reference = make()
    edm_state(tmp_path / "c.pt", reference)
    found = pretrained(str(tmp_path / "c.pt"))
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    precise = EDMPrecond(copy.deepcopy(reference)).double()
    for times in ([0.0124, 0.05, 0.2, 0.5], [0.7, 0.9, 0.99, 0.9979]):
        t = torch.tensor(times)
        wide = t.double()[:, None, None, None]
        denoised = precise(
            x / wide, (1 - t.double()) / t.double(), None if one_hot is None else one_hot.double()
        )
        assert_close(found(x, t, cond), (denoised - x) / (1 - wide))
    for end in (0.0, 1.0):
        assert found(x, torch.full((4,), end), cond).isfinite().all()


@pytest.mark.parametrize("options", SONG.values(), ids=SONG)
def test_songunet_is_built_as_its_weights_tell(options, tmp_path):
    reference = randomise(SongUNet(16, (1, 2, 3), 2, 32, **options))
    edm_state(tmp_path / "c.pt", reference)
    found = pretrained(str(tmp_path / "c.pt")).network
    told = found.spec["init_args"]
    expected = {
        "resolution": 32,
        "in_channels": 3,
        "width": 16,
        "multipliers": [1, 2, 3],
        "blocks": 2,
        "attention_resolutions": [16],
        "num_classes": options.get("classes", 0),
        "time_scale": 1.0,
        "early_label": True,
    }
    assert {key: told[key] for key in expected} == expected


def test_adm_is_built_as_its_weights_tell(tmp_path):
    reference = randomise(DhariwalUNet(64, (1, 2, 2), 2, 64, attention_resolutions=(32, 16), classes=7))
    edm_state(tmp_path / "c.pt", reference)
    told = pretrained(str(tmp_path / "c.pt")).network.spec["init_args"]
    expected = {
        "resolution": 64,
        "width": 64,
        "multipliers": [1, 2, 2],
        "blocks": 2,
        "attention_resolutions": [32, 16],
        "num_classes": 7,
        "time_scale": 1.0,
    }
    assert {key: told[key] for key in expected} == expected


@pytest.mark.parametrize("prefix", [True, False], ids=["model.", "bare"])
@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
@pytest.mark.parametrize("make", [song, adm], ids=["SongUNet", "DhariwalUNet"])
@torch.no_grad()
def test_edm_files_of_every_form(make, name, prefix, tmp_path):
    reference = make()
    edm_state(tmp_path / name, reference, prefix=prefix)
    found = pretrained(str(tmp_path / name))
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    assert_close(found.denoiser(x, 1.0, cond), EDMPrecond(reference)(x, torch.ones(4), one_hot))


@pytest.mark.parametrize("key", ["ema", "net", "state_dict", "model"])
@torch.no_grad()
def test_a_preconditioned_network_is_a_denoiser_under_whatever_key_it_was_saved(key, tmp_path):
    reference = adm()
    edm_state(tmp_path / "plain.pt", reference)
    torch.save({key: torch.load(tmp_path / "plain.pt")}, tmp_path / "c.pt")
    found = pretrained(str(tmp_path / "c.pt"), "raw")
    assert type(found) is EDM, (
        "its keys begin with model., so it is EDM's preconditioner; SlimFlow's velocities have no such prefix"
    )


def test_augment_inputs_and_filters_are_told_to_be_unused(tmp_path):
    edm_state(tmp_path / "c.pt", song(augment=9))
    report = pretrained(str(tmp_path / "c.pt")).report
    assert report.missing == report.unexpected == report.mismatched == []
    assert "map_augment.weight" in report.unused and any(
        name.endswith("resample_filter") for name in report.unused
    )


def test_labels_must_be_right(tmp_path):
    edm_state(tmp_path / "with.pt", adm())
    edm_state(tmp_path / "without.pt", song())
    x, t = torch.zeros(2, 3, 16, 16), torch.tensor([0.1, 0.5])
    conditional, free = pretrained(str(tmp_path / "with.pt")), pretrained(str(tmp_path / "without.pt"))
    for wrong in ([0, 10], [-1, 0]):
        with pytest.raises(
            FlowlitError, match=r"labels run from -?\d+ to \d+, but the network knows 10 classes"
        ):
            conditional(x, t, {"label": torch.tensor(wrong)})
        with pytest.raises(FlowlitError, match="labels run from"):
            conditional.denoiser(x, 1.0, {"label": torch.tensor(wrong)})
    with pytest.raises(FlowlitError, match="conditional on 10 classes, but cond has no 'label'"):
        conditional(x, t, {})
    with pytest.raises(FlowlitError, match="the network is unconditional"):
        free(torch.zeros(2, 3, 32, 32), t, {"label": torch.tensor([0, 1])})


# other forms of the same files


@pytest.mark.parametrize("form", ["zip", "old"])
@pytest.mark.parametrize("weights", ["raw", "ema"])
@torch.no_grad()
def test_half_precision_weights(form, weights, tmp_path):
    reference = ncsnpp()
    average = slimflow_checkpoint(tmp_path / "c.pth", reference, half=True, zipped=form == "zip")
    found = pretrained(str(tmp_path / "c.pth"), weights)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    raw = [p.detach().half() for p in reference.parameters()]
    with_weights(reference, average if weights == "ema" else raw)
    x, t = inputs(reference)
    assert_close(found(x, t), slimflow_network.Velocity(reference)(x, t))


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
@torch.no_grad()
def test_half_precision_weights_of_edm(name, tmp_path):
    reference = song(classes=10)
    edm_state(tmp_path / name, reference, half=True)
    found = pretrained(str(tmp_path / name))
    with_weights(reference, [p.detach().half() for p in reference.parameters()])
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    assert_close(found.denoiser(x, 1.0, cond), EDMPrecond(reference)(x, torch.ones(4), one_hot))


@torch.no_grad()
def test_the_old_format_of_torch_save(tmp_path):
    reference = ncsnpp()
    slimflow_checkpoint(tmp_path / "c.pth", reference, zipped=False)
    x, t = inputs(reference)
    assert_close(pretrained(str(tmp_path / "c.pth"), "raw")(x, t), slimflow_network.Velocity(reference)(x, t))
    edm_state(tmp_path / "c.pt", song(), zipped=False)
    assert type(pretrained(str(tmp_path / "c.pt"))) is EDM


@pytest.mark.parametrize(
    "wrap", [lambda state: {"state_dict": state}, lambda state: {f"module.{k}": v for k, v in state.items()}]
)
@torch.no_grad()
def test_a_bare_state_of_ncsnpp(wrap, tmp_path):
    reference = ncsnpp()
    torch.save(wrap(reference.state_dict()), tmp_path / "c.pt")
    x, t = inputs(reference)
    assert_close(pretrained(str(tmp_path / "c.pt"))(x, t), slimflow_network.Velocity(reference)(x, t))


@torch.no_grad()
def test_ncsnpp_behind_another_prefix(tmp_path):
    """Someone's module that holds the network as .model; NCSN++ is a velocity whatever it is called."""
    reference = ncsnpp()
    torch.save(
        {"model": {f"model.{name}": value for name, value in reference.state_dict().items()}},
        tmp_path / "c.pth",
    )
    x, t = inputs(reference)
    assert_close(pretrained(str(tmp_path / "c.pth"), "raw")(x, t), slimflow_network.Velocity(reference)(x, t))


# what is refused


def changed_ema(path, edit):
    def change(content):
        edit(content["ema"]["shadow_params"])

    slimflow_checkpoint(path, ncsnpp(), change=change)
    return path


def test_average_of_another_length(tmp_path):
    path = changed_ema(tmp_path / "c.pth", lambda values: values.pop())
    count = len(list(ncsnpp().parameters()))
    refused(path, f"{count - 1}", f"{count}", "weights: raw", weights="ema")
    refused(changed_ema(path, lambda values: values.append(values[0])), f"{count + 1}", weights="ema")
    pretrained(str(path), "raw")


def test_average_of_another_shape(tmp_path):
    path = changed_ema(tmp_path / "c.pth", lambda values: values.__setitem__(5, torch.zeros(3)))
    refused(path, "(3,)", "(16,)", weights="ema")


@pytest.mark.parametrize(
    "value", [torch.zeros(3), torch.zeros(()), torch.zeros(4, 4, 4)], ids=["1-d", "0-d", "3-d"]
)
def test_average_of_another_shape_inside_attention(value, tmp_path):
    place = next(i for i, (name, _) in enumerate(ncsnpp().named_parameters()) if name.endswith("NIN_1.W"))
    path = changed_ema(tmp_path / "c.pth", lambda values: values.__setitem__(place, value))
    refused(path, "NIN_1.W", weights="ema")


@pytest.mark.parametrize("value", [None, "weights"], ids=repr)
def test_average_of_no_tensors(value, tmp_path):
    path = changed_ema(
        tmp_path / "c.pth", lambda values: values.__setitem__(slice(None), [value] * len(values))
    )
    refused(path, weights="ema")


def test_average_of_shuffled_tensors(tmp_path):
    refused(
        changed_ema(tmp_path / "c.pth", lambda values: values.reverse()), "of another shape", weights="ema"
    )


def test_average_that_is_not_there(tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp(), ema=False)
    refused(tmp_path / "c.pth", "holds no average", "weights: raw", weights="ema")
    pretrained(str(tmp_path / "c.pth"), "raw")


def test_missing_tensor(tmp_path):
    def change(content):
        del content["model"]["module.all_modules.5.GroupNorm_0.weight"]

    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp(), change=change, ema=False)
    refused(tmp_path / "c.pth", "1 missing there: all_modules.5.GroupNorm_0.weight")
    edm_state(tmp_path / "c.pt", song(), change=lambda state: state.pop("model.dec.32x32_block1.norm1.bias"))
    refused(tmp_path / "c.pt", "1 missing there", "dec.32x32_block1.norm1.bias")


def test_unexpected_tensor(tmp_path):
    def change(content):
        content["model"]["module.all_modules.5.GroupNorm_7.weight"] = torch.zeros(3)

    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp(), change=change, ema=False)
    refused(tmp_path / "c.pth", "1 unknown here: all_modules.5.GroupNorm_7.weight")
    edm_state(
        tmp_path / "c.pt",
        song(),
        change=lambda state: state.update({"model.dec.32x32_block1.extra": torch.zeros(3)}),
    )
    refused(tmp_path / "c.pt", "1 unknown here", "dec.32x32_block1.extra")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_truncated_file_at_every_length(zipped, tmp_path):
    slimflow_checkpoint(tmp_path / "whole.pth", randomise(NCSNpp(8, (1,), 1, 16)), zipped=zipped)
    content = (tmp_path / "whole.pth").read_bytes()
    path = tmp_path / "c.pth"
    for length in [
        *range(0, 200, 9),
        *(len(content) * k // 40 for k in range(40)),
        *range(len(content) - 40, len(content), 9),
    ]:
        path.write_bytes(content[:length])
        try:
            refused(path, weights="ema")
        except pytest.fail.Exception:  # the old format ends with what it may lack
            assert not zipped and length > len(content) - 40


def test_truncated_safetensors(tmp_path):
    edm_state(tmp_path / "whole.safetensors", song())
    content = (tmp_path / "whole.safetensors").read_bytes()
    for length in [0, 1, 7, 8, 9, 500, len(content) // 2, len(content) - 1]:
        (tmp_path / "c.safetensors").write_bytes(content[:length])
        refused(tmp_path / "c.safetensors", "torn")


@pytest.mark.parametrize(
    "content",
    [
        {"model": {}},
        {"model": {0: torch.zeros(1)}},
        {0: torch.zeros(1)},
        {"model": {"a": 1}, "ema": None},
        {"model": None, "ema": {"shadow_params": []}},
        [torch.zeros(1)],
        {"state_dict": {}},
        {"state_dict": 3, "flowlit": {}},
        {"state_dict": {}, "flowlit": 3},
        {"state_dict": {"a": torch.zeros(1)}, "flowlit": {}},
        {"sigmas": torch.zeros(3)},
        "weights",
    ],
    ids=lambda content: str(content).replace("tensor(", "").replace(")", ""),
)
@pytest.mark.timeout(20)
def test_files_that_hold_something_else(content, tmp_path):
    torch.save(content, tmp_path / "c.pth")
    refused(tmp_path / "c.pth")


def test_a_file_behind_the_wrong_ending(tmp_path):
    edm_state(tmp_path / "c.safetensors", song())
    (tmp_path / "c.safetensors").rename(tmp_path / "c.pt")
    refused(tmp_path / "c.pt")
    edm_state(tmp_path / "d.pt", song())
    (tmp_path / "d.pt").rename(tmp_path / "d.safetensors")
    refused(tmp_path / "d.safetensors")


class Shell:
    """Reading it runs a command."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class Stored:
    """Reading it runs the source that is stored with it, as EDM's files do."""

    def __init__(self, witness):
        self.source = f"open({str(witness)!r}, 'w').close()"

    def __reduce__(self):
        return exec, (self.source, {})


class Network(torch.nn.Linear):
    """A whole module; reading it imports and sets its state."""

    def __init__(self, witness):
        super().__init__(2, 2)
        self.witness = str(witness)

    def __setstate__(self, state):
        Path(state["witness"]).touch()
        super().__setstate__(state)


EVIL = {
    "command": lambda witness: Shell(witness),
    "command in a list": lambda witness: {
        "model": {},
        "ema": {"shadow_params": [torch.zeros(2), Shell(witness)]},
    },
    "command among tensors": lambda witness: {"model": {"module.all_modules.0.weight": Shell(witness)}},
    "stored source": lambda witness: {"ema": Stored(witness), "augment_pipe": None},
    "module": lambda witness: {"ema": Network(witness)},
    "objects of numpy": lambda witness: {"ema": np.array([Shell(witness)], dtype=object)},
}


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
@pytest.mark.parametrize("kind", EVIL)
def test_code_in_a_file_is_refused_and_does_not_run(kind, form, tmp_path):
    witness, path = tmp_path / "witness", tmp_path / "network-snapshot.pkl"
    content = EVIL[kind](witness)
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for weights in ("raw", "ema"):
        refused(path, weights=weights)
    assert not witness.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert witness.exists(), "the trap works"


def test_edm_pickles_are_refused_with_the_way_out(tmp_path):
    path = tmp_path / "edm-cifar10-32x32-uncond-vp.pkl"
    path.write_bytes(pickle.dumps({"ema": Stored(tmp_path / "witness")}))
    refused(path, "run code", "state_dict()", "torch.save")


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_code_behind_other_endings(name, tmp_path):
    witness = tmp_path / "witness"
    (tmp_path / name).write_bytes(pickle.dumps(Shell(witness)))
    refused(tmp_path / name)
    assert not witness.exists()


def test_a_description_cannot_name_a_command(tmp_path):
    """The metadata of a safetensors file say how its network is built."""
    witness = tmp_path / "witness"
    evil = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(witness)]}}
    told = json.dumps({"weights": "ema", "network": evil})
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors", {"format": "pt", "flowlit": told})
    with pytest.raises(FlowlitError, match=r"subprocess\.Popen"):
        pretrained(str(tmp_path / "c.safetensors"))
    assert not witness.exists()


def blurred(state):
    """Put the filter of NCSN++ wherever a network resamples."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    for name in state:
        if name.endswith("resample_filter"):
            state[name] = torch.outer(taps, taps)[None, None] / 64
    return state


def ncsnpp_of_edm():
    """Keys of EDM's other network: Fourier features, an auxiliary path through the encoder, another
    filter.
    """
    state = {f"model.{name}": value for name, value in song().state_dict().items()}
    state["model.map_noise.freqs"] = torch.zeros(8)
    state["model.enc.16x16_aux_down.resample_filter"] = torch.zeros(1, 1, 4, 4)
    state["model.enc.16x16_aux_skip.weight"] = torch.zeros(32, 3, 1, 1)
    state["model.enc.16x16_aux_skip.bias"] = torch.zeros(32)
    return blurred(state)


@pytest.mark.parametrize("given", [True, False], ids=["given", "told"])
def test_ncsnpp_proper_of_edm_is_refused(given, tmp_path):
    torch.save(ncsnpp_of_edm(), tmp_path / "c.pt")
    network = (
        EDM(UNet(32, width=16, multipliers=(2, 2), blocks=1, time_scale=1, early_label=True))
        if given
        else None
    )
    refused(tmp_path / "c.pt", "NCSN++", "DDPM++", network=network)


@pytest.mark.parametrize(
    "name",
    [
        "map_noise.freqs",
        "enc.16x16_aux_down.weight",
        "enc.16x16_aux_skip.weight",
        "enc.16x16_aux_residual.weight",
    ],
)
def test_ncsnpp_proper_of_edm_is_known_by_each_of_its_keys(name, tmp_path):
    torch.save({**song().state_dict(), name: torch.zeros(2)}, tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "NCSN++", "DDPM++")


@pytest.mark.parametrize("make", [song, adm], ids=["SongUNet", "DhariwalUNet"])
def test_other_filters_than_a_box_are_refused(make, tmp_path):
    """A network that resamples by [1, 3, 3, 1] is another function than ours."""
    edm_state(tmp_path / "c.pt", make(), change=blurred)
    refused(tmp_path / "c.pt", "resample_filter")


@torch.no_grad()
def test_a_state_without_filters_is_complete(tmp_path):
    """Whoever saves parameters only loses nothing but the box filter."""
    reference = adm()
    torch.save(dict(reference.named_parameters()), tmp_path / "c.pt")
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    found = pretrained(str(tmp_path / "c.pt"))
    assert_close(found.denoiser(x, 1.0, cond), EDMPrecond(reference)(x, torch.ones(4), one_hot))


def test_ncsnpp_proper_of_score_models_is_refused(tmp_path):
    """Fourier features are its first entry, and have a W; everything moves up by one."""
    state = {}
    for name, value in ncsnpp().state_dict().items():
        if name.startswith("all_modules."):
            _, place, rest = name.split(".", 2)
            name = f"all_modules.{int(place) + 1}.{rest}"
        state[f"module.{name}"] = value
    state["module.all_modules.0.W"] = torch.zeros(16)
    torch.save({"model": state, "optimizer": {}, "step": 1}, tmp_path / "c.pth")
    refused(tmp_path / "c.pth")


# networks that are given


@pytest.fixture(scope="module")
def published_3m_64(tmp_path_factory):
    """The real size of experiments/parts/networks/unet_3m_64.yaml."""
    path = tmp_path_factory.mktemp("published") / "3m.pth"
    torch.save(
        {
            "model": {f"module.{k}": v for k, v in NCSNpp(64, (1, 1, 2), 1, 64).state_dict().items()},
            "step": 1,
        },
        path,
    )
    return path


@pytest.mark.parametrize(
    "given",
    [
        {"width": 96, "multipliers": (1, 1, 2), "blocks": 1},
        {"width": 64, "multipliers": (1, 2, 2), "blocks": 1},
        {"width": 64, "multipliers": (1, 1, 2), "blocks": 2},
        {"width": 64, "multipliers": (1, 1, 2, 2), "blocks": 1},
        {"width": 64, "multipliers": (1, 1), "blocks": 1},
        {"width": 64, "multipliers": (1, 1, 2), "blocks": 1, "resolution": 32},
    ],
    ids=str,
)
def test_another_size_than_the_file_names_the_network_that_fits(given, published_3m_64):
    network = UNet(**{"resolution": 64, **given})
    refused(
        published_3m_64,
        "another architecture than UNet",
        "It holds UNet(",
        "width=64, multipliers=[1, 1, 2], blocks=1, attention_resolutions=[16]): give that as network",
        network=network,
    )


def test_the_fragment_of_that_network_fits(published_3m_64):
    fragment = Path(__file__).parents[3] / "experiments/parts/networks/unet_3m_64.yaml"
    described = yaml.safe_load(fragment.read_text())["model"]["init_args"]["network"]
    assert described["class_path"] == "flowlit.networks.UNet"
    found = pretrained(str(published_3m_64), "raw", UNet(**described["init_args"]))
    assert found.report.differences() == ""


@pytest.mark.parametrize(
    "given, words",
    [
        (
            lambda: EDM(UNet(32, width=16, multipliers=(1, 1, 2), blocks=1, time_scale=1.0)),
            "predicts a velocity",
        ),
        (lambda: UNet(32, width=16, multipliers=(1, 1, 2), blocks=1, time_scale=1), "time_scale"),
        (lambda: ADM(32, width=64, multipliers=(1, 1, 2), blocks=1), "ADM"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
        (lambda: UNet(32, width=16, multipliers=(1, 1, 2), blocks=1, num_classes=4), "unconditional"),
    ],
    ids=["EDM", "time scale", "ADM", "Linear", "labels"],
)
def test_a_network_of_another_kind_than_the_file(given, words, tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp())
    with pytest.raises(FlowlitError, match=words):
        pretrained(str(tmp_path / "c.pth"), "raw", given())


@pytest.mark.parametrize(
    "given, words",
    [
        (
            lambda: UNet(32, width=16, multipliers=(2, 2), blocks=1, time_scale=1, num_classes=10),
            "early_label",
        ),
        (
            lambda: UNet(32, width=16, multipliers=(2, 2), blocks=1, num_classes=10, early_label=True),
            "time_scale 1",
        ),
        (
            lambda: UNet(32, width=16, multipliers=(2, 2), blocks=1, time_scale=1, early_label=True),
            "map_label",
        ),
        (
            lambda: UNet(
                32, width=16, multipliers=(2, 2), blocks=1, time_scale=1, num_classes=9, early_label=True
            ),
            "9",
        ),
        (
            lambda: ADM(32, width=64, multipliers=(1, 2), blocks=1, time_scale=1),
            r"It holds EDM\(network=UNet\(",
        ),
    ],
    ids=["late label", "time scale", "no labels", "fewer labels", "ADM"],
)
def test_a_network_of_another_kind_than_edms_file(given, words, tmp_path):
    edm_state(tmp_path / "c.pt", song(classes=10))
    with pytest.raises(FlowlitError, match=words):
        pretrained(str(tmp_path / "c.pt"), "raw", given())


@pytest.mark.parametrize("wrapped", [True, False], ids=["EDM", "bare"])
@torch.no_grad()
def test_a_given_network_is_filled(wrapped, tmp_path):
    reference = song(classes=10)
    edm_state(tmp_path / "c.pt", reference)
    given = UNet(
        32,
        width=16,
        multipliers=(2, 2),
        blocks=1,
        num_classes=10,
        time_scale=1,
        early_label=True,
        dropout=0.3,
    )
    found = pretrained(str(tmp_path / "c.pt"), "ema", EDM(given) if wrapped else given)
    assert type(found) is EDM and found.network is given
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    assert_close(found.denoiser(x, 1.0, cond), EDMPrecond(reference)(x, torch.ones(4), one_hot))


@pytest.mark.parametrize("make", [lambda: song(classes=10), adm], ids=["SongUNet", "DhariwalUNet"])
@torch.no_grad()
def test_no_label_is_a_row_of_zeros(make, tmp_path):
    """EDM's networks know no label as zeros; a network with label_dropout has a vector for it, which is then
    theirs.
    """
    reference = make()
    edm_state(tmp_path / "c.pt", reference)
    if isinstance(reference, SongUNet):
        given = UNet(32, 3, 16, (2, 2), 1, num_classes=10, label_dropout=0.1, time_scale=1, early_label=True)
    else:
        given = ADM(16, 3, 64, (1, 2), 1, (16,), num_classes=10, label_dropout=0.1, time_scale=1)
    found = pretrained(str(tmp_path / "c.pt"), "raw", given)
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    sigma = torch.ones(4)
    assert_close(found.denoiser(x, sigma, {}), EDMPrecond(reference)(x, sigma, torch.zeros(4, 10)))
    assert_close(found.denoiser(x, sigma, cond), EDMPrecond(reference)(x, sigma, one_hot))


def test_loose_reading_takes_what_fits_and_reports_the_rest(tmp_path, caplog):
    reference = ncsnpp()

    def change(content):
        model = content["model"]
        del model["module.all_modules.5.GroupNorm_0.weight"]
        model["module.all_modules.5.extra"] = torch.zeros(3)
        model["module.all_modules.2.bias"] = torch.zeros(3)

    slimflow_checkpoint(tmp_path / "c.pth", reference, change=change)
    network = UNet(32, width=16, multipliers=(1, 1, 2), blocks=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    refused(tmp_path / "c.pth", "1 missing there", "1 unknown here", "1 of another shape", network=network)
    with caplog.at_level(logging.WARNING, logger="flowlit"):
        found = pretrained(str(tmp_path / "c.pth"), "raw", network, strict=False)
    assert "does not fit" in caplog.text
    report = found.report
    assert report.missing == ["all_modules.5.GroupNorm_0.weight"] and report.unexpected == [
        "all_modules.5.extra"
    ]
    assert len(report.mismatched) == 1 and report.mismatched[0].startswith(
        "stem.bias is (3,) there, (16,) here"
    )
    assert len(report.loaded) == len(before) - 2
    left = {name for name in before if name not in report.loaded}
    after = found.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in left)
    assert torch.equal(after["stem.weight"], reference.state_dict()["all_modules.2.weight"])
    for word in ("missing", "unexpected", "mismatched"):
        assert word in str(report)


# flowlit convert


def adm_for_ours():
    return randomise(DhariwalUNet(64, (1, 2), 1, 16, attention_resolutions=(16, 8), classes=10))


def parts_of(path):
    content = torch.load(path, weights_only=True)
    return {name.removeprefix("module."): value for name, value in content["model"].items()}, content


@pytest.mark.parametrize("weights", ["raw", "ema"])
@torch.no_grad()
def test_convert_slimflow_to_safetensors(weights, cli, tmp_path):
    reference = ncsnpp()
    average = slimflow_checkpoint(tmp_path / "c.pth", reference)
    done = cli("convert", tmp_path / "c.pth", "--into", tmp_path / "c.safetensors", "--weights", weights)
    assert done.code == 0, done.err
    assert "slimflow" in done.out and "UNet(" in done.out
    if weights == "ema":
        with_weights(reference, average)
    x, t = inputs(reference)
    found = pretrained(str(tmp_path / "c.safetensors"), weights)
    assert torch.equal(found(x, t), pretrained(str(tmp_path / "c.pth"), weights)(x, t))
    assert_close(found(x, t), slimflow_network.Velocity(reference)(x, t))
    other = "ema" if weights == "raw" else "raw"
    refused(tmp_path / "c.safetensors", f"weights: {weights}", weights=other)


@pytest.mark.parametrize("make", [ncsnpp, adm], ids=["NCSNpp", "DhariwalUNet"])
def test_convert_slimflow_to_slimflow_is_bit_for_bit(make, cli, tmp_path):
    reference = make()
    average = slimflow_checkpoint(tmp_path / "c.pth", reference)
    done = cli("convert", tmp_path / "c.pth", "--into", tmp_path / "d.pth", "--layout", "slimflow")
    assert done.code == 0, done.err
    (before, whole_before), (after, whole_after) = parts_of(tmp_path / "c.pth"), parts_of(tmp_path / "d.pth")
    assert list(after) == list(before) and list(whole_after["model"]) == list(whole_before["model"])
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "sigmas")
    shadow = whole_after["ema"]["shadow_params"]
    assert len(shadow) == len(average) and all(
        torch.equal(a, b) for a, b in zip(shadow, average, strict=True)
    )
    assert {key: whole_after["ema"][key] for key in ("decay", "num_updates")} == {
        "decay": 0.999999,
        "num_updates": 800_000,
    }
    assert whole_after["step"] == 800_000

    fresh = copy.deepcopy(reference)
    randomise(fresh, 99)
    fresh.load_state_dict(after, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), reference.parameters(), strict=True))
    torch.optim.Adam(fresh.parameters()).load_state_dict(whole_after["optimizer"])


def test_convert_there_and_back(cli, tmp_path):
    """slimflow → safetensors (the average alone) → slimflow: both sets are then the average."""
    reference = ncsnpp()
    average = slimflow_checkpoint(tmp_path / "c.pth", reference)
    assert cli("convert", tmp_path / "c.pth", "--into", tmp_path / "c.safetensors").code == 0
    done = cli("convert", tmp_path / "c.safetensors", "--into", tmp_path / "d.pth", "--layout", "slimflow")
    assert done.code == 0, done.err
    after, whole = parts_of(tmp_path / "d.pth")
    fresh = copy.deepcopy(reference)
    fresh.load_state_dict(after, strict=True)
    for found in (list(fresh.parameters()), whole["ema"]["shadow_params"]):
        assert all(torch.equal(a, b) for a, b in zip(found, average, strict=True))
    assert whole["ema"]["num_updates"] == 800_000 and whole["step"] == 800_000


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (lambda: UNet(32, 3, 16, (1, 2, 2), 1), lambda: NCSNpp(16, (1, 2, 2), 1, 32)),
        (lambda: UNet(32, 1, 16, (1, 2), 2), lambda: NCSNpp(16, (1, 2), 2, 32, channels=1)),
        (lambda: ADM(16, 3, 64, (1, 2), 1, (16, 8), num_classes=10), adm_for_ours),
    ],
    ids=["UNet", "grey UNet", "ADM"],
)
@torch.no_grad()
def test_our_own_checkpoints_in_their_layout(ours, theirs, cli, tmp_path):
    """What flowlit trained runs in the code of the papers."""
    raw, ema, fresh = randomise(ours(), 1), randomise(ours(), 2), theirs().eval()
    write_checkpoint(tmp_path / "c.ckpt", raw, ema)
    done = cli("convert", tmp_path / "c.ckpt", "--into", tmp_path / "c.pth", "--layout", "slimflow")
    assert done.code == 0, done.err
    state, whole = parts_of(tmp_path / "c.pth")
    (x, t), (cond, one_hot) = (
        inputs(fresh),
        (labels_for(fresh) if isinstance(fresh, DhariwalUNet) else ({}, None)),
    )
    run = edm_network.Velocity(fresh) if one_hot is not None else slimflow_network.Velocity(fresh)
    words = (x, t) if one_hot is None else (x, t, one_hot)
    fresh.load_state_dict(state, strict=True)
    assert_close(raw(x, t, cond), run(*words))
    with_weights(fresh, whole["ema"]["shadow_params"])
    assert_close(ema(x, t, cond), run(*words))


@pytest.mark.parametrize("attention", [(8,), (16, 8)], ids=str)
def test_what_their_layout_cannot_tell_is_not_lost_in_silence(attention, cli, tmp_path):
    """Their files say no resolution; a reader takes the level with attention to have 16 pixels."""
    write_checkpoint(tmp_path / "c.ckpt", randomise(UNet(16, 3, 16, (1, 2, 2), 1, attention)))
    words = ("--layout", "slimflow", "--weights", "raw")
    done = cli("convert", tmp_path / "c.ckpt", "--into", tmp_path / "c.pth", *words)
    assert done.code == 0 and "does not tell the resolution" in done.out
    given = UNet(16, 3, 16, (1, 2, 2), 1, attention)
    assert fingerprint(pretrained(str(tmp_path / "c.pth"), "raw", given)) == fingerprint(
        pretrained(str(tmp_path / "c.ckpt"), "raw")
    )


@torch.no_grad()
def test_convert_edm(cli, tmp_path):
    reference = song(classes=10, augment=9)
    edm_state(tmp_path / "c.pt", reference)
    done = cli("convert", tmp_path / "c.pt", "--into", tmp_path / "c.safetensors")
    assert done.code == 0, done.err
    assert "map_augment.weight" in done.out and "EDM(" in done.out
    (x, _), (cond, one_hot) = inputs(reference), labels_for(reference)
    found = pretrained(str(tmp_path / "c.safetensors"))
    assert_close(found.denoiser(x, 1.0, cond), EDMPrecond(reference)(x, torch.ones(4), one_hot))
    back = cli("convert", tmp_path / "c.safetensors", "--into", tmp_path / "d.pth", "--layout", "slimflow")
    assert "EDM" in back.error and not (tmp_path / "d.pth").exists()


@torch.no_grad()
def test_convert_with_a_network_that_the_file_does_not_tell(cli, tmp_path):
    reference = randomise(NCSNpp(16, (1,), 1, 32))
    slimflow_checkpoint(tmp_path / "c.pth", reference)
    assert "cannot be told" in cli("convert", tmp_path / "c.pth", "--into", tmp_path / "a.safetensors").error
    network = {
        "class_path": "flowlit.networks.UNet",
        "init_args": {"resolution": 32, "width": 16, "multipliers": [1], "blocks": 1},
    }
    (tmp_path / "n.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"network": network}}}))
    words = ("--weights", "raw", "--network", tmp_path / "n.yaml")
    done = cli("convert", tmp_path / "c.pth", "--into", tmp_path / "a.safetensors", *words)
    assert done.code == 0, done.err
    x, t = inputs(reference, 2)
    assert_close(
        pretrained(str(tmp_path / "a.safetensors"), "raw")(x, t), slimflow_network.Velocity(reference)(x, t)
    )


def test_convert_loosely(cli, tmp_path):
    def change(content):
        content["model"]["module.all_modules.5.extra"] = torch.zeros(3)

    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp(), change=change, ema=False)
    words = ("convert", tmp_path / "c.pth", "--into", tmp_path / "a.safetensors", "--weights", "raw")
    assert "all_modules.5.extra" in cli(*words).error and not (tmp_path / "a.safetensors").exists()
    done = cli(*words, "--loose")
    assert done.code == 0 and "unexpected: all_modules.5.extra" in done.out, done.err


def test_convert_refuses_what_it_cannot_do(cli, tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp(), ema=False)
    assert (
        "holds no average" in cli("convert", tmp_path / "c.pth", "--into", tmp_path / "a.safetensors").error
    )
    raw = ("--weights", "raw")
    assert (
        "exists"
        in cli(
            "convert", tmp_path / "c.pth", "--into", tmp_path / "c.pth", "--layout", "slimflow", *raw
        ).error
    )
    assert ".safetensors" in cli("convert", tmp_path / "c.pth", "--into", tmp_path / "a.pth", *raw).error
    assert "does not exist" in cli("convert", tmp_path / "no.pth", "--into", tmp_path / "a.safetensors").error
    (tmp_path / "bad.yaml").write_text("a: [1")
    words = ("--network", tmp_path / "bad.yaml", *raw)
    assert (
        "bad.yaml" in cli("convert", tmp_path / "c.pth", "--into", tmp_path / "a.safetensors", *words).error
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "c.pth"]


def test_bug_raw_weights_beside_a_named_average_were_the_average(tmp_path):
    raw, ema = (randomise(SongUNet(16, (1, 2), 1, 32), seed) for seed in (0, 1))
    for key in ("net", "model"):
        state = {f"model.{name}": value for name, value in raw.state_dict().items()}
        average = {f"model.{name}": value for name, value in ema.state_dict().items()}
        torch.save({key: state, "ema": average}, tmp_path / "c.pt")
        found = {kind: pretrained(str(tmp_path / "c.pt"), kind).network.stem.bias for kind in ("raw", "ema")}
        stem = "enc.32x32_conv.bias"
        assert torch.equal(found["raw"], raw.state_dict()[stem]) and torch.equal(
            found["ema"], ema.state_dict()[stem]
        )


@torch.no_grad()
def test_a_given_velocity_decides_what_a_plain_state_dict_is(tmp_path):
    """SlimFlow's ADM without the trainer's dict looks like EDM's denoiser."""
    network = randomise(DhariwalUNet(64, (1, 2), 1, 32, classes=3))
    torch.save(network.state_dict(), tmp_path / "c.pt")
    assert type(pretrained(str(tmp_path / "c.pt"))) is EDM
    given = ADM(32, 3, 64, (1, 2), 1, (32, 16), num_classes=3)
    x, t, label = torch.randn(2, 3, 32, 32), torch.tensor([0.0, 0.7]), torch.tensor([2, 0])
    found = pretrained(str(tmp_path / "c.pt"), network=given)(x, t, {"label": label})
    expected = network(x, 999 * t, labels_of(network, label))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_weights_of_a_compiled_network(tmp_path):
    network = randomise(NCSNpp(16, (1, 2), 1, 16))
    slimflow_checkpoint(
        tmp_path / "c.pth",
        network,
        parallel=False,
        change=lambda content: content.update(
            model={f"_orig_mod.{k}": v for k, v in content["model"].items()}
        ),
    )
    assert pretrained(str(tmp_path / "c.pth"), "raw").report.differences() == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    network = randomise(NCSNpp(16, (1, 2), 1, 16))

    def spoil(content):
        content["ema"]["shadow_params"][5].view(-1)[0] = value

    slimflow_checkpoint(tmp_path / "c.pth", network, change=spoil)
    refused(tmp_path / "c.pth", "is not finite", weights="ema")
    assert pretrained(str(tmp_path / "c.pth"), "raw")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8], ids=str)
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype, tmp_path):
    network = randomise(NCSNpp(16, (1, 2), 1, 16))

    def spoil(content):
        content["ema"]["shadow_params"][5] = content["ema"]["shadow_params"][5].to(dtype)

    slimflow_checkpoint(tmp_path / "c.pth", network, change=spoil)
    expected = "floating-point numbers" if dtype == torch.int8 else "a dense tensor of numbers"
    refused(tmp_path / "c.pth", f"expected {expected}", weights="ema")


def test_the_refusal_names_what_would_run_and_does_not_advise_it(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"model": Trap()}, tmp_path / "c.pth")
    with pytest.raises(FlowlitError) as caught:
        pretrained(str(tmp_path / "c.pth"))
    message = str(caught.value)
    assert "system" in message and "weights_only" not in message and "\x1b" not in message


def test_dropout_of_a_read_network_is_that_of_its_paper(tmp_path):
    for network, expected in ((SongUNet(16, (1, 2), 1, 32), 0.13), (DhariwalUNet(64, (1, 2), 1, 32), 0.1)):
        edm_state(tmp_path / "c.pt", randomise(network))
        assert pretrained(str(tmp_path / "c.pt")).network.spec["init_args"]["dropout"] == expected


def test_bug_loose_reading_of_another_network_wrote_noise(tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", randomise(NCSNpp(16, (1, 2), 1, 16)))
    with pytest.raises(FlowlitError, match="another architecture"):
        pretrained(
            str(tmp_path / "c.pth"), "raw", UNet(16, width=32, multipliers=(1, 2), blocks=1), strict=False
        )


def test_a_text_is_no_checkpoint(tmp_path):
    (tmp_path / "c.md").write_text("# Words\n" * 50)
    message = refused(tmp_path / "c.md")
    assert "would run code" not in message


def test_a_converted_file_has_the_same_bytes_again(cli, tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", randomise(NCSNpp(16, (1, 2), 1, 16)))
    for i in range(3):
        assert cli("convert", tmp_path / "c.pth", "--into", tmp_path / f"{i}.safetensors").code == 0
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(3)}) == 1
