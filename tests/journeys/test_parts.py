"""Options of the recipe: optimal transport, mixed stores, reflow with a perceptual loss, a floor of the
learning rate.
"""

import itertools
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import tiny
import torch
from learning_rates import rates
from lightning.pytorch.callbacks import Callback
from stores import NOISE, digits_flow, fill
from tools import LinearField, straight
from torch import nn

from flowlit import rng
from flowlit.couplings import Cached, Independent, Mixed, OptimalTransport
from flowlit.couplings.mixed import repeats
from flowlit.couplings.origins import FromData, FromNoise
from flowlit.couplings.store.encoding import restored
from flowlit.couplings.transport import assign
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.modules.samplers import ShuffledSampler
from flowlit.objectives import LPIPSHuber, RectifiedFlow, lpips_huber_loss, rectified_flow_loss
from flowlit.objectives.distances import FeatureDistance, SquaredError, VectorPseudoHuber
from flowlit.objectives.times import Fixed
from flowlit.types import ImageDataset, Pair

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def global_draws():
    """No step of another test is at work: PyTorch's generator draws."""
    rng.begin(None)


class Seen(Callback):
    """Notes the pairs and losses of each step; saves a checkpoint after one of them."""

    def __init__(self, path, save_at):
        self.path, self.save_at, self.x0, self.x1, self.losses = path, save_at, [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.x0.append(batch.x0)
        self.x1.append(batch.x1)
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


def train(folder, coupling, objective=None, save_at=None, resume=None, **data):
    """Fit a small field for 15 steps of 8 pairs; what each step saw and lost."""
    seen = Seen(folder / "middle.ckpt", save_at)
    module = FlowModule(
        LinearField(0.0, 0.0, 0.0),
        objective or RectifiedFlow(),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
    )
    trainer = tiny.trainer(folder, 15, [seen], limit_val_batches=0)
    trainer.fit(module, FlowDataModule(coupling, 8, seed=3, **data), ckpt_path=resume)
    return seen


# optimal transport


def cost(x0, x1):
    return float(((x0 - x1) ** 2).sum())


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_cheapest_of_all_permutations(rows, seed):
    x0, x1 = torch.randn(2, rows, 2, 3, 4, generator=torch.Generator().manual_seed(seed))
    x1 = x1 + torch.arange(rows)[:, None, None, None]  # lengths differ, which must not matter
    best = min(cost(x0[list(p)], x1) for p in itertools.permutations(range(rows)))
    assert cost(x0[assign(x0, x1)], x1) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_the_assignment_is_a_permutation_that_never_costs_more(seed):
    x0, x1 = torch.randn(2, 40, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    p = assign(x0, x1)
    assert p.dtype == torch.int64 and sorted(p.tolist()) == list(range(40))
    assert cost(x0[p], x1) < cost(x0, x1)
    assert torch.equal(assign(x0[p], x1), torch.arange(40)), "what is best stays"


def test_the_assignment_is_taken_in_float64():
    """On top of a constant image, all products of float32 numbers round to the same."""
    x0 = 1e4 + torch.tensor([[3.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    p = torch.tensor([2, 0, 1])
    assert torch.equal(assign(x0, x0[p]), p)


def both(flip, images=64, seed=5):
    """The same batch, coupled independently and by optimal transport, from the same draws."""
    rows = {"x1": Digits(limit=images).data[0], "cond": {}}
    pairs = []
    for kind in (Independent, OptimalTransport):
        torch.manual_seed(seed)
        pairs.append(kind(Digits(labels=False), flip=flip).complete(rows, CPU))
    return pairs


@pytest.mark.parametrize("flip", [False, True])
def test_transport_deals_out_the_noise_of_the_independent_coupling(flip):
    independent, transport = both(flip)
    assert torch.equal(transport.x1, independent.x1)
    found = (transport.x0[:, None] == independent.x0[None]).flatten(2).all(2)
    assert (found.sum(0) == 1).all() and (found.sum(1) == 1).all(), "a permutation"
    assert cost(*transport[:2]) < 0.95 * cost(*independent[:2])
    assert torch.equal(assign(*transport[:2]), torch.arange(64)), (
        "best for the images as they are trained on, mirrored or not"
    )


def test_transport_refuses_labels():
    with pytest.raises(FlowlitError, match=r"Digits bring labels.*set labels: false"):
        OptimalTransport(Digits()).dataset()
    assert len(OptimalTransport(Digits(labels=False)).dataset()) == len(Digits())


# mixed stores


@pytest.mark.parametrize(
    ("rows", "shares", "expected"),
    [
        ([50, 50], [0.5, 0.5], [1, 1]),
        ([9000, 200], [0.9, 0.1], [1, 5]),
        ([50_000, 5_000], [9, 1], [9, 10]),
        ([10, 10, 20], [1, 2, 1], [2, 4, 1]),
        ([7], [0.3], [1]),
    ],
)
def test_rows_are_repeated_as_little_as_the_shares_allow(rows, shares, expected):
    assert repeats(rows, shares) == expected


@pytest.mark.parametrize("seed", range(50))
def test_any_shares_are_met_within_a_hundredth(seed):
    draw = np.random.default_rng(seed)
    rows, shares = draw.integers(1, 10**6, 3), draw.uniform(0.001, 1, 3)
    found = np.array(repeats(rows.tolist(), shares.tolist())) * rows
    assert found / found.sum() == pytest.approx(shares / shares.sum(), rel=0.01)
    assert (found >= rows).all(), "every row has its turn"


class SmallDigits(ImageDataset):
    """Ten digits of 4×4 pixels in four classes."""

    fingerprint = "small"

    def __len__(self):
        return 10

    def __getitem__(self, index):
        item = Digits()[index]
        return {"x1": item["x1"][:, ::2, ::2], "cond": {"label": item["cond"]["label"] % 4}}


@pytest.fixture
def stores(tmp_path):
    """A teacher's pairs with noise from seeds, and few real images that it inverted; other dtypes in each."""
    made = fill(tmp_path / "made", digits_flow(), origin=FromNoise(NOISE), x0="seed", x1="float16")
    inverted = fill(tmp_path / "real", digits_flow(), origin=FromData(SmallDigits(), 4), num=10, x1="uint8")
    return made, inverted


def rows_of(store):
    """All pairs of a store, as training sees them."""
    pair = Cached(store).dataset().__getitems__(range(len(Cached(store).dataset())))
    return Pair(restored(pair.x0), restored(pair.x1), pair.cond)


def test_a_pass_visits_the_parts_in_their_shares_and_all_rows_of_a_part_equally_often(stores):
    mixed = Mixed([Cached(store) for store in stores], [0.75, 0.25])
    data = mixed.dataset()
    wanted = [rows_of(store) for store in stores]
    seen = Counter()
    stream = iter(ShuffledSampler(len(data), 0, seed=4))
    assert len(data) == 3 * 50 + 5 * 10
    for _ in range(len(data) // 8):
        indices = list(islice(stream, 8))
        pair = mixed.complete(data.__getitems__(indices), CPU)
        assert pair.x0.dtype == pair.x1.dtype == torch.float32
        for i, (part, row) in enumerate(zip(*data.find(indices), strict=True)):
            assert torch.equal(pair.x0[i], wanted[part].x0[row]) and torch.equal(
                pair.x1[i], wanted[part].x1[row]
            )
            assert pair.cond["label"][i] == wanted[part].cond["label"][row]
            seen[int(part), int(row)] += 1
    assert seen == {**{(0, row): 3 for row in range(50)}, **{(1, row): 5 for row in range(10)}}
    part, row = (int(x[0]) for x in data.find([170]))
    assert part == 1 and torch.equal(restored(data[170].x1), wanted[part].x1[row])


def test_each_part_is_mirrored_or_not_as_it_says(stores):
    mixed = Mixed([Cached(stores[0]), Cached(stores[1], flip=True)], [1, 1])
    data = mixed.dataset()
    torch.manual_seed(0)
    pair = mixed.complete(data.__getitems__(range(len(data))), CPU)
    parts, rows = data.find(range(len(data)))
    mirrored = Counter()
    for i, (part, row) in enumerate(zip(parts, rows, strict=True)):
        plain = rows_of(stores[part])
        same = torch.equal(pair.x0[i], plain.x0[row]) and torch.equal(pair.x1[i], plain.x1[row])
        assert same or (
            torch.equal(pair.x0[i], plain.x0[row].flip(-1))
            and torch.equal(pair.x1[i], plain.x1[row].flip(-1))
        )
        mirrored[int(part)] += not same
    assert mirrored[0] == 0 and 15 < mirrored[1] < 35, "of 50 rows each"


@pytest.mark.parametrize("flip", [False, True])
def test_one_part_alone_is_the_store_itself(stores, flip, tmp_path):
    one = train(tmp_path, Cached(stores[0], flip=flip))
    two = train(tmp_path, Mixed([Cached(stores[0], flip=flip)], [1.0]))
    assert torch.equal(torch.cat(one.x0), torch.cat(two.x0)) and one.losses == two.losses


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_mixture_resumed_in_the_middle_goes_on_exactly(stores, workers, tmp_path):
    def coupling():
        return Mixed([Cached(stores[0], flip=True), Cached(stores[1])], [0.9, 0.1])

    whole = train(tmp_path, coupling(), save_at=9, num_workers=workers)
    rest = train(tmp_path, coupling(), resume=str(tmp_path / "middle.ckpt"), num_workers=workers)
    assert len(whole.losses) == 15 and rest.losses == whole.losses[9:]
    assert torch.equal(torch.cat(rest.x0), torch.cat(whole.x0[9:])) and torch.equal(
        torch.cat(rest.x1), torch.cat(whole.x1[9:])
    )


def test_parts_may_use_only_their_first_pairs(stores):
    data = Mixed([Cached(stores[0], limit=20), Cached(stores[1])], [2, 1]).dataset()
    assert len(data) == 30 and data.find(range(30))[1].max() == 19


def test_stores_of_other_images_are_refused(stores, tmp_path):
    other = fill(tmp_path / "other", num=10, origin=FromNoise(type(NOISE)((1, 4, 4), 10, seed=9)))
    with pytest.raises(
        FlowlitError, match=r"other have shape \(1, 4, 4\) and 0 classes, but .*made \(1, 4, 4\) and 4"
    ):
        Mixed([Cached(stores[0]), Cached(other)], [1, 1]).dataset()


def test_resident_parts_are_refused(stores):
    with pytest.raises(FlowlitError, match=r"real are resident.*set resident: false"):
        Mixed([Cached(stores[0]), Cached(stores[1], resident=True)], [1, 1]).dataset()


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [0.5, -0.5], [1.0, float("nan")], [1.0, float("inf")]])
def test_shares_that_are_none_are_refused(shares):
    expected = r"2 parts, but shares .* a positive number for each part|shares is .* each a finite number > 0"
    with pytest.raises(FlowlitError, match=expected):
        Mixed([Cached("a"), Cached("b")], shares)


def test_an_unfinished_part_is_named(stores, tmp_path):
    with pytest.raises(FlowlitError, match="nowhere"):
        Mixed([Cached(stores[0]), Cached(str(tmp_path / "nowhere"))], [1, 1]).dataset()


# reflow with a perceptual loss


def pairs(seed=0, rows=5):
    x0, x1 = torch.randn(2, rows, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Pair(x0, x1.tanh())


@pytest.mark.parametrize("divide", [True, False])
def test_lpips_huber_by_hand(divide):
    data, t = pairs(), torch.tensor([0.0, 0.2, 0.5, 0.9, 0.999])
    found = lpips_huber_loss(
        LinearField(), data, t, huber=VectorPseudoHuber(0.1), perceptual=SquaredError(), divide=divide
    ).tolist()
    for i, time in enumerate(t.double()):
        x0, x1 = data.x0[i].double(), data.x1[i].double()
        x_t = time * x1 + (1 - time) * x0
        v = 0.3 * x_t - 0.2 * time + 0.1
        huber = (((v - (x1 - x0)) ** 2).sum().add(1.6**2).sqrt() - 1.6) / 16
        squares = ((x1 - x_t - (1 - time) * v) ** 2).mean()
        assert found[i] == pytest.approx(
            float(time * huber + squares / (1 - time if divide else 1)), rel=1e-4
        )


def test_with_squared_errors_the_two_parts_are_one_rectified_flow_loss():
    """t d + (1 - t)² d / (1 - t) = d."""
    data, t = pairs(), torch.tensor([0.0, 0.2, 0.5, 0.9, 0.99])
    found = lpips_huber_loss(LinearField(), data, t, huber=SquaredError(), perceptual=SquaredError())
    assert torch.allclose(
        found, rectified_flow_loss(LinearField(), data, t, distance=SquaredError()), rtol=1e-4
    )


def test_the_true_velocity_has_no_lpips_huber_loss():
    x0 = pairs().x0
    assert float(LPIPSHuber(perceptual=SquaredError())(straight, Pair(x0, 3 * x0 + 1))["loss"]) < 1e-7


@pytest.mark.parametrize("end", [1e-5, 1 - 1e-5])
def test_both_ends_of_the_u_have_finite_losses_and_gradients(end):
    field = LinearField()
    loss = LPIPSHuber(perceptual=SquaredError(), times=Fixed(end))(field, pairs())["loss"]
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad) and p.grad != 0 for p in field.parameters())


def test_lpips_huber_logs_its_parts_and_tells_its_times():
    told, asked, objective = [], [], LPIPSHuber(perceptual=SquaredError())
    objective.observer = lambda t, loss: told.append((t, loss))

    def velocity(x, t, cond={}):
        asked.append(t)
        return LinearField()(x, t)

    logged, data = objective(velocity, pairs()), pairs()
    (t, loss), parts = told[0], {name: float(value.detach()) for name, value in logged.items()}
    assert torch.equal(t, asked[0]) and len(t.unique()) == 5
    assert torch.allclose(
        loss,
        lpips_huber_loss(LinearField(), data, t, huber=VectorPseudoHuber(), perceptual=SquaredError()),
        rtol=1e-5,
    )
    assert parts.keys() == {"loss", "huber", "perceptual"} and float(loss.mean()) == pytest.approx(
        parts["loss"]
    )
    assert parts["huber"] > 0 < parts["perceptual"] and parts["huber"] + parts["perceptual"] == pytest.approx(
        parts["loss"]
    )
    assert logged["loss"].requires_grad and not logged["huber"].requires_grad


def test_images_are_compared_in_float32_under_autocast():
    """Near t = 1 the image is almost right; in bfloat16 its rounding, over 1 - t, would be the loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
    perceptual = FeatureDistance(network, ["1"], normalize=False)
    data, t = pairs(rows=64), torch.full((64,), 1 - 1e-4)
    plain = lpips_huber_loss(straight, data, t, huber=SquaredError(), perceptual=perceptual)
    with torch.autocast("cpu", torch.bfloat16):
        cast = lpips_huber_loss(straight, data, t, huber=SquaredError(), perceptual=perceptual)
        rough = (network(data.x1) - network(data.x1 * (1 + 1e-4))).float() ** 2
        distance = perceptual(data.x1, data.x1 * (1 + 1e-4))
    assert torch.allclose(cast, plain, rtol=1e-3)
    assert torch.equal(distance, perceptual(data.x1, data.x1 * (1 + 1e-4)))
    assert rough.mean() > 10 * distance.mean(), "rounding is what it would see"


def test_lpips_huber_trains(tmp_path):
    seen = train(tmp_path, Cached(fill(tmp_path / "store")), objective=LPIPSHuber(perceptual=SquaredError()))
    assert np.mean(seen.losses[-5:]) < 0.5 * np.mean(seen.losses[:3])


# the learning rate


def test_warm_up_falls_to_its_floor():
    found = rates(1, 10, 15, floor=0.25)
    assert found[0] == pytest.approx(2.0) and found[5] == pytest.approx(2 * 0.625)
    assert found[10:] == pytest.approx([0.5] * 5)


def test_without_a_floor_the_rate_is_what_it_was():
    assert rates(3, 10, 12) == rates(3, 10, 12, floor=0.0)


@pytest.mark.parametrize(("total", "floor"), [(None, 0.1), (10, -0.1), (10, 1.0)])
def test_a_floor_without_a_fall_is_refused(total, floor):
    expected = f"floor is {floor}( and total {total}|; expected a finite number in)"
    with pytest.raises(FlowlitError, match=expected):
        rates(1, total, 1, floor=floor)
