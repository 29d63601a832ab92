"""Antisymmetric part and dimensions, on fields whose Jacobian is known."""

import pytest
import torch
from gaussian_map import GaussianMap
from tools import randomise, tiny_unet

from flowlit.metrics.conservativity import (
    MeanJacobian,
    jacobian,
    products,
    projection_at,
    pulled,
    pushed,
    signs,
    singular_values,
    velocity_at,
)

D = 6
X = torch.randn(12, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DRAW = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SYMMETRIC, ANTI = (DRAW + DRAW.T) / 2, (DRAW - DRAW.T) / 2
PLANE = torch.linalg.qr(DRAW)[0][:, :2]
PROJECTION = PLANE @ PLANE.T


def linear(matrix):
    return lambda x, t, cond={}: (x.flatten(1) @ matrix.T).reshape(x.shape)


def estimates(velocity, t=0.5, x=X, **words):
    mean = MeanJacobian(1)
    generator = torch.Generator().manual_seed(2)
    mean.update(0, jacobian(velocity, x, t, generator=generator, **words))
    return mean.compute()


def potential(x, t, cond={}):
    """The gradient of Σ sin(a·x) + Σ x⁴."""
    flat = x.flatten(1)
    return (torch.cos(flat @ DRAW) @ DRAW.T + 4 * flat**3).reshape(x.shape)


def test_a_gradient_has_no_antisymmetric_part_and_a_rotation_nothing_else():
    assert float(estimates(potential).share) < 1e-20
    assert float(estimates(linear(ANTI)).share) == pytest.approx(1, abs=1e-12)
    assert float(estimates(linear(ANTI)).share_error) < 1e-7


def test_a_mixture_has_its_share_within_the_standard_error_and_more_probes_a_smaller_one():
    exact = float(ANTI.square().sum() / DRAW.square().sum())
    few, many = estimates(linear(DRAW), probes=2), estimates(linear(DRAW), probes=200)
    assert 0.05 < exact < 0.95
    assert float(many.share) == pytest.approx(exact, abs=4 * float(many.share_error))
    assert float(few.share) == pytest.approx(exact, abs=4 * float(few.share_error))
    assert 0 < 4 * float(many.share_error) < float(few.share_error)


def test_the_standard_error_is_the_spread_of_repeated_estimates():
    shares, traces, errors = [], [], []
    generator = torch.Generator().manual_seed(3)
    for _ in range(100):
        mean = MeanJacobian(1)
        mean.update(0, jacobian(linear(DRAW), X, 0.5, probes=1, most=1, generator=generator))
        found = mean.compute()
        shares.append(float(found.share))
        traces.append(float(found.trace))
        errors.append([float(found.share_error), float(found.trace_error)])
    said = torch.tensor(errors).square().mean(0).sqrt().tolist()
    assert said == pytest.approx([torch.tensor(v).std().item() for v in (shares, traces)], rel=0.35)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_a_projection_has_its_rank_by_trace_and_by_spectrum(t):
    """x1 is spread without end in a plane: its posterior mean is the projection of x / t."""
    velocity = linear((PROJECTION / t - torch.eye(D, dtype=torch.float64)) / (1 - t))
    found = estimates(velocity, t, probes=100)
    assert float(found.spectrum) == 2 and float(found.spectrum_error) == 0
    assert float(found.trace) == pytest.approx(2, abs=max(4 * float(found.trace_error), 1e-6))
    assert float(estimates(velocity, t, most=1).spectrum) == 1, "it stops at most"
    assert float(estimates(velocity, t, most=3).spectrum) == 2, "at random, too"


def test_a_gaussian_has_the_dimensions_of_its_spectrum():
    """t² Λ / (t² Λ + (1 - t)²), summed or counted above ½; the velocity of a Gaussian is a gradient."""
    flow = GaussianMap()
    x = torch.randn(8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for t in (0.3, 0.5, 0.8):
        shares = t**2 * flow.spectrum / (t**2 * flow.spectrum + (1 - t) ** 2)
        found = estimates(flow, t, x, probes=64)
        assert float(found.share) < 1e-10
        assert float(found.spectrum) == int((shares > 0.5).sum())
        assert float(found.trace) == pytest.approx(
            float(shares.sum()), abs=4 * float(found.trace_error) + 1e-5
        )
        values = singular_values(projection_at(flow, torch.full((8,), t)), x, 4)
        torch.testing.assert_close(
            values, shares.sort(descending=True).values.expand(8, 4), atol=1e-6, rtol=0
        )


def test_products_are_those_of_each_row_s_own_jacobian():
    network = randomise(tiny_unet()).eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([0.2, 0.5, 0.9])
    field = velocity_at(network, t)
    e = signs(x, torch.Generator().manual_seed(6))
    for row in range(3):
        own = velocity_at(network, t[row : row + 1])
        matrix = torch.func.jacrev(lambda y, own=own: own(y.reshape(1, 1, 8, 8)).flatten())(x[row].flatten())
        with torch.no_grad():
            forwards, back = pushed(field, x, e)[row].flatten(), pulled(field, x, e)[row].flatten()
        torch.testing.assert_close(forwards, matrix @ e[row].flatten(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(back, matrix.T @ e[row].flatten(), rtol=1e-3, atol=1e-4)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_no_signal_is_no_share_and_sums_add_up():
    still = estimates(lambda x, t, cond={}: torch.zeros_like(x) * x)
    assert float(still.share) == float(still.share_error) == 0
    assert float(still.trace) == pytest.approx(0.5 * D) and float(still.spectrum) == 0
    whole, parts = MeanJacobian(1), MeanJacobian(1)
    part = jacobian(linear(DRAW), X, 0.5, generator=torch.Generator().manual_seed(7))
    whole.update(0, part)
    for rows in (slice(0, 5), slice(5, 12)):
        cut = type(part)(
            type(part.products)(*(v[rows] for v in part.products)), part.trace[rows], part.spectrum[rows]
        )
        parts.update(0, cut)
    torch.testing.assert_close(torch.stack(parts.compute()), torch.stack(whole.compute()))


def test_probes_are_signs_and_one_draw_is_the_same_on_any_dtype():
    e = signs(X, torch.Generator().manual_seed(8))
    assert set(e.flatten().tolist()) == {-1.0, 1.0}
    assert torch.equal(e.float(), signs(X.float(), torch.Generator().manual_seed(8)))
    assert products(velocity_at(linear(SYMMETRIC), torch.zeros(12)), X, 1).antisymmetric.abs().max() < 1e-20
