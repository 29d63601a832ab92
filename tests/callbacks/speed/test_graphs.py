"""CUDA graphs, by a stand-in that records on a CPU: it reads its inputs where they lie, and overwrites its
one output.
"""

import copy
import pickle
import threading

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback
from tools import randomise, tiny_unet
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flowlit._support.cuda_graphs
from flowlit._engine.sharding import Sharded
from flowlit._support.cuda_graphs import CUDAGraphRunner, called, released, replayed
from flowlit.callbacks import EMA, Compile, CUDAGraphs
from flowlit.couplings import Cached, SeededNoise, Simulated
from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import ClassifierFreeGuidance, fingerprint
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.objectives import Combined, Distillation, FlowGuided
from flowlit.solvers import RK45, Euler, Heun

NOISE = SeededNoise((3, 8, 8), 12, seed=5)


class Tape(TorchDispatchMode):
    """Writes down each kernel that is called, with the tensors that it reads and writes; no Python runs when
    it is replayed.
    """

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        result = kernel(*args, **(kwargs or {}))
        self.kernels.append((kernel, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):  # casts are kernels, too
            for kernel, args, kwargs, result in self.kernels:
                for old, new in zip(tree_leaves(result), tree_leaves(kernel(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recorder:
    """Stands in for ``flowlit._support.cuda_graphs.record``; counts what is recorded and replayed."""

    def __init__(self):
        self.recorded, self.replays = 0, 0

    def __call__(self, work, device):
        self.recorded += 1
        work()  # warm-up
        with Tape() as tape:
            output = work()
        assert len(tape.kernels) > 10 and not output.requires_grad and not output.is_inference()
        output.fill_(torch.nan)  # recording computes nothing

        def replay():
            self.replays += 1
            tape.replay()

        return replay, output


@pytest.fixture
def recorder(monkeypatch):
    """A CPU that has graphs."""
    found = Recorder()
    monkeypatch.setattr(flowlit._support.cuda_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(flowlit._support.cuda_graphs, "record", found)
    return found


def small(**changes):
    return randomise(tiny_unet(in_channels=3, **changes), scale=0.1).eval()


def batch(rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, 8, 8, generator=generator), torch.rand(rows, generator=generator)


def pair(**changes):
    """A network as it is, and the same replayed."""
    plain = small(**changes)
    fast = copy.deepcopy(plain)
    replayed(fast)
    return plain, fast


# how one network is replayed


def test_the_second_batch_of_a_kind_is_recorded_and_all_are_equal_to_the_bit(recorder):
    plain, fast = pair()
    with torch.no_grad():
        for seed in range(5):
            assert torch.equal(fast(*batch(seed=seed)), plain(*batch(seed=seed)))
    assert (recorder.recorded, recorder.replays) == (1, 4)


def test_velocities_that_are_held_are_not_overwritten_by_the_next_call(recorder):
    plain, fast = pair()
    with torch.no_grad():
        held = [fast(*batch(seed=seed)) for seed in range(4)]
        assert all(torch.equal(one, plain(*batch(seed=seed))) for seed, one in enumerate(held))
    assert len({one.data_ptr() for one in held}) == 4


def test_inputs_are_not_written_to(recorder):
    _, fast = pair()
    x, t = batch()
    kept = x.clone(), t.clone()
    with torch.no_grad():
        for _ in range(3):
            fast(x, t)
        fast(*batch(seed=1))
    assert torch.equal(x, kept[0]) and torch.equal(t, kept[1])


def test_there_is_a_graph_for_each_kind_of_batch_and_no_more_than_asked_for(recorder):
    plain, fast = pair(num_classes=3, label_dropout=0.1)
    velocity = called(fast)
    label = {"label": torch.tensor([2, 0, 1, 2])}
    kinds = [
        lambda network: network(*batch(), label),
        lambda network: network(*batch(), {}),
        lambda network: network(batch()[0].to(memory_format=torch.channels_last), batch()[1], label),
        lambda network: bf16(network, *batch(), label),
        lambda network: network(*batch(5), {"label": torch.zeros(5, dtype=torch.int64)}),
    ]
    with torch.no_grad():
        for number, kind in enumerate(kinds):
            for _ in range(3):
                assert torch.equal(kind(fast), kind(plain)), number
    assert len(velocity.graphs) == recorder.recorded == 4, "the fifth kind goes without"
    assert recorder.replays == 4 * 2


def bf16(network, *inputs):
    with torch.autocast("cpu", torch.bfloat16):
        return network(*inputs)


def test_conditions_are_copied_by_name(recorder):
    plain, fast = pair(num_classes=3)
    x, t = batch(3)
    with torch.no_grad():
        for classes in ([0, 1, 2], [2, 2, 0], [1, 0, 2]):
            cond = {"label": torch.tensor(classes)}
            assert torch.equal(fast(x, t, cond), plain(x, t, cond))
    assert recorder.replays == 2


def test_the_order_of_conditions_does_not_matter(recorder):
    class Scaled(torch.nn.Module):
        def forward(self, x, t, cond):
            for _ in range(5):
                x = (cond["a"] * x + cond["b"]).sin()
            return x

    network, ones, (x, t) = Scaled().eval(), torch.ones(4, 1, 1, 1), batch()
    expected = network(x, t, {"a": 2 * ones, "b": 3 * ones})
    replayed(network)
    with torch.no_grad():
        for cond in ({"a": ones, "b": ones}, {"b": ones, "a": ones}, {"b": 3 * ones, "a": 2 * ones}):
            found = network(x, t, cond)
    assert torch.equal(found, expected) and (recorder.recorded, recorder.replays) == (1, 2)


def test_gradients_and_training_are_not_replayed(recorder):
    plain, fast = pair(dropout=0.5)
    x, t = batch()
    for _ in range(3):
        fast.zero_grad()
        fast(x, t).square().sum().backward()
    plain(x, t).square().sum().backward()
    assert all(
        torch.equal(a.grad, b.grad) for a, b in zip(fast.parameters(), plain.parameters(), strict=True)
    )
    fast.train()
    with torch.no_grad():
        drawn = [fast(x, t) for _ in range(3)]
    assert not torch.equal(drawn[1], drawn[2]), "dropout draws anew"
    assert recorder.recorded == 0


def test_weights_that_are_trained_in_place_are_seen(recorder):
    plain, fast = pair()
    for step in range(4):
        with torch.no_grad():
            assert torch.equal(fast(*batch()), plain(*batch()))
            for network in (plain, fast):
                for parameter in network.parameters():
                    parameter.mul_(1.1)
        assert recorder.recorded == (step > 0)
    fast.load_state_dict(small(width=8).state_dict())
    with torch.no_grad():
        assert torch.equal(fast(*batch()), small(width=8)(*batch()))
    assert recorder.recorded == 1


def test_weights_that_move_are_recorded_anew(recorder):
    plain, fast = pair()
    with torch.no_grad():
        for _ in range(3):
            fast(*batch())
        for network in (plain, fast):
            network.double()
        x, t = batch()
        for _ in range(3):
            assert torch.equal(fast(x.double(), t), plain(x.double(), t))
    assert recorder.recorded == 2 and len(called(fast).graphs) == 1


def test_it_goes_in_and_out_of_inference_mode(recorder):
    plain, fast = pair()
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            found = [fast(*batch(seed=seed)) for seed in range(2)]
            assert all(torch.equal(one, plain(*batch(seed=seed))) for seed, one in enumerate(found))
            assert found[0].is_inference() == (mode is torch.inference_mode)
    assert recorder.recorded == 1


def test_other_threads_replay_but_do_not_record(recorder):
    """Recording beside a training step would meet its random numbers."""
    plain, fast = pair()
    x, t = batch()

    def work(found):
        with torch.no_grad():
            found.extend(fast(x, t) for _ in range(3))

    def elsewhere():
        found = []
        thread = threading.Thread(target=work, args=(found,))
        thread.start()
        thread.join()
        return found

    before, replays = elsewhere(), recorder.replays
    work([])
    after = elsewhere()
    assert (recorder.recorded, replays) == (1, 0) and recorder.replays >= 5
    with torch.no_grad():
        assert all(torch.equal(one, plain(x, t)) for one in [*before, *after])


def test_autocast_casts_weights_anew_in_a_graph(recorder):
    """Weights that autocast remembers are freed at its end, and are those of before a training step."""
    plain, fast = pair()
    x, t = batch()
    for _ in range(3):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x, t), plain(x, t))
        with torch.no_grad():
            for network in (plain, fast):
                for parameter in network.parameters():
                    parameter.add_(0.01)
    assert recorder.replays == 2


@pytest.mark.parametrize("solver", [Euler(3), Heun(3), RK45(1e-2, 1e-2)], ids=["Euler", "Heun", "RK45"])
def test_solvers_end_where_they_would_have(solver, recorder):
    plain, fast = pair()
    x, _ = batch(8)
    x.mul_(torch.linspace(0.1, 4, 8)[:, None, None, None])  # some are harder than others
    with torch.no_grad():
        expected, found = solver(plain, x), solver(Frozen(fast), x)
    assert (
        torch.equal(found.x1, expected.x1) and torch.equal(found.nfe, expected.nfe) and recorder.replays > 1
    )


def test_a_wrapper_is_replayed_whole(recorder):
    inside = small(num_classes=3, label_dropout=0.5)
    plain = ClassifierFreeGuidance(inside, 2.0).eval()
    fast = copy.deepcopy(plain)
    replayed(fast)
    with torch.no_grad():
        for seed in range(3):
            cond = {"label": torch.tensor([0, 1, 2, seed])}
            assert torch.equal(fast(*batch(seed=seed), cond), plain(*batch(seed=seed), cond))
    assert recorder.recorded == 1 and not isinstance(called(fast.network), CUDAGraphRunner)


def test_a_replayed_network_stays_what_it_is(recorder):
    plain, fast = pair()
    with torch.no_grad():
        for _ in range(3):
            fast(*batch())
    replays = recorder.replays
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert identity(other) == identity(fast) == identity(plain) and fingerprint(other) == fingerprint(
            plain
        )
        assert list(other.state_dict()) == list(plain.state_dict())
        with torch.no_grad():
            assert torch.equal(other(*batch()), plain(*batch()))
    assert recorder.replays == replays, "copies are called as usual"
    velocity = called(fast)
    replayed(fast)
    assert called(fast) is velocity, "once is enough"
    released(fast)
    released(plain)
    assert fast._compiled_call_impl is None and called(fast) == fast._call_impl


def test_a_compiled_network_is_recorded_and_stays_compiled_afterwards(recorder):
    network, calls = small(), []
    compiled = network._compiled_call_impl = lambda *inputs: (
        calls.append(len(inputs)) or network._call_impl(*inputs)
    )
    replayed(network)
    with torch.no_grad():
        for _ in range(3):
            network(*batch())
    assert calls == [3] * 3 and recorder.replays == 2, "as usual, warm-up, recorded; replays call nothing"
    released(network)
    assert network._compiled_call_impl is compiled


# the callback


def flow(guide=None):
    torch.manual_seed(0)
    guided = {"guided": FlowGuided(guide)} if guide else {}
    return FlowModule(
        small(dropout=0.3),
        Combined({"pairs": Distillation(), **guided}),
        solvers={"heun2": Heun(2), "rk45": RK45(1e-2, 1e-2)},
    )


def fit(folder, callbacks):
    """A student of a teacher on the fly and a guide, validated twice; what it generated, and the module."""
    guide, teacher, seen = small(width=12), small(width=16), []
    module = flow(guide)
    coupling = Simulated(teacher, Euler(2), NOISE)
    trainer = tiny.trainer(
        folder, 4, [EMA(0.5), *callbacks], val_check_interval=2, check_val_every_n_epoch=None
    )
    module.on_validation_batch_end = lambda outputs, *_: seen.extend(
        s.x1 for s in outputs["solutions"].values()
    )
    trainer.fit(module, FlowDataModule(coupling, 4, noise=NOISE, noise_batch_size=8))
    return seen, module, (guide, teacher, module.network, module.ema)


class Look(Callback):
    """Notes which networks are replayed while training."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append([isinstance(called(n), CUDAGraphRunner) for n in (pl_module.network, pl_module.ema)])


def test_a_run_trains_and_generates_the_same_bits(recorder, tmp_path):
    look = Look()
    expected, plain, _ = fit(tmp_path / "plain", [])
    assert recorder.recorded == 0
    found, module, networks = fit(tmp_path / "fast", [CUDAGraphs(), look])
    assert tiny.same(module.state_dict(), plain.state_dict())
    assert len(found) == len(expected) == 8 and all(map(torch.equal, found, expected))
    assert look.seen == [[True, True]] * 4
    assert recorder.recorded >= 3, "guide, teacher and average"
    assert not any(isinstance(called(network), CUDAGraphRunner) for network in networks), (
        "it is over after fit"
    )


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_every_command_that_generates_replays(command, recorder, tmp_path):
    module = flow()
    trainer = tiny.trainer(tmp_path, callbacks=[CUDAGraphs()])
    getattr(trainer, command)(module, FlowDataModule(noise=NOISE, test_num=12))
    assert recorder.recorded == 1 and recorder.replays >= 3
    assert not isinstance(called(module.network), CUDAGraphRunner)


def test_couplings_are_those_made_without(recorder, tmp_path):
    stores = []
    for name, callbacks in (("plain", []), ("fast", [CUDAGraphs()])):
        module, data = flow(), FlowDataModule(noise=NOISE)
        trainer = tiny.trainer(tmp_path, callbacks=callbacks)
        trainer.couple(
            module, data, store=str(tmp_path / name), num=12, shard_size=6, x0="float32", x1="float32"
        )
        stores.append(Cached(str(tmp_path / name)).dataset())
    plain, fast = (store.__getitems__(range(12)) for store in stores)
    assert torch.equal(plain.x0, fast.x0) and torch.equal(plain.x1, fast.x1)
    assert stores[0].manifest["teacher"] == stores[1].manifest["teacher"] and recorder.replays > 0


def test_on_a_cpu_graphs_are_refused_before_the_first_step(tmp_path):
    with pytest.raises(FlowlitError, match="CUDA graphs need the network on an NVIDIA GPU, found cpu"):
        tiny.trainer(tmp_path, callbacks=[CUDAGraphs()]).validate(flow(), FlowDataModule(noise=NOISE))


class Fake:
    """As much of a trainer as decides whether graphs can be."""

    datamodule = None

    def __init__(self, callbacks, strategy=None):
        self.callbacks = callbacks
        self.strategy = strategy or type("Strategy", (), {"root_device": torch.device("cuda")})()


def test_what_cannot_be_is_refused_with_what_to_do():
    graphs = CUDAGraphs()
    with pytest.raises(FlowlitError, match="put the callback Compile before CUDAGraphs"):
        graphs.setup(Fake([graphs, Compile()]), flow(), "fit")
    graphs.setup(Fake([Compile(), graphs]), flow(), "fit")
    with pytest.raises(FlowlitError, match="most is 0"):
        CUDAGraphs(0)
    sharded = type("Divided", (Sharded,), {"root_device": torch.device("cuda")})()
    with pytest.raises(FlowlitError, match="use ddp"):
        graphs.setup(Fake([graphs], sharded), flow(), "fit")
