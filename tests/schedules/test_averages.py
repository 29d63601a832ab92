"""Averages of weights: what profiles do, several at once, chosen by name, and combined after training."""

import json
import math
from copy import deepcopy

import numpy as np
import pytest
import tiny
import torch
from bombs import bomb
from commandline import in_process
from forks import killed
from stores import content
from tools import tiny_unet

import flowlit
from flowlit.callbacks import EMA
from flowlit.callbacks.training.ema import AveragedWeights
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, Teacher
from flowlit.networks import fingerprint, pretrained
from flowlit.schedules.averages import (
    Constant,
    HalfLife,
    PowerLaw,
    Tracked,
    Uniform,
    combine,
    exponent,
    inner_product,
    width,
)


def weighting(profile, steps, batch_size=10):
    """Weights (steps,) with which an average after so many steps holds the weights of each step; the rest is
    the start's.
    """
    found = np.zeros(steps)
    for n in range(1, steps + 1):
        decay = profile(n, batch_size)
        found *= decay
        found[n - 1] = 1 - decay
    return found


def averaged(path, profile, keep=()):
    """An average of a path (steps, d) after every step of ``keep``, and after the last, by step."""
    average, found = np.zeros(path.shape[1]), {}
    for n, weights in enumerate(path, 1):
        decay = profile(n, 10)
        average = decay * average + (1 - decay) * weights
        if n in keep or n == len(path):
            found[n] = average
    return found


# ------------------------------------------------------------------------------------------------------------
# profiles


def test_a_constant_forgets_geometrically():
    assert np.allclose(
        weighting(Constant(0.8, warmup=False), 9), 0.2 * 0.8 ** np.arange(8, -1, -1), rtol=1e-14
    )
    assert [Constant(0.5)(n, 1) for n in (1, 2, 8, 100)] == [2 / 11, 3 / 12, 0.5, 0.5]


@pytest.mark.parametrize("batch", [10, 25])
def test_half_is_forgotten_after_the_images_of_a_half_life(batch):
    found = weighting(HalfLife(1000, rampup=None), 500, batch)
    for images in (1000, 2000, 3000):
        older, start = found[: 500 - images // batch].sum(), 0.5 ** (500 * batch / 1000)
        assert math.isclose(older + start, 0.5 ** (images / 1000), rel_tol=1e-9)


def test_the_half_life_grows_to_its_full_length():
    """At update n it is 5% of the n · batch images so far, until that is more than ``images``."""
    profile = HalfLife(1000, 0.05)
    assert [
        math.isclose(profile(n, 10), 0.5 ** (10 / min(1000, 0.5 * n))) for n in (1, 7, 1999, 2000, 9000)
    ] == [True] * 5
    assert profile(2000, 10) == profile(9000, 10) == 0.5**0.01


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.25])
def test_a_power_law_has_its_width(std):
    """The discrete weights are those of the density, integrated over each step: n^(γ+1) - (n-1)^(γ+1)."""
    steps, gamma = 4000, exponent(std)
    found, n = weighting(PowerLaw(std), steps), np.arange(1, steps + 1)
    assert np.allclose(
        found, (n / steps) ** (gamma + 1) - ((n - 1) / steps) ** (gamma + 1), rtol=1e-9, atol=0
    )
    middle = (n - 0.5) / steps
    mean = (found * middle).sum()
    assert math.isclose(found.sum(), 1, rel_tol=1e-12) and math.isclose(
        mean, (gamma + 1) / (gamma + 2), rel_tol=1e-5
    )
    assert math.isclose((found * (middle - mean) ** 2).sum() ** 0.5, std, rel_tol=1e-3)


@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_uniform_average_is_the_mean_of_all_updates_after_its_start(start):
    path = np.random.default_rng(0).normal(size=(20, 3))
    found = averaged(path, Uniform(start), keep=(start, start + 1, 15))
    assert np.allclose(found[20], path[start:].mean(0), rtol=1e-12)
    assert np.allclose(found[15], path[start:15].mean(0), rtol=1e-12)
    assert np.array_equal(found[start + 1], path[start]), "the first of them alone"
    if start:
        assert np.array_equal(found[start], path[start - 1]), "before its start the weights themselves"
    assert np.allclose(weighting(Uniform(start), 9)[start:], 1 / (9 - start), rtol=1e-12)


