"""The order of the data, and the draws of every step, follow from (seed, step, rank) alone."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from stores import fill

from flowlit.commands.couple.predict import PartData
from flowlit.couplings import Independent, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.writer import Store
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule
from flowlit.modules.batches import GlobalBatch


def take(stream, count):
    return list(islice(iter(stream), count))


def as_if(**facts):
    """A trainer, as far as the data module looks."""
    facts = {
        "world_size": 1,
        "accumulate_grad_batches": 1,
        "global_rank": 0,
        "max_steps": 10,
        "global_step": 0,
        **facts,
    }
    batches = SimpleNamespace(
        total=SimpleNamespace(ready=facts["global_step"] * facts["accumulate_grad_batches"])
    )
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=batches))
    device = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(**facts, fit_loop=loop, strategy=device, lightning_module=None)


def test_the_batch_size_is_that_of_one_optimizer_step():
    data = FlowDataModule(batch_size=24)
    data.trainer = as_if(world_size=2, accumulate_grad_batches=3)
    assert data.global_batch().rows == 4


def test_a_batch_size_that_cannot_be_divided_is_refused():
    data = FlowDataModule(batch_size=10)
    data.trainer = as_if(world_size=4)
    with pytest.raises(FlowlitError, match=r"batch_size 10.*4 devices × 1 accumulated"):
        _ = data.global_batch().rows


def test_fit_without_a_coupling_is_refused():
    with pytest.raises(FlowlitError, match=r"data\.coupling"):
        FlowDataModule().setup("fit")


def test_too_few_rows_for_one_batch_are_refused():
    data = FlowDataModule(Independent(Digits(limit=5)), batch_size=6)
    with pytest.raises(FlowlitError, match="5 rows cannot fill one batch of 6"):
        data.setup("fit")


def test_validation_without_noise_is_refused():
    data = FlowDataModule()
    data.trainer = as_if()
    with pytest.raises(FlowlitError, match=r"data\.noise"):
        data.val_dataloader()


def loader(step=0, workers=0, **facts):
    data = FlowDataModule(Independent(Digits()), batch_size=12, seed=4, num_workers=workers)
    data.setup("fit")
    data.trainer = as_if(global_step=step, **facts)
    return data.train_dataloader()


def labels(batches, count):
    return [batch["cond"]["label"].tolist() for batch in islice(batches, count)]


def test_the_loader_goes_on_where_a_checkpoint_was_written():
    whole = labels(loader(), 8)
    assert labels(loader(step=3), 5) == whole[3:]


def test_the_loader_counts_accumulated_batches():
    whole = labels(loader(accumulate_grad_batches=2), 8)
    assert labels(loader(step=3, accumulate_grad_batches=2), 2) == whole[6:]
    assert {len(batch) for batch in whole} == {6}


def test_workers_give_the_same_batches():
    assert labels(loader(workers=2), 4) == labels(loader(), 4)


def test_ranks_share_one_batch():
    whole = labels(loader(), 1)[0]
    halves = [labels(loader(world_size=2, global_rank=rank), 1)[0] for rank in range(2)]
    assert [halves[i % 2][i // 2] for i in range(12)] == whole


def test_one_pass_of_the_loader_is_the_whole_run():
    assert len(loader(max_steps=250)) == 250
    assert len(loader(max_steps=-1)) == 1797 // 12


class Draws(torch.nn.Module):
    """Notes a draw of each training step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, x, t, cond={}):
        if torch.is_grad_enabled():
            self.seen.append(
                (round(float(x.sum()), 4), round(float(t.sum()), 6), round(float(torch.rand(())), 6))
            )
        return self.weight * x


def draws(tmp_path, seed=0, **trainer):
    from flowlit.modules import Teacher

    network = Draws()
    data = FlowDataModule(Independent(Digits(limit=64)), 8, SeededNoise(tiny.SHAPE, 8), seed=seed)
    tiny.trainer(tmp_path, 4, limit_val_batches=0, **trainer).fit(Teacher(network), data)
    return network.seen


def test_draws_follow_from_the_seed_and_the_step_alone(tmp_path):
    torch.manual_seed(1)
    first = draws(tmp_path)
    torch.manual_seed(2)
    torch.rand(10)
    assert draws(tmp_path) == first
    assert len(set(first)) == 4


def test_another_seed_gives_other_draws(tmp_path):
    assert not set(draws(tmp_path, seed=1)) & set(draws(tmp_path, seed=2))


