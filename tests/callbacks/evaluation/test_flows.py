"""The geometry of flows, the loss over time, and the pictures that show them."""

import csv
import math

import numpy as np
import pytest
import tiny
import torch
from forks import apart
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tools import straight

from flowlit.callbacks import (
    Interpolations,
    LossOverTime,
    NearestNeighbours,
    Samples,
    Straightness,
    Trajectories,
)
from flowlit.callbacks.training.loss_over_time import labels
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics import geometry
from flowlit.metrics.geometry import MeanMotion, motion, snapshots, straightness
from flowlit.metrics.memorisation import memorisation, nearest, pixel_distance
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import (
    AnnealedReflow,
    Combined,
    Distillation,
    FlowGuided,
    KStepDistillation,
    RectifiedFlow,
)
from flowlit.paths import expand, interpolate_noise
from flowlit.solvers import Euler, Heun
from flowlit.types import Distance, ImageDataset, Objective, TimeDistribution

OMEGA = 1.5


def rotation(x, t, cond={}):
    """Turn the plane of two channels by one and a half radians in unit time."""
    return OMEGA * torch.stack([-x[:, 1], x[:, 0]], 1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def curves(field, x0, steps):
    mean = MeanMotion(steps)
    mean.update(motion(field, x0, {}, steps))
    return mean.compute()


# ------------------------------------------------------------------------------------------------------------
# geometry


@pytest.mark.parametrize(
    "field", [straight, lambda x, t, cond: torch.full_like(x, 0.3)], ids=["coupling", "constant"]
)
def test_a_straight_flow_neither_bends_nor_errs(field):
    x0 = noise(6, 3, 2, 2)
    found = curves(field, x0, 50)
    assert (
        found.deviation.max() < 1e-12 and found.curvature.max() < 1e-4 and found.chord_error < 1e-6
    )  # t is float32
    x1 = x0 + field(x0, torch.zeros(6), {})
    assert found.transport.item() == pytest.approx((x1 - x0).square().mean().item())


def test_the_acceleration_of_a_rotation_is_omega_squared_r():
    """Exactly so on Euler steps, whose radius grows by sqrt(1 + ω² h²)."""
    x0, steps = noise(5, 2, 3, 3), 20
    radius = (1 + OMEGA**2 / steps**2) ** torch.arange(steps - 1, dtype=torch.float64)
    expected = OMEGA**4 * x0.square().flatten(1).mean(1)[:, None] * radius
    torch.testing.assert_close(motion(rotation, x0, {}, steps).acceleration, expected)


def test_everything_about_a_rotation_is_found_to_first_order():
    """|Z1 - Z0|² = 2 (1 - cos ω) r², v·(Z1 - Z0) = ω r² (sin ω(1 - t) + sin ωt), |a| = ω² r."""
    x0 = noise(5, 2, 1, 3)
    r2 = x0.square().mean().item()
    chord = 2 * (1 - math.cos(OMEGA)) + OMEGA**2 - 2 * OMEGA * math.sin(OMEGA)
    errors = []
    for steps in (100, 200, 400):
        found = curves(rotation, x0, steps)
        t = found.times(found.deviation)
        assert t[0] == 0 and t[-1] == pytest.approx(1 - 1 / steps)
        dots = OMEGA * (torch.sin(OMEGA * (1 - t)) + torch.sin(OMEGA * t))
        deviation = r2 * (2 * (1 - math.cos(OMEGA)) + OMEGA**2 - 2 * dots)
        exact = (r2 * (OMEGA**2 - 2 * (1 - math.cos(OMEGA))), OMEGA**2 * r2**0.5, (r2 * chord) ** 0.5)
        numbers = (found.straightness, found.curvature.mean(), found.chord_error)
        error = [abs(float(a) - b) for a, b in zip(numbers, exact, strict=True)]
        error += [
            float((found.deviation - deviation).abs().max()),
            abs(float(found.transport) - 2 * r2 * (1 - math.cos(OMEGA))),
        ]
        errors.append(error)
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(orders - 1) < 0.1), orders
    assert np.all(np.array(errors[-1]) < 0.02 * r2)


