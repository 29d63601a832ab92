"""The joint laws of (noise, image): flips, independent, simulated and cached pairs, and training on them."""

import copy

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback
from stores import NOISE, digits_flow, fill
from tools import LinearField, randomise, tiny_unet
from torch.utils.data import default_collate

from flowlit.couplings import Cached, Independent, SeededNoise, Simulated
from flowlit.couplings import cached as cached_module
from flowlit.couplings.flip import flip, random_flip
from flowlit.couplings.origins import FromNoise
from flowlit.data import Digits, Patches, Pixels
from flowlit.errors import FlowlitError, NotFinite
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.modules.evaluation import collate
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import RK45, SDE, Euler
from flowlit.types import Noise, Pair

CPU = torch.device("cpu")


def batch(coupling, indices):
    """Rows as the loader collates them."""
    data = coupling.dataset()
    rows = data.__getitems__(list(indices)) if hasattr(data, "__getitems__") else [data[i] for i in indices]
    return collate(rows)


# flips


def aligned_pair(batch=200):
    """x1 is a function of x0, pixel by pixel, and the label tells the sample."""
    x0 = torch.randn(batch, 2, 3, 4)
    cond = {"label": torch.arange(batch), "lr": x0[:, :1, ::3], "text": torch.randn(batch, 5, 6)}
    return Pair(x0, 2 * x0 + 1, cond)


def test_flip_mirrors_both_ends_of_the_chosen_samples_along_the_width():
    pair = aligned_pair(3)
    flipped = flip(pair, torch.tensor([True, False, True]))
    for i, mirrored in enumerate([True, False, True]):
        assert torch.equal(flipped.x0[i], pair.x0[i].flip(2) if mirrored else pair.x0[i])
        assert torch.equal(flipped.x1[i], pair.x1[i].flip(2) if mirrored else pair.x1[i])
        assert torch.equal(flipped.cond["lr"][i], flipped.x0[i][:1, ::3]), "an image, too"
    assert torch.equal(flipped.cond["label"], pair.cond["label"])
    assert torch.equal(flipped.cond["text"], pair.cond["text"])


def test_random_flip_throws_a_coin_per_sample_and_keeps_pairs_aligned():
    torch.manual_seed(0)
    pair = aligned_pair()
    flipped = random_flip(pair)
    assert torch.equal(flipped.x1, 2 * flipped.x0 + 1)
    changed = (flipped.x0 != pair.x0).flatten(1).any(1)
    assert 0.35 < float(changed.float().mean()) < 0.65
    assert torch.equal(flipped.x0[changed], pair.x0[changed].flip(-1))


# independent


def test_independent_pairs_images_with_noise_of_the_moment():
    coupling = Independent(Digits(limit=64))
    batch = default_collate([coupling.dataset()[i] for i in range(64)])
    one, two = (coupling.complete(batch, CPU) for _ in range(2))
    assert torch.equal(one.x1, batch["x1"].float() / 127.5 - 1) and torch.equal(
        one.cond["label"], batch["cond"]["label"]
    )
    assert not torch.equal(one.x0, two.x0) and one.x0.shape == one.x1.shape
    assert float(one.x0.std()) == pytest.approx(1, abs=0.05) and abs(float(one.x0.mean())) < 0.05


def test_independent_flips_images_if_asked():
    batch = {"x1": Digits(limit=64).data[0], "cond": {}}
    plain = Pixels().encode(batch["x1"])
    x1 = Independent(Digits(), flip=True).complete(batch, CPU).x1
    mirrored = (x1 == plain.flip(-1)).flatten(1).all(1)
    assert (mirrored | (x1 == plain).flatten(1).all(1)).all() and 10 < mirrored.sum() < 54
    assert torch.equal(Independent(Digits()).complete(batch, CPU).x1, plain)


def test_independent_notices_missing_images_when_it_opens_them(tmp_path):
    from flowlit.data import ImageFolder

    coupling = Independent(ImageFolder(str(tmp_path / "nowhere")))
    with pytest.raises(FlowlitError, match="does not exist"):
        coupling.dataset()


# cached and simulated