def test_a_power_law_begins_with_a_copy():
    assert PowerLaw(0.1)(1, 64) == 0


def test_a_power_law_averages_a_ramp_to_its_mean():
    steps, gamma = 2000, exponent(0.08)
    ramp = (np.arange(1, steps + 1) - 0.5)[:, None] / steps
    assert math.isclose(averaged(ramp, PowerLaw(0.08))[steps][0], (gamma + 1) / (gamma + 2), rel_tol=1e-6)


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.05, 0.1, 0.2, 0.288])
def test_width_and_exponent_are_inverse(std):
    assert math.isclose(width(exponent(std)), std, rel_tol=1e-12) and exponent(std) > 0


def test_known_widths():
    assert (
        math.isclose(width(0), 12**-0.5)
        and math.isclose(exponent(width(6.94)), 6.94)
        and math.isclose(width(1), 18**-0.5)
    )


@pytest.mark.parametrize("std", [0, -0.1, 0.2887, 1, float("nan")])
def test_widths_that_no_power_law_has(std):
    with pytest.raises(FlowlitError, match=r"above 0 and below 0\.2887"):
        PowerLaw(std)


@pytest.mark.parametrize("arguments", [{"images": 0}, {"rampup": 0.0}])
def test_half_lives_that_are_none(arguments):
    with pytest.raises(FlowlitError, match="number > 0"):
        HalfLife(**arguments)


# ---------------------------------------------------------------------------------------------------------
# combinations


@pytest.mark.parametrize(
    ("a", "b"), [((100, 0.1), (100, 0.1)), ((100, 0.05), (40, 0.2)), ((7, 0.25), (90, 0.15))]
)
def test_the_inner_product_is_the_integral(a, b):
    a, b = Tracked(*a), Tracked(*b)
    end = min(a.step, b.step)
    t = (np.arange(2_000_000) + 0.5) / 2_000_000 * end

    def density(p):
        gamma = exponent(p.std)
        return (gamma + 1) / p.step * (t / p.step) ** gamma

    expected = (density(a) * density(b)).mean() * end
    assert math.isclose(inner_product(a, b), expected, rel_tol=1e-9) and inner_product(a, b) == inner_product(
        b, a
    )


def test_what_was_kept_is_found_again():
    given = [Tracked(step, std) for std in (0.05, 0.1) for step in (100, 200, 300, 400)]
    for place, target in enumerate(given):
        found = combine(given, target)
        assert np.allclose(found.coefficients, np.eye(len(given))[place], atol=1e-8) and found.residual < 1e-7


def test_one_snapshot_is_all_there_is():
    found = combine([Tracked(100, 0.1)], Tracked(100, 0.05))
    assert np.allclose(found.coefficients, 1) and found.residual > 0.1


def test_coefficients_are_the_best_that_add_up_to_one():
    given, target = [Tracked(60, 0.05), Tracked(100, 0.1), Tracked(100, 0.05)], Tracked(100, 0.08)
    found = combine(given, target)
    gram = np.array([[inner_product(p, q) for q in given] for p in given])
    against = np.array([inner_product(p, target) for p in given])

    def distance(x):
        return math.sqrt(
            (inner_product(target, target) - 2 * x @ against + x @ gram @ x) / inner_product(target, target)
        )

    best = np.array(found.coefficients)
    assert math.isclose(best.sum(), 1, rel_tol=1e-12) and math.isclose(
        distance(best), found.residual, rel_tol=1e-6
    )
    for step in ([1, -1, 0], [0, 1, -1], [1, 0, -1]):
        assert all(distance(best + share * np.array(step)) > found.residual for share in (-1e-3, 1e-3))