def test_everything_about_exponential_growth_is_exact_on_its_steps():
    """v = a x: Euler's x_i = (1 + a h)^i x0."""
    a, steps, x0 = 0.8, 10, noise(4, 1, 2, 2)
    growth, r2 = (
        (1 + a / steps) ** torch.arange(steps + 1, dtype=torch.float64),
        x0.square().flatten(1).mean(1)[:, None],
    )
    found = motion(lambda x, t, cond: a * x, x0, {}, steps)
    torch.testing.assert_close(found.deviation, r2 * (growth[-1] - 1 - a * growth[:-1]) ** 2)
    torch.testing.assert_close(found.acceleration, r2 * (a**2 * growth[:-2]) ** 2)
    torch.testing.assert_close(found.transport, r2[:, 0] * (growth[-1] - 1) ** 2)
    torch.testing.assert_close(
        straightness(lambda x, t, cond: a * x, x0, {}, steps), found.deviation.mean(1) * 4
    )


def test_accelerations_stand_in_the_middle_of_steps():
    """Of v = t²: dv/dt = 2t, and differences are exact in the middle."""
    found = curves(lambda x, t, cond: (expand(t, x) ** 2).expand_as(x).double(), noise(2, 1, 1, 1), 8)
    torch.testing.assert_close(found.curvature, 2 * found.times(found.curvature), atol=1e-6, rtol=0)


def test_samples_are_averaged_one_by_one_whatever_the_batches():
    x0 = noise(7, 2, 2, 2) * torch.arange(1, 8)[:, None, None, None]
    mean = MeanMotion(10)
    for part in x0.split([1, 4, 2]):
        mean.update(motion(rotation, part, {}, 10))
    for ours, theirs in zip(mean.compute(), curves(rotation, x0, 10), strict=True):
        torch.testing.assert_close(ours, theirs)
    each = motion(rotation, x0, {}, 10)
    torch.testing.assert_close(
        mean.compute().curvature, each.acceleration.mean(0).sqrt()
    )  # root of the mean, not mean of roots


def test_bounded_memory_changes_nothing(monkeypatch):
    x0, label = noise(7, 2, 2, 2), torch.arange(7)

    def field(x, t, cond):
        return rotation(x, t) * cond["label"][:, None, None, None]

    whole = motion(field, x0, {"label": label}, 10)
    monkeypatch.setattr(geometry, "_FLOATS", 2 * 10 * 8)  # two samples at a time
    for a, b in zip(whole, motion(field, x0, {"label": label}, 10), strict=True):
        torch.testing.assert_close(a, b)


def test_one_step_has_no_acceleration():
    with pytest.raises(FlowlitError, match="at least 3 steps, found steps=1"):
        motion(rotation, noise(1, 2, 1, 1), {}, 1)


def test_snapshots_are_taken_at_equal_times_of_one_trajectory():
    x0, a = noise(3, 1, 2, 2), 0.7
    found = snapshots(lambda x, t, cond: a * x, x0, {}, k=8, steps=100)  # 104 steps, 13 between pictures
    growth = (1 + a / 104) ** (13 * torch.arange(9, dtype=torch.float64))
    expected = x0[:, None] * growth[None, :, None, None, None]
    torch.testing.assert_close(found.x_t, expected)
    remaining = 1 + a * (1 - torch.arange(9, dtype=torch.float64) / 8)
    torch.testing.assert_close(
        found.endpoint, expected * remaining[None, :, None, None, None], rtol=1e-6, atol=0
    )
    assert torch.equal(found.x_t[:, 0], x0) and torch.equal(found.x_t[:, -1], found.endpoint[:, -1])


def test_a_straight_flow_knows_its_endpoint_from_the_start():
    x0 = noise(3, 1, 2, 2)
    found = snapshots(straight, x0, {}, k=4, steps=8)
    torch.testing.assert_close(
        found.endpoint, (3 * x0 + 1)[:, None].expand(-1, 5, -1, -1, -1), rtol=1e-5, atol=1e-6
    )


def test_interpolated_noise_stays_noise():
    a, b = noise(2, 50_000, 1)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        mixed = interpolate_noise(a, b, torch.full((50_000,), alpha, dtype=torch.float64))
        assert mixed.var().item() == pytest.approx(1, abs=0.02)
        assert (mixed * a).mean().item() == pytest.approx(math.cos(math.pi * alpha / 2), abs=0.02)
        assert (mixed * b).mean().item() == pytest.approx(math.sin(math.pi * alpha / 2), abs=0.02)
    assert torch.equal(interpolate_noise(a, b, torch.zeros(50_000)), a)