@pytest.mark.parametrize("solver", [Euler(3), RK45(), SDE(3)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("teacher", ["network", "oracle"])
def test_cached_pairs_are_the_simulated_ones(solver, teacher, tmp_path):
    if teacher == "network":
        velocity = randomise(
            tiny_unet(resolution=4, attention_resolutions=(2,), num_classes=4), scale=0.1
        ).eval()
        velocity.requires_grad_(False)  # as PairPredictor does
    else:
        velocity = digits_flow()
    noise = NOISE if teacher == "network" else SeededNoise((1, 4, 4), 50, seed=3)
    cached = Cached(fill(tmp_path, velocity, solver, FromNoise(noise)))
    simulated = Simulated(velocity, solver, noise)
    with torch.no_grad():
        one, two = (c.complete(batch(c, range(20, 28)), CPU) for c in (cached, simulated))
    assert torch.equal(one.x0, two.x0) and torch.allclose(one.x1, two.x1, atol=1e-6)
    assert one.cond.keys() == two.cond.keys() and all(torch.equal(one.cond[k], two.cond[k]) for k in one.cond)


@pytest.mark.parametrize("kind", ["cached", "simulated"])
def test_flipped_pairs_stay_aligned(kind, tmp_path):
    """The field acts on each pixel alone, so a mirrored pair must still be a solution."""
    field = LinearField()
    coupling = (
        Cached(fill(tmp_path, field), flip=True)
        if kind == "cached"
        else Simulated(field, Euler(2), NOISE, flip=True)
    )
    pair = coupling.complete(batch(coupling, range(50)), CPU)
    assert torch.allclose(Euler(2)(field, pair.x0).x1, pair.x1, atol=1e-6)
    mirrored = sum(torch.equal(pair.x0[i], NOISE[i].x0.flip(-1)) for i in range(50))
    assert 10 < mirrored < 40


def test_half_precision_stores_give_float32(tmp_path):
    coupling = Cached(fill(tmp_path, x0="float16", x1="float16"))
    pair = coupling.complete(batch(coupling, range(50)), CPU)
    assert pair.x0.dtype == pair.x1.dtype == torch.float32
    assert (pair.x0 - torch.stack([NOISE[i].x0 for i in range(50)])).abs().max() < 0.002


def test_simulated_freezes_its_teacher_and_says_who_it_is():
    teacher = LinearField().train()
    coupling = Simulated(teacher, Euler(1), NOISE)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert "LinearField" in coupling.source
    assert copy.deepcopy(coupling).teacher.network is teacher


def test_simulated_refuses_a_teacher_that_is_not_finite_and_looks_once():
    teacher, x0 = LinearField(), torch.ones(2, 1, 4, 4)
    noise = Noise(torch.arange(2), x0)
    coupling = Simulated(teacher, Euler(1), NOISE)
    with pytest.raises(NotFinite, match="2 of 2 generated images are not finite"):
        Simulated(Nowhere(), Euler(1), NOISE).complete(noise, CPU)
    coupling.complete(noise, CPU)
    coupling.teacher.network = Nowhere()
    assert coupling.complete(noise, CPU).x1.isnan().all()
    with pytest.raises(NotFinite):  # of others all ends are looked at, still
        Euler(1)(coupling.teacher, x0)


class Nowhere(torch.nn.Module):
    def forward(self, x, t, cond={}):
        return x * float("nan")


# resident pairs


@pytest.mark.parametrize("x1", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("x0", ["float32", "float16", "seed"])
def test_resident_pairs_are_those_read_from_disk(x0, x1, tmp_path, monkeypatch):
    monkeypatch.setattr(
        cached_module.copy_to, "__defaults__", (7,)
    )  # copied in blocks that do not divide the store
    store = fill(tmp_path, digits_flow(), x0=x0, x1=x1)
    read, resident = Cached(store), Cached(store, resident=True)
    for indices in ([49, 0, 20, 19, 20], range(50)):
        one, two = (c.complete(batch(c, indices), CPU) for c in (read, resident))
        assert one.x0.dtype == one.x1.dtype == two.x0.dtype == two.x1.dtype == torch.float32
        assert torch.equal(one.x0, two.x0) and torch.equal(one.x1, two.x1)
        assert torch.equal(one.cond["label"], two.cond["label"])


def test_resident_pairs_keep_the_dtypes_of_the_store_and_obey_the_limit(tmp_path):
    coupling = Cached(fill(tmp_path, digits_flow(), x0="float16", x1="uint8"), resident=True, limit=30)
    data = coupling.dataset()
    assert len(data) == 30 and data.shape == (1, 4, 4)
    coupling.complete(default_collate([data[i] for i in range(3)]), CPU)
    assert coupling._resident.x0.dtype == torch.float16 and coupling._resident.x1.dtype == torch.uint8
    assert len(coupling._resident.x0) == 30


def test_resident_pairs_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    coupling = Cached(fill(tmp_path), resident=True)
    monkeypatch.setattr(cached_module, "free_memory", lambda device: 50 * (2 * 16 * 4 + 8) - 1)
    with pytest.raises(
        FlowlitError, match=r"50 pairs need .* GB on cpu, but .* free; set resident: false, or a limit"
    ):
        coupling.complete(batch(coupling, [0]), CPU)
    monkeypatch.setattr(cached_module, "free_memory", lambda device: 50 * (2 * 16 * 4 + 8))
    assert len(coupling.complete(batch(coupling, [0]), CPU).x0) == 1


def test_free_memory_is_what_the_machine_has():
    assert 10e6 < cached_module.free_memory(CPU) < 1e14


# training


class Losses(Callback):
    """Notes the pairs and losses of each step; saves a checkpoint after one of them."""

    def __init__(self, save_at=None, path=None):
        self.save_at, self.path, self.x0, self.x1, self.losses = save_at, path, [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.x0.append(batch.x0)
        self.x1.append(batch.x1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


def train(tmp_path, coupling, steps=15, save_at=None, resume=None, **data):
    """Fit a small field; what each step saw and lost."""
    torch.manual_seed(0)
    seen = Losses(save_at, tmp_path / "middle.ckpt")
    module = FlowModule(
        LinearField(0.0, 0.0, 0.0), RectifiedFlow(), optimizer=lambda p: torch.optim.Adam(p, lr=0.05)
    )
    trainer = tiny.trainer(tmp_path, steps, [seen], limit_val_batches=0)
    trainer.fit(module, FlowDataModule(coupling, 8, seed=3, **data), ckpt_path=resume)
    return seen


@pytest.mark.parametrize("flip", [False, True])
def test_training_on_cached_and_on_simulated_pairs_is_the_same(flip, tmp_path):
    """50 rows in batches of 8, so the passes end within batches."""
    cached = Cached(fill(tmp_path / "store"), flip=flip)
    one = train(tmp_path, cached)
    two = train(tmp_path, Simulated(LinearField(), Euler(2), NOISE, flip=flip))
    assert torch.equal(torch.cat(one.x0), torch.cat(two.x0)), "the same noise in the same order"
    assert torch.allclose(torch.cat(one.x1), torch.cat(two.x1), atol=1e-6)
    assert one.losses == pytest.approx(two.losses, abs=1e-5) and len(set(one.losses)) == 15


@pytest.mark.parametrize("kind", ["cached", "resident", "seed", "workers"])
def test_training_resumed_in_the_middle_of_a_pass_goes_on_exactly(kind, tmp_path):
    store = fill(tmp_path / "store", x0="seed" if kind == "seed" else "float32")
    workers = {"num_workers": 2} if kind == "workers" else {}

    def coupling():
        return Cached(store, flip=True, resident=kind == "resident")

    whole = train(tmp_path, coupling(), save_at=9, **workers)
    rest = train(tmp_path, coupling(), resume=str(tmp_path / "middle.ckpt"), **workers)
    assert len(whole.losses) == 15 and rest.losses == whole.losses[9:]
    assert torch.equal(torch.cat(rest.x0), torch.cat(whole.x0[9:])) and torch.equal(
        torch.cat(rest.x1), torch.cat(whole.x1[9:])
    )


def test_training_sees_the_same_pairs_however_they_are_stored(tmp_path):
    """Other shards, two stores or resident: the same global index, so the same order."""
    one = train(tmp_path, Cached(fill(tmp_path / "a")))
    for i, other in enumerate((fill(tmp_path / "b", shard_size=7), fill(tmp_path / "c", x0="seed"))):
        for resident in (False, True):
            two = train(tmp_path, Cached(other, resident=resident))
            assert torch.equal(torch.cat(one.x0), torch.cat(two.x0)), (i, resident)
            assert one.losses == pytest.approx(two.losses, abs=1e-6)


def test_resident_pairs_follow_a_store_that_grew(tmp_path):
    coupling = Cached(fill(tmp_path, num=20), resident=True)
    coupling.complete(batch(coupling, range(20)), CPU)
    fill(tmp_path, num=50)
    assert len(coupling.dataset()) == 50
    assert torch.equal(
        coupling.complete(batch(coupling, range(30, 50)), CPU).x0,
        torch.stack([NOISE[i].x0 for i in range(30, 50)]),
    )


def test_images_are_mirrored_before_they_are_encoded():
    """A mirrored latent is not that of the mirrored image."""
    images = Digits(limit=64).data[0]
    batch = {"x1": images, "cond": {}}
    torch.manual_seed(0)
    latents = Independent(Digits(), flip=True, codec=Patches()).complete(batch, torch.device("cpu")).x1
    decoded = Patches().decode(latents)
    kept = (decoded == images).flatten(1).all(1)
    mirrored = (decoded == images.flip(-1)).flatten(1).all(1)
    assert (kept | mirrored).all() and 16 < kept.sum() < 48
