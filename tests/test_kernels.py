"""Precision and kernels change how fast a network runs, not what is trained, saved and generated."""

import copy
import pickle
from functools import partial

import pytest
import tiny
import torch
from conftest import REPOSITORY
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tools import randomise, tiny_unet
from torch import nn

import flowlit
from flowlit.callbacks import EMA, ChannelsLast, Compile, MatmulPrecision
from flowlit.callbacks.kernels import align
from flowlit.couplings import Cached, Independent, SeededNoise, Simulated
from flowlit.datamodule import FlowDataModule
from flowlit.images import Digits
from flowlit.modules import FlowModule
from flowlit.networks.description import spec
from flowlit.networks.identity import fingerprint
from flowlit.objectives import Combined, Distillation, FlowGuided, RectifiedFlow
from flowlit.solvers import Euler, Heun
from flowlit.types import FlowlitError

PARTS = {"bf16": 2e-3, "tf32": 0.0, "channels_last": 1e-5, "compile": 1e-5}
"""Fragments, and how far a loss of six steps may be from that without, relative to it."""

NOISE = SeededNoise((3, 8, 8), 12, seed=5)


@pytest.fixture
def eager(monkeypatch):
    """Compile without generating code, which would take minutes: graphs are captured all the same. Counts them."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield graphs
    torch._dynamo.reset()


# fragments


def config(root, steps):
    """The student of the digits, for some steps."""
    network = tiny.unet(width=16)
    content = tiny.fit(root, network=network, callbacks=[tiny.EMA, tiny.checkpoints(3)], steps=steps)
    content["model"]["init_args"]["optimizer"]["init_args"]["fused"] = True
    return tiny.write(root / "config.yaml", content)


def run(cli, root, part=None, steps=6, **options):
    """Train with or without a fragment."""
    layers = [] if part is None else ["-c", REPOSITORY / f"experiments/parts/{part}.yaml"]
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    outcome = cli("fit", "-c", config(root, steps), *layers, *given)
    assert outcome.code == 0, outcome.err
    return root / "checkpoints/last.ckpt"


def losses(root):
    """By step, as TensorBoard shows them."""
    events = EventAccumulator(str(root)).Reload()
    return [event.value for event in events.Scalars("train/loss")]


def images(checkpoint):
    generator = flowlit.load(checkpoint, solver=Euler(4))
    return generator(SeededNoise(tiny.SHAPE, 8, seed=1).batch(range(8)).x0)


@pytest.mark.parametrize("part", PARTS)
def test_with_and_without_a_fragment_the_same_is_trained(part, cli, eager, tmp_path):
    plain, fast = run(cli, tmp_path / "plain"), run(cli, tmp_path / "fast", part)
    one, two = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert len(one) == 6 and two == pytest.approx(one, rel=PARTS[part])
    assert (two == one) == (part in ("tf32", "compile")), "nothing on a CPU, and the same kernels; the others did something"
    assert bool(eager) == (part == "compile")
    a, b = tiny.weights(plain), tiny.weights(fast)
    assert list(a) == list(b)
    assert all(a[key].dtype == b[key].dtype and b[key].is_contiguous() for key in a)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("first", ["plain", "fast"])
def test_a_checkpoint_of_the_one_goes_on_in_the_other(part, first, cli, eager, tmp_path):
    whole = run(cli, tmp_path / "whole")
    half = run(cli, tmp_path / "half", part if first == "fast" else None, steps=3)
    rest = run(cli, tmp_path / "rest", None if first == "fast" else part, ckpt_path=half)
    assert losses(tmp_path / "rest") == pytest.approx(losses(tmp_path / "whole")[3:], rel=PARTS[part])
    a, b = (torch.load(path, weights_only=True)["optimizer_states"][0]["state"] for path in (whole, rest))
    size = max(float(state["exp_avg"].abs().max()) for state in a.values())
    assert all(torch.allclose(a[i]["exp_avg"], b[i]["exp_avg"], atol=3 * PARTS[part] * size) for i in a)
    assert (images(whole).float() - images(rest).float()).abs().max() <= (2 if part == "bf16" else 1), "of 255"


# TF32


def precision():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


class Look(Callback):
    """Notes something at every step; may fail there."""

    def __init__(self, look, error=None):
        self.look, self.error, self.seen = look, error, []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append(self.look(trainer, pl_module))
        if self.error:
            raise self.error


def data(coupling=None):
    return FlowDataModule(coupling or Independent(Digits(limit=64, labels=False)), 8, noise=SeededNoise(tiny.SHAPE, 8))


@pytest.mark.parametrize(("name", "tf32"), [("highest", False), ("high", True), ("medium", True)])
def test_precision_is_set_while_training_and_restored_afterwards(name, tf32, tmp_path):
    before, look = precision(), Look(lambda *_: precision())
    tiny.trainer(tmp_path, 2, [MatmulPrecision(name), look]).fit(FlowModule(tiny.Affine(), RectifiedFlow()), data())
    assert look.seen == [(name, tf32)] * 2 and precision() == before == ("highest", True)


def test_precision_is_restored_after_a_failure(tmp_path):
    before, look = precision(), Look(lambda *_: precision(), RuntimeError("stop"))
    with pytest.raises(RuntimeError, match="stop"):
        tiny.trainer(tmp_path, 2, [MatmulPrecision("medium"), look]).fit(FlowModule(tiny.Affine(), RectifiedFlow()), data())
    assert look.seen == [("medium", True)] and precision() == before


# channels last


def small(**changes):
    """A network on images of three channels; only with several do orders in memory differ."""
    return randomise(tiny_unet(in_channels=3, **changes), scale=0.1)


def tiniest():
    """A network that is compiled in a second."""
    return randomise(tiny.Affine(3), scale=0.1)


def flow(guide=None, network=None):
    """A student to train on pairs and, if there is one, by its guide."""
    torch.manual_seed(0)
    guided = {"guided": FlowGuided(guide)} if guide else {}
    return FlowModule(
        network or small(),
        Combined({"pairs": Distillation(), **guided}),
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        solvers={"heun2": Heun(2)},
    )


def train(folder, callbacks=(), steps=3, ckpt_path=None, module=None, teacher=None):
    """Train on simulated pairs of three channels, with two averages."""
    module = module or flow(small())
    coupling = Simulated(teacher or small(), Euler(2), NOISE)
    trainer = tiny.trainer(folder, steps, [EMA(0.5), EMA(0.9, name="slow"), *callbacks], limit_val_batches=1)
    trainer.fit(module, FlowDataModule(coupling, 4, noise=NOISE), ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "end.ckpt")
    return trainer, module


def nhwc(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def kernels(network):
    """Weights whose order in memory can differ."""
    return [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]


@pytest.mark.parametrize("resumed", [False, True])
def test_all_networks_are_channels_last_also_after_resuming(resumed, tmp_path):
    guide, teacher = small(), small()
    start = None
    if resumed:
        train(tmp_path)
        start = tmp_path / "end.ckpt"
    trainer, module = train(tmp_path, [ChannelsLast()], 5, start, flow(guide), teacher)
    for network in (module.network, module.ema, module.averages["slow"], guide, teacher):
        assert kernels(network) and all(nhwc(p) for p in kernels(network))
    moments = [trainer.optimizers[0].state[p]["exp_avg"] for p in kernels(module.network)]
    assert all(nhwc(moment) for moment in moments)
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert all(tensor.is_contiguous() for tensor in saved["state_dict"].values())
    assert all(s["exp_avg"].is_contiguous() for s in saved["optimizer_states"][0]["state"].values())
    assert all(nhwc(moment) for moment in moments), "saving has not touched the optimizer"


def test_convolutions_run_channels_last_on_usual_images():
    network = small().to(memory_format=torch.channels_last)
    seen = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels > 1:
            layer.register_forward_hook(lambda _module, _inputs, output: seen.append(nhwc(output)))
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    x, t = torch.randn(4, 3, 8, 8), torch.rand(4)
    assert torch.allclose(network(x, t), plain(x, t), atol=1e-5)
    half = len(seen) // 2
    assert half > 5 and all(seen[:half]) and not any(seen[half:])


def test_a_fused_optimizer_goes_on_with_its_state_in_the_new_order():
    """PyTorch's fused Adam takes the state to lie in memory as its parameter does, and says nothing if it does not."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 3, 3, 3)
    plain = nn.Parameter(torch.randn(4, 3, 3, 3))
    adam = torch.optim.Adam([plain], lr=0.1, fused=True)
    plain.grad = first.clone()
    adam.step()
    last = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    other = torch.optim.Adam([last], lr=0.1, fused=True)
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    align(other)
    plain.grad, last.grad = second.clone(), second.to(memory_format=torch.channels_last)
    adam.step()
    other.step()
    assert nhwc(last) and nhwc(other.state[last]["exp_avg_sq"]) and torch.allclose(last, plain, atol=1e-6)


