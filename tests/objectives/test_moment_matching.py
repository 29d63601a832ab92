"""Matching of moments: the estimate is unbiased, and its gradient is that of every step."""

from itertools import product

import pytest
import tiny
import torch
from tools import Mean, classifier, tiny_unet
from torch import nn

from flowlit.callbacks.evaluation.fid_checks import warn_of_own_features
from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics import NetworkFeatures
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import pretrained
from flowlit.objectives import Combined, Distillation, MomentMatching
from flowlit.objectives.distances import FeatureDistance
from flowlit.objectives.moment_matching import mmd_loss
from flowlit.objectives.rewards import ClassifierReward, RewardGradient
from flowlit.solvers import Euler, Heun
from flowlit.types import Pair, Solution, Solver

FLAT = nn.Flatten()
"""A network whose features are all pixels."""


def everywhere(p, q, degree, estimate=mmd_loss):
    """Mean of an estimate over all samples of two from each of two finite populations (N, d)."""
    pairs = list(product(range(len(p)), repeat=2))
    values = [estimate(p[list(a)], q[list(b)], degree=degree) for a in pairs for b in pairs]
    return float(torch.stack(values).mean())


def exact(p, q, degree):
    def kernel(a, b):
        return ((a @ b.T / a.shape[1] + 1) ** degree).mean()

    return float(kernel(p, p) + kernel(q, q) - 2 * kernel(p, q))


def populations():
    torch.manual_seed(0)
    return torch.randn(2, 3, 2, dtype=torch.float64)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_estimate_is_unbiased(degree):
    p, q = populations()
    assert everywhere(p, q, degree) == pytest.approx(exact(p, q, degree), abs=1e-12)
    assert everywhere(p, p, degree) == pytest.approx(0, abs=1e-12)


def test_pairs_of_a_row_with_itself_would_bias_it():
    p, _ = populations()
    mutant = everywhere(p, p, 3, lambda a, b, degree: torch.tensor(exact(a, b, degree)))
    assert mutant > 0.1


def test_degree_1_sees_means_alone():
    narrow, wide = (torch.tensor([[-width], [width]], dtype=torch.float64) for width in (1.0, 2.0))
    assert everywhere(narrow, wide, 1) == pytest.approx(0, abs=1e-12)
    assert everywhere(narrow, wide, 2) > 1 and everywhere(narrow, wide, 3) > 1


def test_kernels_are_of_double_precision():
    """Values of 1e9 and their small differences are beyond float32."""
    features = torch.full((4, 8), 30.0) + torch.randn(4, 8) * 1e-3
    assert mmd_loss(features, features).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        inside = mmd_loss(features, features + 1)
    assert inside == mmd_loss(features, features + 1)


@pytest.mark.parametrize(("generated", "real"), [(1, 4), (4, 1)])
def test_a_single_row_has_no_estimate(generated, real):
    with pytest.raises(
        FlowlitError, match=rf"{generated} generated and {real} real rows; expected at least 2"
    ):
        mmd_loss(torch.zeros(generated, 3), torch.zeros(real, 3))


def pair(rows=6):
    torch.manual_seed(1)
    return Pair(*torch.randn(2, rows, *tiny.SHAPE))


def test_gradients_flow_through_all_steps():
    network = tiny.Affine()
    noise, real, _ = pair()
    ours = MomentMatching(Euler(3), FLAT, [""], degree=2)(network, pair())["loss"]
    x = noise
    for k in range(3):
        x = x + network(x, torch.full((6,), k / 3)) / 3
    expected = mmd_loss(x.flatten(1), real.flatten(1), degree=2).float()
    torch.testing.assert_close(ours, expected)
    parameters = list(network.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters)
    )


def test_images_are_not_clamped():
    """Every pixel has a gradient, those far beyond white, too."""
    network = tiny.Affine()
    nn.init.constant_(network.drift, 5.0)
    MomentMatching(Euler(2), FLAT, [""])(network, pair())["loss"].backward()
    assert bool((network.drift.grad != 0).all())