@pytest.mark.parametrize("std", [0.03, 0.08, 0.15])
def test_an_average_is_reconstructed_better_from_more_snapshots(std):
    """A random walk with a drift, far from 0; compared with the average that was really kept."""
    steps, draws = 2000, np.random.default_rng(0)
    drift = 0.5 * np.log1p(np.arange(steps))[:, None] * draws.normal(size=50)
    path = 3 + drift + 0.01 * draws.normal(size=(steps, 50)).cumsum(0)
    direct = averaged(path, PowerLaw(std))[steps]
    errors, residuals = [], []
    for every in (500, 250, 125, 50):
        kept = {s: averaged(path, PowerLaw(s), range(every, steps + 1, every)) for s in (0.05, 0.1)}
        given = [(Tracked(step, s), weights) for s, found in kept.items() for step, weights in found.items()]
        found = combine([tracked for tracked, _ in given], Tracked(steps, std))
        made = sum(c * weights for c, (_, weights) in zip(found.coefficients, given, strict=True))
        errors.append(float(np.abs(made - direct).max()))
        residuals.append(found.residual)
    assert errors == sorted(errors, reverse=True) and residuals == sorted(residuals, reverse=True)
    assert errors[-1] < 2e-4 < 1e-2 < errors[0] * 10 and residuals[-1] < 0.01


# training