def test_a_restarted_course_draws_afresh():
    """With the draws of the first course it would diverge again; without a restart they are the same."""
    data = FlowDataModule(batch_size=8, seed=3)
    data.trainer = as_if(accumulate_grad_batches=2)

    def seeds():
        batch = data.global_batch()
        return [(batch.share(number, 0).seed, batch.own_seed(number, 0)) for number in range(6)]

    first = seeds()
    assert len({shared for shared, _ in first}) == 3 and len({own for _, own in first}) == 6
    data.restart(1)
    assert not {*sum(seeds(), ())} & {*sum(first, ())}
    data.restart(0)
    assert seeds() == first


@pytest.mark.parametrize(("devices", "accumulated"), [(1, 1), (2, 1), (3, 2), (1, 12)])
def test_every_row_of_a_global_batch_is_drawn_once(devices, accumulated):
    batch = GlobalBatch(12, devices, accumulated, seed=5)
    whole = torch.arange(12)
    for step in range(3):
        numbers = range(step * accumulated, (step + 1) * accumulated)
        shares = [batch.share(number, rank) for number in numbers for rank in range(devices)]
        assert sorted(torch.cat([share.cut(whole) for share in shares]).tolist()) == list(range(12))
        assert len({share.seed for share in shares}) == 1


def test_accumulated_batches_draw_afresh(tmp_path):
    seen = draws(tmp_path, accumulate_grad_batches=2)
    assert len(seen) == len(set(seen)) == 8


def test_validation_noise_is_the_same_for_one_and_for_more_processes():
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 7, seed=3), noise_batch_size=4)

    def indices(**facts):
        data.trainer = as_if(**facts)
        return [int(i) for batch in data.val_dataloader() for i in batch.index]

    assert indices() == list(range(7))
    assert sorted(indices(world_size=2) + indices(world_size=2, global_rank=1)) == list(range(7))


@pytest.mark.parametrize("world", [1, 2])
def test_samples_that_somebody_knows_are_not_generated_again(world):
    """But the first batch of every rank, which callbacks look at, and what they ask for beyond."""
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 20, seed=3), noise_batch_size=2, test_num=24)
    data.skip("a", lambda: np.array([*range(9), 12, 40]))
    data.skip("b", lambda: np.array([1, 3, 5, 7, 8, 12, 13]))

    def indices(loader):
        made = []
        for rank in range(world):
            data.trainer = as_if(world_size=world, global_rank=rank)
            made += [int(i) for batch in getattr(data, loader)() for i in batch.index]
        return sorted(made)

    unknown = {*range(24)} - {1, 3, 5, 7, 8, 12}
    assert indices("val_dataloader") == sorted(unknown & {*range(20)} | {*range(2 * world)})
    assert indices("test_dataloader") == sorted(unknown | {*range(2 * world)})
    assert indices("predict_dataloader") == list(range(20)), "whoever writes images wants all of them"
    data.require(13)
    data.require(5)
    assert indices("val_dataloader") == list(range(20))
    data.skip_none("a")
    data.skip_none("b")
    assert indices("val_dataloader") == list(range(20))


def test_test_continues_the_noise_of_validation():
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 3, seed=3, num_classes=4), test_num=7)
    short, long = data.evaluated(), data.evaluated("test")
    assert (len(short), len(long)) == (3, 7) and short.identity() == long.identity()
    assert all(torch.equal(short[i].x0, long[i].x0) for i in range(3)) and long[6].cond["label"] == 2


def test_labels_that_do_not_reach_are_refused():
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 3, num_classes=4, labels=[0, 1, 2]))
    assert len(data.evaluated()) == 3
    with pytest.raises(FlowlitError, match="3 labels for 50000 samples"):
        data.evaluated("test")


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_no_rank_is_without_a_shard_and_none_is_left_out(tmp_path, world):
    """Fewer missing shards than ranks broke `flowlit couple`, at every further try."""
    origin, made = FromNoise(SeededNoise((1, 2, 2), 13)), []
    store = Store(fill(tmp_path, origin=origin, num=13, shard_size=5, shards=[1], finish=False))
    for rank in range(world):
        parts = PartData(origin, store, batch_size=3)
        parts.trainer = SimpleNamespace(
            world_size=world, global_rank=rank, strategy=SimpleNamespace(broadcast=lambda x: x)
        )
        indices = [int(index) for part in parts.predict_dataloader() for index in part.index]
        assert indices
        made += indices
    assert set(made) == {0, 1, 2, 3, 4, 10, 11, 12}
    assert world > 2 or len(made) == 8, "each once"