# ----------------------------------------------------------------------------------------------------------
# neighbours


def pictures(count, shape=(3, 4, 4), seed=0):
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_pixel_distance_is_a_root_mean_square_in_units_of_minus_one_to_one():
    a, b = pictures(5), pictures(7, seed=1)
    difference = (a[:, None].numpy().astype(float) - b[None].numpy()) / 127.5
    assert np.allclose(pixel_distance(a, b).numpy(), np.sqrt((difference**2).mean((2, 3, 4))), rtol=1e-12)


def test_copies_are_exactly_as_far_as_nothing():
    images = pictures(64, (3, 32, 32))
    assert pixel_distance(images, images).diagonal().max() == 0
    other = images.clone()
    other[:, 0, 0, 0] ^= 1  # the smallest change there is
    assert pixel_distance(images, other).diagonal().tolist() == pytest.approx(
        [1 / 127.5 / 3072**0.5] * 64, rel=1e-12
    )


@pytest.mark.parametrize("size", [40, 7, 1])
def test_nearest_images_are_those_of_a_full_sort(size):
    queries, images = pictures(6), pictures(40, seed=1)
    distance, index = nearest(queries, images.split(size), 3)
    full = pixel_distance(queries, images).sort(1)
    assert torch.equal(distance, full.values[:, :3]) and torch.equal(index, full.indices[:, :3])


def test_an_image_is_not_its_own_neighbour():
    images = pictures(40, seed=1)
    own = torch.tensor([0, 13, 39])
    distance, index = nearest(images[own], images.split(7), 1, own)
    full = pixel_distance(images, images).fill_diagonal_(torch.inf)[own].min(1)
    assert torch.equal(distance[:, 0], full.values) and torch.equal(index[:, 0], full.indices)


def test_memorisation_is_a_ratio_of_medians():
    assert memorisation(
        torch.tensor([0.1, 9.0, 0.3]), torch.tensor([0.2, 0.6, 0.2, 99])
    ).item() == pytest.approx(0.3 / 0.4)


# runs
# and events


def data(num=16, batch=16, **arguments):
    noises = SeededNoise(tiny.SHAPE, num)
    return FlowDataModule(
        Independent(Digits(limit=64, labels=False)), 8, noises, noise_batch_size=batch, **arguments
    )


def flow(objective=None, solvers=None):
    torch.manual_seed(3)
    module = FlowModule(
        tiny.Affine(), objective or RectifiedFlow(), solvers=solvers or {"heun": Heun(2), "euler": Euler(1)}
    )
    torch.nn.init.normal_(module.network.drift)
    return module


def board(folder):
    return TensorBoardLogger(str(folder), name="", version="")


def validate(folder, callbacks, module=None, num=16, batch=16, **arguments):
    trainer = tiny.trainer(folder, 1, callbacks, logger=board(folder), **arguments)
    trainer.validate(module or flow(), data(num, batch), verbose=False)
    return trainer


def fit(folder, module, callbacks=(), steps=4, ckpt_path=None, **arguments):
    settings = {"limit_val_batches": 0, "logger": board(folder), **arguments}
    trainer = tiny.trainer(folder, steps, callbacks, **settings)
    trainer.fit(module, data(), ckpt_path=ckpt_path)
    return trainer


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "histograms": 0})
    return events.Reload()


def scalars(folder, prefix):
    events = read(folder)
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"] if tag.startswith(prefix)}


def first(num):
    return SeededNoise(tiny.SHAPE, 16).batch(range(num)).x0


def cells(path, rows, columns):
    """Cut a grid of 8×8 pictures, each pixel 8×8 times, with a border of one pixel into its pictures."""
    grid = np.array(Image.open(path))
    assert grid.shape == (rows * 65 + 1, columns * 65 + 1, 3)
    starts = [[(1 + 65 * r, 1 + 65 * c) for c in range(columns)] for r in range(rows)]
    large = [[grid[y : y + 64, x : x + 64, 0] for y, x in row] for row in starts]
    small = [[cell[::8, ::8] for cell in row] for row in large]
    assert np.array_equal(np.kron(small, np.ones((8, 8))), large), "a pixel is not repeated as it is"
    return small