class Notes(tiny.Callback):
    """Keeps the drift after every batch, by step."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen[trainer.global_step] = pl_module.network.drift.detach().double().clone()


PROFILES = {"ema": Constant(0.4), "long": HalfLife(60, 0.5), "power": PowerLaw(0.1)}


def trained(root, callbacks, steps=6, **arguments):
    torch.manual_seed(0)
    module = Teacher(
        tiny.Affine(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), weights=arguments.pop("weights", "ema")
    )
    start = module.network.drift.detach().double().clone()
    ckpt_path = arguments.pop("ckpt_path", None)
    trainer = tiny.trainer(root, steps, callbacks, limit_val_batches=0, **arguments)
    data = FlowDataModule(Independent(Digits(limit=64, labels=False)), 12, noise=SeededNoise(tiny.SHAPE, 8))
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, start, trainer


@pytest.mark.parametrize("accumulate", [1, 3])
def test_several_averages_are_their_closed_forms(tmp_path, accumulate):
    notes, logged = Notes(), {}

    class Log(tiny.Callback):
        def on_train_end(self, trainer, pl_module):
            logged.update(trainer.callback_metrics)

    callbacks = [*(EMA(profile=profile, name=name) for name, profile in PROFILES.items()), notes, Log()]
    module, start, _ = trained(tmp_path, callbacks, accumulate_grad_batches=accumulate)
    for name, profile in PROFILES.items():
        share = weighting(profile, 6, batch_size=12)
        expected = (1 - share.sum()) * start + sum(w * notes.seen[n] for n, w in enumerate(share, 1))
        average = module.averages.average(name)
        torch.testing.assert_close(average.drift.double(), expected, rtol=1e-5, atol=1e-6)
        assert module.averages.updates(name) == 6
        tag = "anneal/ema_decay" if name == "ema" else f"anneal/ema_decay_{name}"
        assert math.isclose(float(logged[tag]), profile(6, 12), rel_tol=1e-6)
        assert int(average.calls) == int(module.network.calls) == 6 * accumulate
    assert module.averages.metadata["power"] == {
        "profile": "flowlit.schedules.averages.PowerLaw",
        "std": 0.1,
        "updates": 6,
    }
    assert module.averages.metadata["ema"] == {"decay": 0.4, "warmup": True, "updates": 6}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_an_average_moved_rarely_forgets_as_much_as_one_moved_often(tmp_path, profile):
    notes = Notes()
    module, start, trainer = trained(tmp_path, [EMA(profile=profile, every=3), notes], steps=8)
    decays, expected = [profile(n, 12) for n in range(1, 9)], start
    for step in (3, 6):
        stays = math.prod(decays[step - 3 : step])
        expected = stays * expected + (1 - stays) * notes.seen[step]
    torch.testing.assert_close(module.ema.drift.double(), expected, rtol=1e-5, atol=1e-6)
    assert module.averages.metadata["ema"]["every"] == 3 and module.averages.updates() == 6
    assert math.isclose(float(trainer.callback_metrics["anneal/ema_decay"]), decays[-1], rel_tol=1e-6)


def test_before_its_first_move_an_average_does_not_generate(tmp_path):
    module, *_ = trained(tmp_path, [EMA(0.9, every=4)], steps=3)
    assert module.averages.generating() == "raw" and module.averages.describe("ema") == {}
    module, *_ = trained(tmp_path / "on", [EMA(0.9, every=4)], steps=4)
    assert module.averages.generating() == "ema" and module.averages.describe("ema")["updates"] == 4


@pytest.mark.parametrize("half", [1, 3, 6, 8])
def test_a_run_resumed_between_two_moves_has_the_same_average(tmp_path, half):
    """Also where it has not moved yet, or one of two has."""

    def rare(folder, steps, **arguments):
        return trained(
            folder, [EMA(0.9, every=4), EMA(profile=HalfLife(30), name="long", every=3)], steps, **arguments
        )

    whole, *_ = rare(tmp_path / "whole", 9)
    rare(tmp_path / "half", half)[2].save_checkpoint(tmp_path / "half.ckpt")
    resumed, *_ = rare(tmp_path / "rest", 9, ckpt_path=tmp_path / "half.ckpt")
    assert (
        tiny.same(whole.state_dict(), resumed.state_dict())
        and whole.averages.metadata == resumed.averages.metadata
    )


def test_the_short_form_is_the_constant_profile(tmp_path):
    short, long = (
        trained(tmp_path, [callback])[0].ema
        for callback in (EMA(0.4, False), EMA(profile=Constant(0.4, False)))
    )
    assert tiny.same(short.state_dict(), long.state_dict())


@pytest.mark.parametrize("weights", ["ema", "raw", "power"])
def test_the_chosen_weights_generate(tmp_path, weights):
    module, *_ = trained(tmp_path, [EMA(0.4), EMA(profile=PowerLaw(0.1), name="power")], weights=weights)
    expected = {"ema": module.ema, "raw": module.network, "power": module.averages["power"]}[weights]
    assert module.velocity() is expected and module.averages.generating() == weights


def test_other_averages_do_not_train(tmp_path):
    module, *_ = trained(tmp_path, [EMA(0.4), EMA(profile=PowerLaw(0.1), name="power")])
    module.train()
    assert module.network.training and not module.averages["power"].training
    assert not any(parameter.requires_grad for parameter in module.averages.parameters())


def test_an_average_counts_afresh_in_a_run_of_its_own(tmp_path):
    module, *_ = trained(tmp_path, [EMA(profile=PowerLaw(0.1))])
    tiny.trainer(tmp_path, 2, [EMA(profile=PowerLaw(0.1))], limit_val_batches=0).fit(
        module, FlowDataModule(Independent(Digits(limit=64, labels=False)), 12)
    )
    assert module.averages.updates() == 2


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([EMA(0.9, profile=PowerLaw())], "found decay 0.9 and a profile"),
        ([EMA(warmup=False, profile=PowerLaw())], "found warmup false and a profile"),
        ([EMA(0.9), EMA(0.99)], "two averages are named 'ema'"),
        ([EMA(0.9, name="raw")], "'raw' cannot be the name"),
        ([EMA(0.9, name="a.b")], "'a.b' cannot be the name"),
        ([EMA(0.9, name="keys")], "'keys' cannot be the name"),
        ([EMA(0.9, snapshots=2)], "snapshots of Constant cannot be combined"),
        (
            [EMA(profile=PowerLaw(), snapshots=6, every=4)],
            "snapshots is 6; expected optimizer steps, a multiple of every, 4",
        ),
        ([EMA(profile=PowerLaw(), snapshots=2)], "give trainer.logger"),
    ],
)
def test_averages_that_cannot_be_kept(tmp_path, callbacks, message):
    with pytest.raises(FlowlitError, match=message):
        trained(tmp_path, callbacks)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"snapshots": 0}, "snapshots is 0"), ({"every": 0}, "every is 0")]
)
def test_averages_that_never_happen(arguments, message):
    with pytest.raises(FlowlitError, match=message):
        EMA(profile=PowerLaw(), **arguments)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_precision_that_would_round_the_average_is_refused(tmp_path, precision):
    with pytest.raises(FlowlitError, match=rf"{precision}.*bf16-mixed"):
        trained(tmp_path, [EMA(0.9)], precision=precision)


def test_averages_are_float32_in_mixed_precision(tmp_path):
    module, *_ = trained(
        tmp_path, [EMA(0.9), EMA(profile=PowerLaw(0.1), name="power")], precision="bf16-mixed"
    )
    kept = [*module.ema.parameters(), *module.averages.parameters()]
    assert {parameter.dtype for parameter in kept} == {torch.float32}


def test_weights_that_nobody_keeps(tmp_path):
    with pytest.raises(FlowlitError, match=r"weights is 'slow'; expected 'ema' or 'raw' or 'power'"):
        trained(tmp_path, [EMA(0.4), EMA(profile=PowerLaw(0.1), name="power")], weights="slow")
    with pytest.raises(FlowlitError, match=r"weights is 'slow'.*--ckpt_path"):
        Teacher(tiny.Affine(), weights="slow").velocity()


# journeys


def averaging(name, kind, snapshots=None, **arguments):
    profile = {"class_path": f"flowlit.schedules.averages.{kind}", "init_args": arguments}
    return {
        "class_path": "flowlit.callbacks.EMA",
        "init_args": {"profile": profile, "name": name, "snapshots": snapshots},
    }


def configuration(root, *more, averages=None, **model):
    """A run with four averages, two of which leave snapshots."""
    kept = [
        tiny.EMA,
        averaging("long", "HalfLife", images=40, rampup=0.2),
        averaging("narrow", "PowerLaw", 2, std=0.05),
        averaging("wide", "PowerLaw", 2, std=0.1),
    ]
    callbacks = [
        *(kept if averages is None else averages),
        *more,
        {"class_path": "flowlit.callbacks.Report"},
        tiny.checkpoints(4),
    ]
    whole = tiny.fit(root, callbacks=callbacks, steps=11)
    whole["model"]["init_args"].update(model)
    return tiny.write(root.with_suffix(".yaml"), whole)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Its folder; the YAML stands beside it."""
    root = tmp_path_factory.mktemp("averages") / "run"
    done = in_process("fit", "-c", configuration(root))
    assert done.code == 0, done.err
    return root