@pytest.mark.parametrize("first", ["plain", "last"])
def test_channels_last_trains_on_where_the_usual_order_stopped_and_back(first, tmp_path):
    _, whole = train(tmp_path / "whole", steps=5)
    callbacks = {"plain": [], "last": [ChannelsLast()]}
    train(tmp_path / "half", callbacks[first], steps=2)
    second = callbacks["plain" if first == "last" else "last"]
    _, rest = train(tmp_path / "rest", second, 5, tmp_path / "half/end.ckpt")
    for one, two in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("callback", [ChannelsLast, Compile])
def test_couplings_are_those_made_without(callback, eager, tmp_path):
    stores = []
    for name, callbacks in (("plain", []), ("fast", [callback()])):
        trainer = tiny.trainer(tmp_path, callbacks=callbacks)
        trainer.couple(
            flow(), FlowDataModule(noise=NOISE), store=str(tmp_path / name), num=12, shard_size=6, x0="float32", x1="float32"
        )
        stores.append(Cached(str(tmp_path / name)).dataset())
    plain, fast = (store.__getitems__(range(12)) for store in stores)
    assert torch.equal(plain.x0, fast.x0) and torch.allclose(plain.x1, fast.x1, atol=1e-5)
    assert stores[0].manifest["teacher"] == stores[1].manifest["teacher"], "the same weights, in whatever order"
    assert bool(eager) == (callback is Compile)


