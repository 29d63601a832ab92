"""The start of a flow near an image, and its annealing."""

import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.objectives import AnnealedReflow
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.reflow import annealed_reflow_loss
from flowlit.paths import NoisedImage
from flowlit.types import Pair

STARTS = [NoisedImage(0.2), NoisedImage(1.0), NoisedImage(2.0, preserve_variance=False), NoisedImage(0)]


@pytest.mark.parametrize("start", STARTS, ids=repr)
@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_annealing_keeps_the_law(start, beta):
    image = torch.randn(1, 1, 2, 2, dtype=torch.float64).expand(50_000, -1, -1, -1)
    noise, fresh = torch.randn(2, *image.shape, dtype=torch.float64)
    x0 = start(image, noise)
    x = start.annealed(x0, image, fresh, beta)
    assert (x.mean(0) - start(image, 0 * noise)[0]).abs().amax() < 5 * start.sigma / 50_000**0.5 + 1e-12
    torch.testing.assert_close(x.std(0), torch.full_like(x[0], start.sigma), rtol=0.02, atol=1e-12)
    if beta == 0:
        torch.testing.assert_close(x, x0)
    if beta == 1:
        torch.testing.assert_close(x, start(image, fresh))


def test_the_objective_anneals_the_noise_alone():
    seen = []

    def velocity(x, t, cond):
        seen.append(x)
        return torch.zeros_like(x)

    image, x1, noise, fresh = torch.randn(4, 3, 1, 4, 4)
    start = NoisedImage(0.5)
    pair = Pair(start(image, noise), x1, {"image": image})
    arguments = {"distance": SquaredError(), "beta": 0.6}
    loss = annealed_reflow_loss(velocity, pair, torch.zeros(3), fresh, start=start, **arguments)
    x0 = start(image, 0.8 * noise + 0.6 * fresh)
    torch.testing.assert_close(seen[0], x0)
    torch.testing.assert_close(loss, (x1 - x0).square().flatten(1).mean(1))
    AnnealedReflow(beta=1.0, start=NoisedImage(0.0))(velocity, pair._replace(x0=image))
    assert len(seen) == 2


def test_more_noise_than_variance_is_refused():
    with pytest.raises(FlowlitError, match="expected 0 to 1, or preserve_variance"):
        NoisedImage(1.01)