def last(root):
    return root / "checkpoints/last.ckpt"


NAMES = ["ema", "raw", "long", "narrow", "wide"]


def stored(root, name):
    """The weights of a name as the checkpoint holds them."""
    prefix = {"ema": "ema.", "raw": "network."}.get(name, f"averages.{name}.")
    return {k.removeprefix(prefix): v for k, v in tiny.weights(last(root)).items() if k.startswith(prefix)}


def test_all_averages_are_in_the_checkpoint_and_differ(run):
    states = [stored(run, name) for name in NAMES]
    assert all(state.keys() == states[0].keys() for state in states)
    assert all(not tiny.same(a, b) for place, a in enumerate(states) for b in states[:place])
    facts = torch.load(last(run), weights_only=True)["flowlit"]
    assert list(facts["averages"]) == ["long", "narrow", "wide"]
    assert facts["averages"]["long"] == {
        "profile": "flowlit.schedules.averages.HalfLife",
        "images": 40,
        "rampup": 0.2,
        "updates": 11,
    }


@pytest.mark.journey
@pytest.mark.slow
def test_a_killed_run_goes_on_with_all_its_averages(run, tmp_path):
    root = tmp_path / "parts"
    killed("fit", "-c", configuration(root, bomb(7)))
    resumed = in_process("fit", "-c", configuration(root), "--ckpt_path", last(root))
    assert resumed.code == 0, resumed.err
    assert tiny.same(tiny.weights(last(run)), tiny.weights(last(root)))
    whole, parts = (torch.load(last(path), weights_only=True)["flowlit"] for path in (run, root))
    assert whole["averages"] == parts["averages"] and whole["ema"] == parts["ema"]
    files = [
        {path.name: path.read_bytes() for path in (path / "snapshots").iterdir()} for path in (run, root)
    ]
    assert files[0] == files[1] and len(files[0]) == 10


@pytest.mark.parametrize(
    "averages", [[tiny.EMA], [], [tiny.EMA, averaging("other", "PowerLaw")]], ids=["one", "none", "another"]
)
def test_other_averages_than_before_are_refused(run, tmp_path, averages):
    told = in_process(
        "fit", "-c", configuration(tmp_path / "r", averages=averages), "--ckpt_path", last(run)
    ).error
    assert (
        "ema, long, narrow, wide" in told and "config.yaml" in told and "flowlit.networks.pretrained" in told
    )