def shown(folder, tag, rows, columns):
    """The one image of a tag in TensorBoard is as large as the file."""
    (image,) = read(folder).Images(tag)
    assert (image.height, image.width) == (rows * 65 + 1, columns * 65 + 1)


TAGS = {
    "straightness/sum",
    "straightness/per_dimension",
    "transport_cost/sum",
    "transport_cost/per_dimension",
    "curvature/mean",
    "chord_error/rms",
}


def test_the_geometry_of_a_run_is_that_of_its_first_noises(tmp_path):
    metrics = validate(tmp_path, [Straightness(20, 10)], batch=4).callback_metrics
    with torch.no_grad():
        each = motion(flow().network, first(10), {}, 20)
        start = flow().network(first(10), torch.zeros(10))
        end = Euler(20)(flow().network, first(10)).x1
    assert set(metrics) == TAGS
    close = {"rel": 1e-4}
    assert float(metrics["straightness/sum"]) == pytest.approx(64 * float(each.deviation.mean()), **close)
    assert float(metrics["straightness/per_dimension"]) == pytest.approx(
        float(each.deviation.mean()), **close
    )
    assert float(metrics["transport_cost/sum"]) == pytest.approx(
        float((end - first(10)).square().flatten(1).sum(1).mean()), **close
    )
    assert float(metrics["transport_cost/per_dimension"]) == pytest.approx(
        float((end - first(10)).square().mean()), **close
    )
    assert float(metrics["chord_error/rms"]) == pytest.approx(
        float((first(10) + start - end).square().mean().sqrt()), **close
    )
    assert float(metrics["curvature/mean"]) == pytest.approx(
        float(each.acceleration.mean(0).sqrt().mean()), **close
    )
    (histogram,) = read(tmp_path).Histograms("straightness/per_sample")
    sums = each.deviation.mean(1) * 64
    assert histogram.histogram_value.num == 10
    assert histogram.histogram_value.min == pytest.approx(float(sums.min()), **close)
    assert histogram.histogram_value.sum == pytest.approx(float(sums.sum()), **close)