# compiled networks


def test_all_networks_are_compiled(eager, tmp_path):
    guide, teacher = tiniest(), tiniest()
    _, module = train(tmp_path, [Compile()], module=flow(guide, tiniest()), teacher=teacher)
    for network in (module.network, module.ema, module.averages["slow"], guide, teacher):
        assert network._compiled_call_impl is not None
    assert eager


def test_compiled_networks_stay_what_they_are(eager):
    plain, network = small(), small()
    network.compile()
    x, t = torch.randn(4, 3, 8, 8), torch.rand(4)
    for other in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert spec(other) == spec(plain) and fingerprint(other) == fingerprint(plain)
        assert list(other.state_dict()) == list(plain.state_dict())
        assert torch.allclose(other(x, t), plain(x, t), atol=1e-6)
    assert eager


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_networks_are_compiled_in_every_command(command, eager, tmp_path):
    trainer = tiny.trainer(tmp_path, callbacks=[Compile()])
    getattr(trainer, command)(flow(network=tiniest()), FlowDataModule(noise=NOISE, test_num=12))
    assert eager


def test_compiled_weights_learn_and_are_restored(eager, tmp_path):
    """A graph must not keep the weights that it was made with."""

    def run(name, *arguments):
        return train(tmp_path / name, *arguments, module=flow(network=tiniest()), teacher=tiniest())[1]

    whole = run("whole", [], 4)
    run("half", [Compile()], 2)
    rest = run("rest", [Compile()], 4, tmp_path / "half/end.ckpt")
    assert eager
    for one, two in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_inductor_compiles_for_real(tmp_path):
    torch._dynamo.reset()
    modules = []
    for callbacks in ([], [Compile(dynamic=False)]):
        torch.manual_seed(0)
        modules.append(FlowModule(tiny.Affine(), RectifiedFlow(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)))
        tiny.trainer(tmp_path, 3, callbacks, limit_val_batches=0).fit(modules[-1], data())
    one, two = (module.network for module in modules)
    assert torch.allclose(one.drift, two.drift, atol=1e-5) and torch.allclose(one.mix.weight, two.mix.weight, atol=1e-5)
    assert float(two.drift.abs().max()) > 1e-3 and int(two.calls) == 3


def test_a_missing_compiler_is_told_before_the_first_step(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    part = REPOSITORY / "experiments/parts/compile.yaml"
    outcome = cli("fit", "-c", config(tmp_path, 1), "-c", part)
    assert "found no C++ compiler no-such-compiler" in outcome.error and "leave the callback Compile out" in outcome.error


def test_a_compiler_is_not_asked_for_on_a_gpu(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FlowlitError):
        Compile().on_fit_start(Fake("cpu"), flow())
    Compile().on_fit_start(Fake("cuda"), flow())


class Fake:
    """As much of a trainer as decides where things run."""

    def __init__(self, device):
        self.strategy, self.datamodule = type("Strategy", (), {"root_device": torch.device(device)}), None