def test_layers_are_added_up_and_averaged_over_positions():
    network = classifier().float()
    both, one, other = (
        MomentMatching(Euler(1), network, layers) for layers in (["body", ""], ["body"], [""])
    )
    velocity = tiny.Affine()
    losses = [objective(velocity, pair())["loss"] for objective in (both, one, other)]
    torch.testing.assert_close(losses[0], losses[1] + losses[2])
    x, real = (pair().x0 + velocity(pair().x0, torch.zeros(6))), pair().x1
    torch.testing.assert_close(
        losses[1], mmd_loss(network.features(x), network.features(real)).float(), rtol=1e-4, atol=1e-5
    )


def test_features_get_nothing():
    network = classifier()
    objective = MomentMatching(Euler(2), network, ["body"])
    objective(tiny.Affine(), pair())["loss"].backward()
    assert not list(objective.parameters()) and all(p.grad is None for p in network.parameters())


class Severed(Solver):
    """A solver without a graph."""

    @torch.no_grad()
    def __call__(self, velocity, x0, cond={}, *, observe=None, reverse=False):
        return Solution(x0 + velocity(x0, torch.zeros(len(x0)), cond), torch.ones(len(x0)))


def test_a_solver_without_a_graph_is_refused():
    with pytest.raises(
        FlowlitError, match=r"samples of Severed.* have no gradient; expected a solver that keeps"
    ):
        MomentMatching(Severed(), FLAT, [""])(tiny.Affine(), pair())


def test_it_generates_as_it_is_trained():
    objective = MomentMatching(Euler(3), FLAT, [""])
    FlowModule(tiny.Affine(), objective, solvers={"euler3": Euler(3), "heun": Heun(2)})
    with pytest.raises(
        FlowlitError, match=r"trains for Euler\(steps=3.*\), but model.solvers are Euler\(steps=2"
    ):
        FlowModule(tiny.Affine(), objective, solvers={"euler2": Euler(2)})
    with pytest.raises(FlowlitError, match="MomentMatching trains for"):
        FlowModule(tiny.Affine(), Combined({"a": Distillation(), "mmd": objective}))


OBJECTIVES = {
    "moments": lambda network: MomentMatching(Euler(1), network, ["body"]),
    "a part": lambda network: Combined({"a": MomentMatching(Euler(1), network, [""])}),
    "a distance": lambda network: Distillation(FeatureDistance(network, ["body"])),
    "a reward": lambda network: RewardGradient(ClassifierReward(network)),
}


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_features_that_are_trained_on_do_not_judge(make, recwarn):
    features = NetworkFeatures(classifier(seed=0), "body", "digits")
    warn_of_own_features(features, make(classifier(seed=1)))
    warn_of_own_features(Mean(), make(classifier(seed=0)))
    warn_of_own_features(features, Distillation())
    assert not recwarn.list
    with pytest.warns(UserWarning, match="trains on the network whose digits features measure the result"):
        warn_of_own_features(features, make(classifier(seed=0)))


def test_a_network_remembers_the_features_that_it_was_trained_on(tmp_path):
    """Also where it is measured later, by another objective's module, and after another training."""
    features = NetworkFeatures(classifier(seed=0), "body", "digits")
    network = tiny_unet()
    for objective in (MomentMatching(Euler(1), classifier(seed=0), ["body"]), Distillation()):
        module = FlowModule(network, objective, solvers={"euler1": Euler(1)})
        data = FlowDataModule(Independent(Digits(limit=40, labels=False)), batch_size=8)
        trainer = tiny.trainer(tmp_path, 1, limit_val_batches=0)
        trainer.fit(module, datamodule=data)
        with pytest.warns(UserWarning, match="MomentMatching trains on the network whose digits features"):
            warn_of_own_features(features, Distillation(), network)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with pytest.warns(UserWarning, match="MomentMatching trains on the network whose digits features"):
        warn_of_own_features(features, None, pretrained(str(tmp_path / "end.ckpt"), "raw"))


def test_what_it_trains_is_a_generator_and_no_flow():
    """Score distillation refuses it as a guide."""
    module = FlowModule(tiny.Affine(), MomentMatching(Euler(3), FLAT, [""]), solvers={"euler3": Euler(3)})
    assert not module.trains_flow and FlowModule(tiny.Affine(), Distillation()).trains_flow