@pytest.mark.parametrize("name", NAMES)
def test_validation_measures_the_chosen_weights(run, tmp_path, name):
    path = configuration(tmp_path / "v", weights=name)
    done = in_process("validate", "-c", path, "--ckpt_path", last(run), "--trainer.limit_val_batches", 1)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "v/metrics.json").read_text())
    assert report["weights"] == report["checkpoint"]["weights"] == name and f"{name} weights" in done.out
    assert report["sha256"] == fingerprint(pretrained(str(last(run)), name))
    assert (report["ema"] or {}).get("updates") == (None if name == "raw" else 11)
    assert (report["ema"] or {}).get("std") == {"narrow": 0.05, "wide": 0.1}.get(name)


def test_validation_in_fit_generates_with_the_chosen_average(run, tmp_path):
    """A run that goes on from the last step and validates before anything else: its samples are those of the
    average's file.
    """
    noise = SeededNoise(tiny.SHAPE, 8)
    expected = flowlit.load(str(last(run)), "wide")(torch.stack([noise[i].x0 for i in range(8)]))
    root = tmp_path / "again"
    seen = {"class_path": f"{__name__}.Generated", "init_args": {"into": str(tmp_path / "seen.pt")}}
    words = [
        "--trainer.limit_val_batches",
        1,
        "--trainer.num_sanity_val_steps",
        0,
        "--trainer.val_check_interval",
        11,
    ]
    done = in_process("fit", "-c", configuration(root, seen, weights="wide"), *words)
    assert done.code == 0, done.err
    assert torch.equal(torch.load(tmp_path / "seen.pt"), expected)


class Generated(tiny.Callback):
    """Keeps the images of the last validation."""

    def __init__(self, into: str):
        self.into = into

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        torch.save(pl_module.codec.decode(outputs["solutions"]["euler2"].x1), self.into)


@pytest.mark.parametrize("name", ["raw", "wide"])
def test_couplings_are_made_by_the_chosen_weights(run, tmp_path, name):
    whole = tiny.fit(tmp_path / "logs")
    whole["model"]["init_args"]["weights"] = name
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    data = {"class_path": "flowlit.modules.FlowDataModule", "init_args": {"noise": tiny.noise()}}
    couple = {
        "seed_everything": 1,
        "model": whole["model"],
        "data": data,
        "trainer": trainer,
        "store": str(tmp_path / "store"),
    }
    path = tiny.write(tmp_path / "couple.yaml", {**couple, "num": 6, "ckpt_path": str(last(run))})
    made = in_process("couple", "-c", path)
    assert made.code == 0, made.err
    manifest = json.loads(content(tmp_path / "store")["manifest.json"])
    assert fingerprint(pretrained(str(last(run)), name)) in json.dumps(manifest)
    assert f'"weights": "{name}"' in json.dumps(manifest)


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_read_and_converted_by_name(run, tmp_path, name):
    found = pretrained(str(last(run)), name)
    assert tiny.same(found.state_dict(), stored(run, name)) and found.loaded["weights"] == name
    done = in_process("convert", last(run), "--into", tmp_path / "x.safetensors", "--weights", name)
    assert done.code == 0, done.err
    again = pretrained(str(tmp_path / "x.safetensors"), name)
    assert tiny.same(again.state_dict(), stored(run, name))
    assert again.loaded.get("ema") == found.loaded.get("ema") and (name == "raw") == (
        "ema" not in found.loaded
    )


def test_a_named_average_is_not_silently_another(run, tmp_path):
    in_process("convert", last(run), "--into", tmp_path / "x.safetensors", "--weights", "wide")
    with pytest.raises(FlowlitError, match=r"holds no average; use weights: wide"):
        pretrained(str(tmp_path / "x.safetensors"))


def test_a_named_average_in_the_layout_of_slimflow(run, tmp_path):
    """Which knows two sets: it becomes the average there."""
    done = in_process(
        "convert", last(run), "--into", tmp_path / "x.pth", "--layout", "slimflow", "--weights", "wide"
    )
    assert done.code == 0, done.err
    for theirs, ours in (("raw", "raw"), ("ema", "wide")):
        found = pretrained(str(tmp_path / "x.pth"), theirs, flowlit.networks.UNet(**tiny.unet()["init_args"]))
        assert tiny.same(found.state_dict(), stored(run, ours))