def test_curves_are_drawn_and_written(tmp_path):
    validate(tmp_path, [Straightness(20, 10)])
    (image,) = read(tmp_path).Images("curves/straightness")
    drawn = Image.open(tmp_path / "curves" / "straightness.png")
    assert (image.width, image.height) == drawn.size == (800, 320)
    with open(tmp_path / "curves" / "straightness.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with torch.no_grad():
        each = motion(flow().network, first(10), {}, 20)
    for name, curve, start in (
        ("deviation", each.deviation.mean(0), 0),
        ("curvature", each.acceleration.mean(0).sqrt(), 0.025),
    ):
        ours = [(float(row["t"]), float(row["value"])) for row in rows if row["curve"] == name]
        expected = [(start + i / 20, float(value)) for i, value in enumerate(curve)]
        assert np.allclose(ours, expected, rtol=1e-4) and len(ours) == len(curve)


class Constant(torch.nn.Module):
    """v = c: straight for everybody."""

    def __init__(self):
        super().__init__()
        self.c = torch.nn.Parameter(torch.ones(1, 8, 8))

    def forward(self, x, t, cond={}):
        return self.c.expand_as(x)


def test_a_straight_run_is_told_from_a_bent_one(tmp_path):
    metrics = validate(
        tmp_path, [Straightness(10, 8)], FlowModule(Constant(), RectifiedFlow())
    ).callback_metrics
    assert (
        metrics["straightness/sum"] < 1e-8
        and metrics["curvature/mean"] < 1e-4
        and metrics["chord_error/rms"] < 1e-5
    )
    assert metrics["transport_cost/sum"] == pytest.approx(64)


def everything():
    return [
        Straightness(10, 15),
        Trajectories(4, 3, 6),
        Interpolations(3, 4),
        NearestNeighbours(Digits(limit=40), 5, 2),
        Samples(15, 5),
    ]


def test_two_processes_see_and_draw_the_same(tmp_path):
    files = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        validate(
            folder,
            everything(),
            batch=16 // devices,
            devices=devices,
            strategy="ddp_fork" if devices == 2 else "auto",
        )
        values = {tag: events[0].value for tag, events in scalars(folder, "").items()}
        histogram = read(folder).Histograms("straightness/per_sample")[0].histogram_value
        files.append((values, histogram, {p.relative_to(folder): p for p in folder.rglob("*.png")}))
    (alone, h1, drawn1), (together, h2, drawn2) = files
    assert TAGS | {"memorisation/heun", "memorisation/euler"} <= set(alone)
    assert together == pytest.approx(alone, rel=1e-4)
    assert (h1.num, h1.sum) == pytest.approx((h2.num, h2.sum), rel=1e-4) and h1.num == 15
    assert drawn1.keys() == drawn2.keys() and len(drawn1) == 1 + 2 + 2 + 2 + 2
    for name in drawn1:
        a, b = (np.array(Image.open(drawn[name])).astype(int) for drawn in (drawn1, drawn2))
        assert a.shape == b.shape and np.abs(a - b).max() <= (255 if "curves" in str(name) else 1)


def test_the_sanity_check_stays_silent(tmp_path):
    trainer = tiny.trainer(
        tmp_path, 1, everything(), logger=board(tmp_path), num_sanity_val_steps=1, limit_val_batches=1
    )

    class Silent(Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            assert not list(tmp_path.rglob("*.png")) and not trainer.callback_metrics
            self.reached = True

    silent = Silent()
    trainer.callbacks.append(silent)
    trainer.fit(flow(), data())
    assert silent.reached and list(tmp_path.rglob("*.png"))  # drawn by the validation after it


# pictures


def test_trajectories_are_rows_of_pictures(tmp_path):
    validate(tmp_path, [Trajectories(num=3, steps=4, euler=10)])  # 12 steps
    module = flow()
    with torch.no_grad():
        seen = []
        Euler(12)(module.network, first(3), observe=lambda t, x, v: seen.append((x, x + (1 - t[0]) * v)))
        x1 = Euler(12)(module.network, first(3)).x1
    for k, name in enumerate(("x_t", "endpoint")):
        shown(tmp_path, f"trajectories/{name}", 3, 5)
        states = [seen[i][k] for i in (0, 3, 6, 9)] + [x1]
        table = cells(tmp_path / "trajectories" / f"{name}.png", 3, 5)
        for c, state in enumerate(states):
            for r, image in enumerate(module.codec.decode(state)[:, 0].numpy()):
                assert np.abs(table[r][c].astype(int) - image).max() <= 1
    assert sorted(read(tmp_path).Tags()["images"]) == ["trajectories/endpoint", "trajectories/x_t"]


def test_interpolations_go_from_one_sample_to_the_next(tmp_path):
    validate(tmp_path, [Interpolations(num=2, steps=5)])
    module = flow()
    for name, solver in module.solvers.items():
        shown(tmp_path, f"interpolations/{name}", 2, 5)
        table = cells(tmp_path / "interpolations" / f"{name}.png", 2, 5)
        for row in range(2):
            a, b = first(4)[2 * row], first(4)[2 * row + 1]
            path = torch.stack(
                [math.cos(math.pi * i / 8) * a + math.sin(math.pi * i / 8) * b for i in range(5)]
            )
            with torch.no_grad():
                images = module.codec.decode(solver(module.network, path).x1)[:, 0].numpy()
            for column in range(5):
                assert np.abs(table[row][column].astype(int) - images[column]).max() <= 1


def test_one_solver_can_be_chosen(tmp_path):
    validate(tmp_path, [Interpolations(num=2, steps=3, solver="euler")])
    assert read(tmp_path).Tags()["images"] == ["interpolations/euler"]


class Labelled(tiny.Affine):
    """Moves every pixel by a sixteenth of the label."""

    def forward(self, x, t, cond={}):
        return cond["label"][:, None, None, None] / 16 - x + 0 * super().forward(x, t)


def test_the_condition_is_that_of_the_first_of_a_pair(tmp_path):
    module = FlowModule(
        Labelled(), RectifiedFlow(), solvers={"euler": Euler(1)}
    )  # x0 + v(x0, 0) = label / 16
    trainer = tiny.trainer(tmp_path, 1, [Interpolations(num=3, steps=3)], logger=board(tmp_path))
    trainer.validate(module, FlowDataModule(noise=SeededNoise(tiny.SHAPE, 6, num_classes=6)), verbose=False)
    table = cells(tmp_path / "interpolations" / "euler.png", 3, 3)
    expected = [int(np.rint((label / 16 + 1) * 127.5)) for label in (0, 2, 4)]
    assert [[int(cell[0, 0]) for cell in row] for row in table] == [[value] * 3 for value in expected]


class Wall(ImageDataset):
    """Given images."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"x1": self.images[index], "cond": {}}

    @property
    def fingerprint(self):
        return "wall"


def made(num=16):
    module = flow()
    with torch.no_grad():
        return module.codec.decode(Euler(1)(module.network, first(num)).x1)


def test_a_generator_that_copies_is_found_out(tmp_path):
    training = torch.cat([pictures(30, tiny.SHAPE, seed=5), made(), pictures(30, tiny.SHAPE, seed=6)])
    module = flow(solvers={"euler": Euler(1)})
    metrics = validate(tmp_path, [NearestNeighbours(Wall(training), 4, 2)], module).callback_metrics
    assert metrics["memorisation/euler"] == 0
    shown(tmp_path, "neighbours/euler", 4, 3)
    for sample, nearest_one, _ in cells(tmp_path / "neighbours" / "euler.png", 4, 3):
        assert np.array_equal(sample, nearest_one)


@pytest.mark.parametrize("measured", [10, 1000])
def test_memorisation_may_be_of_more_samples_than_are_drawn(tmp_path, measured):
    """Sixteen samples, of which the first four are copies: their median is one as soon as all count."""
    training = torch.cat([pictures(30, tiny.SHAPE, seed=5), made(4)])
    module = flow(solvers={"euler": Euler(1)})
    callback = NearestNeighbours(Wall(training), 4, 2, measured)
    metrics = validate(tmp_path, [callback], module).callback_metrics
    among = pixel_distance(training, training).fill_diagonal_(torch.inf).min(1).values
    nearest_of_all = pixel_distance(made()[: min(measured, 16)], training).min(1).values
    assert float(metrics["memorisation/euler"]) == pytest.approx(
        np.median(nearest_of_all) / np.median(among), rel=1e-5
    )
    assert metrics["memorisation/euler"] > 0
    assert callback.protocol()["memorisation"]["samples"] == min(measured, 16)
    shown(tmp_path, "neighbours/euler", 4, 3)


def test_neighbours_are_the_nearest_and_sorted(tmp_path):
    training = pictures(50, tiny.SHAPE, seed=5)
    module = flow(solvers={"euler": Euler(1)})
    metrics = validate(tmp_path, [NearestNeighbours(Wall(training), 4, 3)], module).callback_metrics
    distance = pixel_distance(made(4), training).sort(1)
    among = pixel_distance(training, training).fill_diagonal_(torch.inf).min(1).values
    assert float(metrics["memorisation/euler"]) == pytest.approx(
        np.median(distance.values[:, 0]) / np.median(among), rel=1e-5
    )
    table = cells(tmp_path / "neighbours" / "euler.png", 4, 4)
    for r in range(4):
        assert np.array_equal(table[r][0], made(4)[r, 0])
        for c in range(3):
            assert np.array_equal(table[r][1 + c], training[distance.indices[r, c], 0])


def test_large_sets_are_read_in_blocks_and_some_stand_for_all(tmp_path, monkeypatch):
    training, module = pictures(50, tiny.SHAPE, seed=5), flow(solvers={"euler": Euler(1)})
    monkeypatch.setattr("flowlit.callbacks.evaluation.neighbours._BLOCK", 7)
    monkeypatch.setattr("flowlit.callbacks.evaluation.neighbours._AMONG", 20)  # every third
    metrics = validate(tmp_path, [NearestNeighbours(Wall(training), 4, 3)], module).callback_metrics
    among = pixel_distance(training, training).fill_diagonal_(torch.inf).min(1).values[::3]
    nearest_ones = pixel_distance(made(4), training).min(1).values
    assert float(metrics["memorisation/euler"]) == pytest.approx(
        np.median(nearest_ones) / np.median(among), rel=1e-5
    )


@pytest.mark.parametrize(
    ("callback", "argument"),
    [(Trajectories, "steps"), (Trajectories, "euler"), (Straightness, "num"), (LossOverTime, "bins")],
)
def test_nothing_is_not_drawn(callback, argument):
    with pytest.raises(FlowlitError, match=f"{callback.__name__}: {argument} is 0; expected a whole"):
        callback(**{argument: 0})


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            Trajectories(num=17),
            r"Trajectories needs 17 samples, but data\.noise\.num is 16; "
            r"lower its num or raise data\.noise\.num",
        ),
        (Interpolations(num=9), r"two for each of 9 rows\) needs 18 samples, but data\.noise\.num is 16"),
        (Interpolations(steps=1), "steps is at least 2; found 1"),
        (Interpolations(solver="rk45"), "no solver is called 'rk45'; expected one of heun, euler"),
        (NearestNeighbours(Digits(), num=17), "NearestNeighbours needs 17 samples"),
        (NearestNeighbours(Digits(limit=5), num=4, k=5), "expected k from 1 to 4 for 5 images, found 5"),
        (
            NearestNeighbours(Wall(pictures(9)), num=4),
            r"its images have shape \(3, 4, 4\), but those made from data\.noise have \(1, 8, 8\)",
        ),
        (Straightness(steps=1), "Straightness: expected steps >= 3, found steps=1"),
    ],
)
def test_what_cannot_work_is_said_before_work_begins(tmp_path, callback, message):
    class Early(Callback):
        def on_train_start(self, trainer, pl_module):
            raise AssertionError("too late")

    with pytest.raises(FlowlitError, match=message):
        fit(tmp_path, flow(), [callback, Early()], limit_val_batches=1)


# --------------------------------------------------------------------------------------------------------
# loss over time


class Noted(TimeDistribution):
    """Uniform times, remembered."""

    def __init__(self):
        self.drawn = []

    def __call__(self, n, device="cpu"):
        t = torch.rand(n, device=device)
        self.drawn.append(t)
        return t


class Output(Distance):
    """What the network said, whatever is asked."""

    def forward(self, a, b):
        return a.flatten(1).mean(1)


class Clock(torch.nn.Module):
    """v = t."""

    def __init__(self):
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, t, cond={}):
        return torch.ones_like(x) * expand(t, x) + 0 * self.zero


def test_bins_have_as_many_decimals_as_they_need():
    assert labels(10) == [f"{i / 10:.1f}-{(i + 1) / 10:.1f}" for i in range(10)]
    assert labels(1) == ["0.0-1.0"] and labels(20)[1] == "0.05-0.10" and labels(3)[0] == "0.000-0.333"


@pytest.mark.parametrize("weight", [None, lambda t: 7 + t], ids=["plain", "weighted"])
def test_the_loss_of_a_bin_is_the_mean_since_it_was_logged(tmp_path, weight):
    """Every second optimizer step, of two batches each: four draws."""
    times = Noted()
    module = FlowModule(Clock(), RectifiedFlow(Output(), times, weight))
    fit(tmp_path, module, [LossOverTime(20)], steps=6, accumulate_grad_batches=2, log_every_n_steps=2)
    found = scalars(tmp_path, "loss_over_t/")
    assert len(times.drawn) == 12
    expected = {}
    for k in range(3):
        drawn = torch.cat(times.drawn[4 * k : 4 * k + 4])
        for i, label in enumerate(labels(20)):
            inside = drawn[(drawn * 20).long() == i]
            if len(inside):
                expected.setdefault(f"loss_over_t/{label}", []).append((2 * k + 1, float(inside.mean())))
    assert any(len(events) < 3 for events in expected.values())  # an empty bin does not repeat itself
    ours = {tag: [(event.step, event.value) for event in events] for tag, events in found.items()}
    assert ours.keys() == expected.keys()
    for tag in expected:
        assert ours[tag] == [(step, pytest.approx(value, rel=1e-5)) for step, value in expected[tag]]


def test_time_one_belongs_to_the_last_bin(tmp_path):
    class One(TimeDistribution):
        def __call__(self, n, device="cpu"):
            return torch.ones(n, device=device)

    fit(tmp_path, FlowModule(Clock(), RectifiedFlow(Output(), One())), [LossOverTime()], steps=1)
    assert {tag: events[0].value for tag, events in scalars(tmp_path, "loss_over_t").items()} == {
        "loss_over_t/0.9-1.0": 1.0
    }


@pytest.mark.parametrize(
    "objective",
    [RectifiedFlow, AnnealedReflow, lambda: KStepDistillation(4), lambda: FlowGuided(tiny.Affine())],
)
def test_watching_changes_no_bit(tmp_path, objective):
    weights = []
    for name, callbacks in (("plain", []), ("watched", [LossOverTime()])):
        torch.manual_seed(5)
        module = flow(objective())
        fit(tmp_path / name, module, callbacks)
        weights.append(module.network.state_dict())
    assert tiny.same(*weights)
    assert module.objective.observer is None
    told = scalars(tmp_path / "watched", "loss_over_t")
    assert told and set(told) <= {f"loss_over_t/{label}" for label in labels(10)}


def test_a_watched_run_resumes_exactly(tmp_path):
    through, half, again = flow(), flow(), flow()
    fit(tmp_path / "through", through, [LossOverTime()], steps=6)
    fit(tmp_path / "half", half, [LossOverTime()], steps=3).save_checkpoint(tmp_path / "half.ckpt")
    fit(tmp_path / "again", again, [LossOverTime()], steps=6, ckpt_path=tmp_path / "half.ckpt")
    assert tiny.same(through.network.state_dict(), again.network.state_dict())
    logged = []
    for name in ("through", "again"):
        found = scalars(tmp_path / name, "loss_over_t/")
        logged.append(
            {
                (tag, event.step): event.value
                for tag, events in found.items()
                for event in events
                if event.step >= 3
            }
        )
    assert logged[0] == logged[1] != {}


def test_parts_are_told_apart(tmp_path):
    parts = {"distillation": Distillation(), "two_step": FlowGuided(tiny.Affine()), "reflow": RectifiedFlow()}
    fit(tmp_path, flow(Combined(parts)), [LossOverTime()], steps=8, log_every_n_steps=8)
    tags = set(scalars(tmp_path, "loss_over_t"))
    middle = {f"loss_over_t_two_step/{label}" for label in labels(10)[2:8]}
    assert tags == middle | {f"loss_over_t_reflow/{label}" for label in labels(10)}


def test_an_objective_without_times_is_refused_at_once(tmp_path):
    with pytest.raises(
        FlowlitError, match=r"Distillation draws no training times.*Remove flowlit\.callbacks\.LossOverTime"
    ):
        fit(tmp_path, flow(Distillation()), [LossOverTime()])


def test_an_objective_that_tells_nothing_is_named(tmp_path):
    class Mute(RectifiedFlow):
        def report(self, t, loss):
            pass

    with pytest.raises(FlowlitError, match=r"Mute has times, but reports none; call self\.report\(t, loss\)"):
        fit(tmp_path, flow(Mute()), [LossOverTime()])


def test_an_objective_can_be_observed_without_a_trainer():
    seen = []
    objective: Objective = RectifiedFlow()
    objective.observer = lambda t, loss: seen.append((t, loss))
    from flowlit.types import Pair

    network = tiny.Affine()
    total = objective(network, Pair(torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)))["loss"]
    ((t, loss),) = seen
    assert t.shape == loss.shape == (4,) and not loss.requires_grad
    assert loss.mean() == total.detach()


class RankTimes(TimeDistribution):
    """0.02 on the first rank, 0.06 on the second, and 0.95 there, too."""

    def __call__(self, n, device="cpu"):
        rank = torch.distributed.get_rank()
        t = torch.full((n,), 0.02 + 0.04 * rank, device=device)
        t[n - rank :] = 0.95
        return t


def bins_of_two_ranks(folder):
    module = FlowModule(Clock(), RectifiedFlow(Output(), RankTimes()))
    fit(folder, module, [LossOverTime()], steps=2, devices=2, strategy="ddp_fork", log_every_n_steps=2)


@pytest.mark.slow
def test_bins_hold_the_samples_of_all_ranks(tmp_path):
    """Four samples a rank: 4 times 0.02, 3 times 0.06, and one 0.95."""
    apart(bins_of_two_ranks, tmp_path)
    found = {tag: events[0].value for tag, events in scalars(tmp_path, "loss_over_t").items()}
    assert found == pytest.approx(
        {"loss_over_t/0.0-0.1": (4 * 0.02 + 3 * 0.06) / 7, "loss_over_t/0.9-1.0": 0.95}, rel=1e-5
    )
