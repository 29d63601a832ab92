import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.networks import EmpiricalFlow
from flowlit.paths import interpolate
from flowlit.solvers import RK45, Euler, Heun


def nearest(x1, images):
    """Distance of each row to its nearest image (largest over pixels), and which one."""
    distances = (x1[:, None] - images[None]).abs().flatten(2).amax(2)
    return distances.min(1)


def by_hand(x, t, images):
    """The definition, in float64, one sample and one image after the other."""
    weights = torch.tensor(
        [-float((x - t * image).square().sum()) / (2 * (1 - t) ** 2) for image in images], dtype=torch.float64
    )
    mean = sum(w * image for w, image in zip(weights.softmax(0), images, strict=True))
    return (mean - x) / (1 - t)


def test_velocity_by_hand():
    images, x = torch.randn(6, 1, 2, 2).double(), torch.randn(4, 1, 2, 2).double()
    t = torch.tensor([0.0, 0.25, 0.5, 0.875])
    expected = torch.stack([by_hand(x[i], float(t[i]), images) for i in range(4)])
    assert torch.allclose(EmpiricalFlow(images)(x, t), expected)


def test_it_is_the_mean_velocity_given_x_t():
    """Monte Carlo: no function of x_t predicts x1 - x0 better than it."""
    torch.manual_seed(0)
    images = torch.tensor([-1.0, 0.5, 1.0])[:, None, None, None]
    x0, x1, t = (
        torch.randn(100_000, 1, 1, 1),
        images[torch.randint(3, (100_000,))],
        torch.full((100_000,), 0.6),
    )
    x_t = interpolate(x0, x1, t)
    residual = (x1 - x0 - EmpiricalFlow(images)(x_t, t)).flatten()
    for probe in (torch.ones(100_000), x_t.flatten(), x_t.flatten().sin(), (x_t.flatten() > 0.3).float()):
        assert abs(float((residual * probe).mean())) < 0.02


def test_rk45_lands_on_training_images():
    digits = Digits(limit=200, labels=False)
    images = torch.stack([digits[i]["x1"] for i in range(200)]).float() / 127.5 - 1
    x0 = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distance, which = nearest(RK45()(EmpiricalFlow(digits), x0).x1, images)
    assert distance.max() < 0.01
    assert len(which.unique()) > 5, "different noise should lead to different images"


def test_labels_restrict_it_to_their_class():
    digits = Digits(limit=200)
    images, labels = digits.data
    label = torch.arange(20) % 10
    x0 = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distance, which = nearest(
        RK45()(EmpiricalFlow(digits), x0, {"label": label}).x1, images.float() / 127.5 - 1
    )
    assert distance.max() < 0.01
    assert torch.equal(labels[which], label)


def test_labels_of_images_without_labels():
    with pytest.raises(FlowlitError, match="its images have none"):
        EmpiricalFlow(torch.zeros(3, 1, 2, 2))(
            torch.zeros(1, 1, 2, 2), torch.zeros(1), {"label": torch.zeros(1)}
        )


@pytest.mark.parametrize(("kind", "order"), [(Euler, 1), (Heun, 2)])
def test_order_of_convergence_on_the_first_half_of_the_way(kind, order):
    """The last step of any solver lands on an image, so the order shows only before the end."""
    generator = torch.Generator().manual_seed(0)
    flow = EmpiricalFlow(torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64))
    x0 = torch.randn(8, 1, 2, 2, generator=generator, dtype=torch.float64)

    def half(x, t, cond={}):
        return 0.5 * flow(x, 0.5 * t, cond)

    exact, steps = RK45(1e-9, 1e-9)(half, x0).x1, [16, 32, 64, 128]
    errors = [float((kind(n)(half, x0).x1 - exact).abs().mean()) for n in steps]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2)


def test_one_image_is_reached_in_one_step():
    image = torch.randn(1, 1, 4, 4)
    assert torch.allclose(
        Euler(1)(EmpiricalFlow(image), torch.randn(3, 1, 4, 4)).x1, image.expand(3, -1, -1, -1), atol=1e-6
    )


def test_it_stays_finite_at_the_data_end():
    images = torch.randn(4, 1, 2, 2)
    assert torch.isfinite(EmpiricalFlow(images)(images, torch.ones(4))).all()


def test_images_are_read_once_and_not_before_they_are_needed():
    reads = []

    class Watched(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            reads.append(index)
            return {"x1": torch.full((1, 2, 2), index, dtype=torch.uint8), "cond": {}}

    flow = EmpiricalFlow(Watched())
    assert not reads and not flow.state_dict()
    for _ in range(2):
        flow(torch.zeros(1, 1, 2, 2), torch.zeros(1))
    assert reads == [0, 1, 2]