def test_names_that_a_checkpoint_does_not_hold(run, tmp_path):
    with pytest.raises(
        FlowlitError, match="weights is 'slow'; expected 'ema' or 'raw' or 'long' or 'narrow' or 'wide'"
    ):
        flowlit.load(str(last(run)), "slow")
    assert (
        "'wide'"
        in in_process("convert", last(run), "--into", tmp_path / "x.safetensors", "--weights", "slow").error
    )
    path = configuration(tmp_path / "v", weights="slow")
    assert (
        "holds ema, long, narrow, raw, wide"
        in in_process("validate", "-c", path, "--ckpt_path", last(run)).error
    )


def test_load_from_checkpoint_takes_the_chosen_average(run):
    network = flowlit.networks.UNet(**tiny.unet()["init_args"])
    module = Teacher.load_from_checkpoint(
        last(run), network=network, weights="narrow", optimizer=torch.optim.Adam
    )
    assert (
        tiny.same(module.velocity().state_dict(), stored(run, "narrow"))
        and module.averages.generating() == "narrow"
    )
    assert not module.averages


# ------------------------------------------------------------------------------------------------------------
# snapshots


def test_a_snapshot_is_the_average_and_tells_itself(run):
    names = [path.name for path in sorted((run / "snapshots").iterdir())]
    assert names == [
        f"{name}-{step:08d}.safetensors" for name in ("narrow", "wide") for step in (2, 4, 6, 8, 10)
    ]
    found = flowlit.load(str(run / "snapshots" / names[0]), "narrow")
    assert found.solver.steps == 2 and found.sample(2).shape == (2, *tiny.SHAPE)
    assert found.network.loaded["ema"] == {
        "profile": "flowlit.schedules.averages.PowerLaw",
        "std": 0.05,
        "updates": 2,
    }


def test_a_new_run_does_not_leave_snapshots_of_the_one_before(tmp_path):
    for steps in (6, 4):
        assert (
            in_process("fit", "-c", configuration(tmp_path / "run"), "--trainer.max_steps", steps).code == 0
        )
        assert len(list((tmp_path / "run/snapshots").iterdir())) == steps


def combined(run, into, *words):
    return in_process("average", run / "snapshots", "--into", into, *words)


def test_snapshots_combine_to_what_was_kept(run, tmp_path):
    """The average of width 0.1 at step 8, out of ten snapshots; and a width between, which neither of them
    is.
    """
    done = combined(run, tmp_path / "x.safetensors", "--std", 0.1, "--at", 8)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["wide-00000008.safetensors", "8", "0.1", "1.0000"] in lines and "warning" not in done.out
    expected = pretrained(str(run / "snapshots/wide-00000008.safetensors"), "wide")
    found = pretrained(str(tmp_path / "x.safetensors"))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_a_combination_comes_near_to_the_average_that_was_not_kept(run, tmp_path):
    """Trained once more with the width that the snapshots are to give."""
    root = tmp_path / "direct"
    kept = [tiny.EMA, averaging("between", "PowerLaw", 2, std=0.07)]
    assert in_process("fit", "-c", configuration(root, averages=kept)).code == 0
    direct = pretrained(str(root / "snapshots/between-00000010.safetensors"), "between").state_dict()
    assert combined(run, tmp_path / "x.safetensors", "--std", 0.07).code == 0
    made = pretrained(str(tmp_path / "x.safetensors")).state_dict()
    near = {
        name: pretrained(str(run / f"snapshots/{name}-00000010.safetensors"), name).state_dict()
        for name in ("narrow", "wide")
    }

    def distance(state):
        return sum(float((state[key] - direct[key]).square().sum()) for key in direct) ** 0.5

    assert distance(made) < 0.1 * min(map(distance, near.values()))


def test_a_combination_is_a_file_like_any_other(run, tmp_path):
    path = tmp_path / "x.safetensors"
    assert combined(run, path, "--std", 0.07).code == 0
    network = {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": str(path)}}
    whole = tiny.fit(tmp_path / "v", network=network, callbacks=[{"class_path": "flowlit.callbacks.Report"}])
    done = in_process(
        "validate", "-c", tiny.write(tmp_path / "v.yaml", whole), "--trainer.limit_val_batches", 1
    )
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "v/metrics.json").read_text())
    assert report["sha256"] == fingerprint(pretrained(str(path))) and report["weights"] == "ema"
    assert (report["ema"]["std"], report["ema"]["updates"], report["ema"]["combined"]["snapshots"]) == (
        0.07,
        10,
        10,
    )
    assert in_process("convert", path, "--into", tmp_path / "y.safetensors").code == 0
    assert flowlit.load(str(tmp_path / "y.safetensors")).solver.steps == 2


def test_a_width_out_of_reach_is_warned_about(run, tmp_path):
    done = combined(run, tmp_path / "x.safetensors", "--std", 0.01)
    assert done.code == 0 and "warning: these snapshots cannot make this average well" in done.out


def test_snapshots_that_do_not_combine(run, tmp_path):
    into, first = tmp_path / "x.safetensors", run / "snapshots/wide-00000002.safetensors"

    def refused(*files):
        return in_process("average", *files, "--std", 0.1, "--into", into).error

    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.safetensors").write_bytes(first.read_bytes()[:2000])
    (tmp_path / "twice.safetensors").write_bytes(first.read_bytes())
    assert "no snapshots in" in refused(tmp_path / "empty")
    assert "does not exist" in refused(tmp_path / "none.safetensors")
    assert "torn.safetensors is torn" in refused(first, tmp_path / "torn.safetensors")
    assert "each once" in refused(first, tmp_path / "twice.safetensors")
    assert "no snapshot of a power-law" in refused(last(run))
    assert "above 0 and below 0.2887, found 0.4" in combined(run, into, "--std", 0.4).error
    assert "--at 12: expected 1 to 10" in combined(run, into, "--std", 0.1, "--at", 12).error
    assert "ends in .safetensors" in combined(run, tmp_path / "x.ckpt", "--std", 0.1).error
    assert not into.exists() and combined(run, into, "--std", 0.1).code == 0
    assert "exists; remove it" in combined(run, into, "--std", 0.1).error
    assert (
        "combination already"
        in in_process("average", into, "--std", 0.1, "--into", tmp_path / "y.safetensors").error
    )


def test_snapshots_of_different_networks(run, tmp_path):
    from flowlit.networks.checkpoints.write import write_safetensors

    told = {"profile": "flowlit.schedules.averages.PowerLaw", "std": 0.05, "updates": 3}
    write_safetensors(tiny_unet(width=16), tmp_path / "other.safetensors", {"weights": "wide", "ema": told})
    words = [
        run / "snapshots",
        tmp_path / "other.safetensors",
        "--std",
        0.1,
        "--into",
        tmp_path / "x.safetensors",
    ]
    assert "other.safetensors is of another network than" in in_process("average", *words).error


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_averages_of_two_processes(run, tmp_path, flowlit, strategy):
    """Snapshots are written once, whole, and equal to what the ranks hold; the chosen average validates; runs
    go on.
    """
    words = ["--trainer.devices", 2, "--trainer.strategy", strategy, "--trainer.limit_val_batches", 1]
    path = configuration(tmp_path / "run", weights="wide")
    done = flowlit("fit", "-c", path, *words, "--trainer.max_steps", 6, cwd=tmp_path)
    assert done.code == 0, done.err
    assert len(list((tmp_path / "run/snapshots").iterdir())) == 6
    found = pretrained(str(tmp_path / "run/snapshots/wide-00000006.safetensors"), "wide")
    assert tiny.same(found.state_dict(), stored(tmp_path / "run", "wide"))
    done = flowlit("fit", "-c", path, *words, "--ckpt_path", last(tmp_path / "run"), cwd=tmp_path)
    assert done.code == 0, done.err
    alone, both = tiny.weights(last(run)), tiny.weights(last(tmp_path / "run"))
    assert all(torch.allclose(alone[key], both[key], rtol=1e-3, atol=1e-5) for key in alone)


class Counting(tiny.Affine):
    """Puts a new tensor in the place of its buffer at every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, t, cond={}):
        self.seen = self.seen + self.training
        return super().forward(x, t, cond)


def test_a_buffer_that_the_network_replaces_is_followed():
    network = Counting()
    average = deepcopy(network)
    twins = AveragedWeights(average, network)
    network(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    with torch.no_grad():
        twins.move(0.5)
    assert average.seen == network.seen == 1
