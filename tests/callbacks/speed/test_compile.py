"""Precision, kernels and what is kept in memory change how fast a network runs, not what is trained, saved
and generated.
"""

import copy
import pickle
from functools import partial

import lightning.pytorch as pl
import pytest
import tiny
import torch
from commandline import REPOSITORY
from games import Game
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from matrix import few
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tools import randomise, tiny_unet
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

import flowlit
from flowlit._support.cuda_graphs import FirstCallGraphed
from flowlit.callbacks import EMA, ActivationCheckpointing, ChannelsLast, Compile, CUDAGraphs, MatmulPrecision
from flowlit.callbacks.speed.compile import GRAPHED
from flowlit.callbacks.speed.memory import align
from flowlit.couplings import Cached, Independent, SeededNoise, Simulated
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule, FlowDataModule, FlowModule
from flowlit.networks import ADM, EDM, DiT, UNet, fingerprint
from flowlit.networks.activation_checkpointing import recompute
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.networks.checkpoints.spec import spec
from flowlit.networks.norm import norm
from flowlit.objectives import Combined, Distillation, FlowGuided, RectifiedFlow
from flowlit.objectives.score_distillation import UID
from flowlit.solvers import Euler, Heun

PARTS = {"bf16": 2e-3, "tf32": 0.0, "channels_last": 1e-5, "compile": 1e-5, "recompute": 0.0}
"""Fragments, and how far a loss of six steps may be from that without, relative to it."""

SAME = ("tf32", "compile", "recompute")
"""Those that compute the same bits on a CPU."""

NOISE = SeededNoise((3, 8, 8), 12, seed=5)


@pytest.fixture
def eager(monkeypatch):
    """Compile without generating code, which would take minutes: graphs are captured all the same. Counts
    them.
    """
    graphs = []

    def backend(graph, inputs, mode="default"):
        graphs.append(graph)
        graph.meta["mode"] = mode
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
    layers = [] if part is None else ["-c", REPOSITORY / f"experiments/parts/speed/{part}.yaml"]
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


@pytest.mark.parametrize("part", few(PARTS, 2))
def test_with_and_without_a_fragment_the_same_is_trained(part, cli, eager, tmp_path):
    plain, fast = run(cli, tmp_path / "plain"), run(cli, tmp_path / "fast", part)
    one, two = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert len(one) == 6 and two == pytest.approx(one, rel=PARTS[part])
    assert (two == one) == (part in SAME), "nothing on a CPU, and the same kernels; the others did something"
    assert bool(eager) == (part == "compile")
    a, b = tiny.weights(plain), tiny.weights(fast)
    assert list(a) == list(b)
    assert all(a[key].dtype == b[key].dtype and b[key].is_contiguous() for key in a)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("first", ["plain", "fast"])
@pytest.mark.slow
def test_a_checkpoint_of_the_one_goes_on_in_the_other(part, first, cli, eager, tmp_path):
    whole = run(cli, tmp_path / "whole")
    half = run(cli, tmp_path / "half", part if first == "fast" else None, steps=3)
    rest = run(cli, tmp_path / "rest", None if first == "fast" else part, ckpt_path=half)
    assert losses(tmp_path / "rest") == pytest.approx(losses(tmp_path / "whole")[3:], rel=PARTS[part])
    a, b = (torch.load(path, weights_only=True)["optimizer_states"][0]["state"] for path in (whole, rest))
    size = max(float(state["exp_avg"].abs().max()) for state in a.values())
    assert all(torch.allclose(a[i]["exp_avg"], b[i]["exp_avg"], atol=3 * PARTS[part] * size) for i in a)
    assert (images(whole).float() - images(rest).float()).abs().max() <= (2 if part == "bf16" else 1), (
        "of 255"
    )


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
    return FlowDataModule(
        coupling or Independent(Digits(limit=64, labels=False)), 8, noise=SeededNoise(tiny.SHAPE, 8)
    )


@pytest.mark.parametrize(("name", "tf32"), [("highest", False), ("high", True), ("medium", True)])
def test_precision_is_set_while_training_and_restored_afterwards(name, tf32, tmp_path):
    before, look = precision(), Look(lambda *_: precision())
    tiny.trainer(tmp_path, 2, [MatmulPrecision(name), look]).fit(
        FlowModule(tiny.Affine(), RectifiedFlow()), data()
    )
    assert look.seen == [(name, tf32)] * 2 and precision() == before == ("highest", True)


def test_precision_is_restored_after_a_failure(tmp_path):
    before, look = precision(), Look(lambda *_: precision(), RuntimeError("stop"))
    with pytest.raises(RuntimeError, match="stop"):
        tiny.trainer(tmp_path, 2, [MatmulPrecision("medium"), look]).fit(
            FlowModule(tiny.Affine(), RectifiedFlow()), data()
        )
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
    """PyTorch's fused Adam takes the state to lie in memory as its parameter does, and says nothing if it
    does not.
    """
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
            flow(),
            FlowDataModule(noise=NOISE),
            store=str(tmp_path / name),
            num=12,
            shard_size=6,
            x0="float32",
            x1="float32",
        )
        stores.append(Cached(str(tmp_path / name)).dataset())
    plain, fast = (store.__getitems__(range(12)) for store in stores)
    assert torch.equal(plain.x0, fast.x0) and torch.allclose(plain.x1, fast.x1, atol=1e-5)
    assert stores[0].manifest["teacher"] == stores[1].manifest["teacher"], (
        "the same weights, in whatever order"
    )
    assert bool(eager) == (callback is Compile)


# compiled networks


def test_all_networks_are_compiled(eager, tmp_path):
    guide, teacher = tiniest(), tiniest()
    _, module = train(tmp_path, [Compile()], module=flow(guide, tiniest()), teacher=teacher)
    for network in (module.network, module.ema, module.averages["slow"], guide, teacher):
        assert network._compiled_call_impl is not None
    assert eager


@pytest.mark.parametrize("callback", [Compile, ChannelsLast, CUDAGraphs], ids=lambda kind: kind.__name__)
def test_a_critic_is_as_fast_as_its_generator(callback, eager, cpu_graphs, tmp_path):
    """Also one that is no velocity, and takes images alone."""
    critic = Critic(nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 1, 6), nn.Flatten(0)))
    module = CriticModule(tiny.Affine(), Game(), critic, solvers={"euler1": Euler(1)})
    data = FlowDataModule(Independent(Digits(labels=False)), batch_size=8)
    trainer = tiny.trainer(tmp_path, 2, [callback()], limit_val_batches=0)
    trainer.fit(module, data)
    compiled = callback is Compile
    assert (module.network._compiled_call_impl is not None) == compiled
    assert (critic.network._compiled_call_impl is not None) == compiled
    last = critic.network[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (callback is ChannelsLast)


def test_graphs_of_training_are_for_one_network(cpu_graphs, tmp_path):
    module = CriticModule(tiny.Affine(), Game(), Critic(tiny.Affine()), solvers={"euler1": Euler(1)})
    trainer = tiny.trainer(tmp_path, 1, [Compile(graphs=True)], limit_val_batches=0)
    with pytest.raises(
        FlowlitError, match="Compile: graphs are of one network's training step, and here two"
    ):
        trainer.fit(module, FlowDataModule(Independent(Digits(labels=False)), batch_size=8))


class Severed(tiny.Affine):
    """A guide through which no gradient flows."""

    def forward(self, x, t, cond={}):
        return super().forward(x.detach(), t, cond)


def first_step(folder, guide, *callbacks, precision="32-true"):
    """How the generator's weights move in a step of score identity."""
    torch.manual_seed(0)
    network, second = tiny.Affine(), Critic(tiny.Affine())
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    module = CriticModule(
        network, UID(guide), second, optimizer=lambda p: SGD(p, lr=1.0), solvers={"euler1": Euler(1)}
    )
    trainer = tiny.trainer(folder, 1, callbacks, limit_val_batches=0, precision=precision)
    trainer.fit(module, FlowDataModule(Independent(Digits(labels=False)), batch_size=8, seed=1))
    assert all(p.grad is None for p in guide.parameters())
    return nn.utils.parameters_to_vector(network.parameters()).detach() - before


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 0.02)])
@pytest.mark.parametrize("callback", [None, Compile, CUDAGraphs])
def test_gradients_flow_through_a_guide(callback, precision, tolerance, eager, cpu_graphs, tmp_path):
    """To the input of score identity's guide, however it is called."""
    torch.manual_seed(5)
    guide, severed = tiny.Affine(), Severed()
    severed.load_state_dict(guide.state_dict())
    plain = first_step(tmp_path, guide)
    fast = first_step(tmp_path, guide, *([callback()] if callback else []), precision=precision)
    assert (fast - plain).norm() < tolerance * plain.norm()
    assert (first_step(tmp_path, severed) - plain).norm() > 5 * tolerance * plain.norm()
    assert bool(eager) == (callback is Compile)


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


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.slow
def test_inductor_compiles_for_real(graphs, tmp_path, monkeypatch):
    monkeypatch.setattr(flowlit._support.cuda_graphs, "DEVICE", "cpu")  # where PyTorch leaves its graphs out
    torch._dynamo.reset()
    modules = []
    for callbacks in ([], [Compile(dynamic=False, graphs=graphs)]):
        torch.manual_seed(0)
        modules.append(
            FlowModule(tiny.Affine(), RectifiedFlow(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        )
        tiny.trainer(tmp_path, 3, callbacks, limit_val_batches=0).fit(modules[-1], data())
    one, two = (module.network for module in modules)
    assert torch.allclose(one.drift, two.drift, atol=1e-5) and torch.allclose(
        one.mix.weight, two.mix.weight, atol=1e-5
    )
    assert float(two.drift.abs().max()) > 1e-3 and int(two.calls) == 3


@pytest.mark.parametrize("kind", few([DiT, UNet, ADM], 2), ids=lambda kind: kind.__name__)
def test_a_network_is_one_graph(kind):
    """PyTorch 2.11 took a UNet apart into 4, and DiT into 11: it could not compile a question about
    autocast.
    """
    convolutional = {"multipliers": (1, 2), "blocks": 1, "attention_resolutions": (4,)}
    settings = {"depth": 2, "heads": 2} if kind is DiT else convolutional
    network = kind(resolution=8, in_channels=1, width=64, num_classes=10, **settings)
    torch._dynamo.reset()
    x, t, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch._dynamo.explain(network)(x, t, {"label": label})
    torch._dynamo.reset()
    assert (found.graph_count, found.graph_break_count) == (1, 0)


# training steps in CUDA graphs: on a CPU all but the graphs


@pytest.fixture
def cpu_graphs(monkeypatch):
    """Take a CPU for a device that has graphs. Counts the beginnings of steps."""
    begun = []
    monkeypatch.setattr(flowlit._support.cuda_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    return begun


@pytest.mark.parametrize("mode", [None, "max-autotune-no-cudagraphs"])
def test_the_first_call_of_a_training_step_is_asked_of_cuda_graphs(mode, eager, cpu_graphs, tmp_path):
    def run(name, *callbacks):
        return train(tmp_path / name, callbacks, module=flow(tiniest(), tiniest()), teacher=tiniest())[1]

    plain, compile = run("plain"), Compile(mode, graphs=True)
    fast, asked = run("fast", compile), GRAPHED[mode or "default"]
    modes = [graph.meta["mode"] for graph in eager]
    assert modes.count(asked) == 1, "training, but neither averages nor solvers nor a second call"
    assert set(modes) == {asked, mode or "default"} and len(cpu_graphs) == 3
    for one, two in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_a_second_call_of_a_step_and_calls_without_gradients_are_the_usual_ones(monkeypatch, cpu_graphs):
    network, called = torch.nn.Linear(2, 2), []
    monkeypatch.setattr(torch, "compile", lambda call, mode, **_: lambda x: called.append(mode) or call(x))
    network._compiled_call_impl = trained = FirstCallGraphed(network, "reduce-overhead", None)
    x = torch.ones(1, 2)
    network(x)  # no step has begun
    for use in (torch.no_grad, torch.enable_grad):
        trained.begin()
        with use():
            network(x), network.eval()(x), network.train()(x), network(x)
    assert called == ["reduce-overhead"] and len(cpu_graphs) == 2
    assert copy.deepcopy(network)._compiled_call_impl is None and list(network.state_dict()) == [
        "weight",
        "bias",
    ]


def test_each_module_that_a_callback_trains_has_its_graphs(monkeypatch, cpu_graphs, tmp_path):
    asked = []

    def compile(call, mode=None, **_):
        return lambda *args, **kwargs: asked.append(mode) or call(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    callback = Compile(graphs=True)
    for _ in range(2):
        asked.clear()
        tiny.trainer(tmp_path, 3, [callback], limit_val_batches=0).fit(
            FlowModule(tiny.Affine(), RectifiedFlow()), data()
        )
        assert asked == ["reduce-overhead"] * 3


def test_graphs_of_training_where_they_cannot_be(cpu_graphs, tmp_path, monkeypatch):
    def fit(**arguments):
        data = FlowDataModule(
            Independent(Digits(limit=64, labels=False)), 8, device_batch_size=arguments.pop("rows", None)
        )
        callbacks = [Compile(graphs=True), *arguments.pop("more", [])]
        trainer = tiny.trainer(tmp_path, 2, callbacks, limit_val_batches=0, **arguments)
        trainer.fit(FlowModule(tiny.Affine(), RectifiedFlow()), data)

    with pytest.raises(FlowlitError, match=r"2 batches are accumulated; raise data\.device_batch_size"):
        fit(rows=4)
    with pytest.raises(FlowlitError, match="2 batches are accumulated"):
        fit(more=[GradientAccumulationScheduler({0: 2})])
    monkeypatch.setattr("flowlit.callbacks.speed.compile.Sharded", pl.strategies.SingleDeviceStrategy)
    with pytest.raises(FlowlitError, match="sharded network move; use ddp"):
        fit()
    monkeypatch.setattr(flowlit._support.cuda_graphs, "DEVICE", "cuda")
    with pytest.raises(FlowlitError, match=r"an NVIDIA GPU, found cpu"):
        fit()


def test_a_missing_compiler_is_told_before_the_first_step(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    part = REPOSITORY / "experiments/parts/speed/compile.yaml"
    outcome = cli("fit", "-c", config(tmp_path, 1), "-c", part)
    assert (
        "found no C++ compiler no-such-compiler" in outcome.error
        and "leave the callback Compile out" in outcome.error
    )


def test_a_compiler_is_not_asked_for_on_a_gpu(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FlowlitError):
        Compile().on_fit_start(Fake("cpu"), flow())
    Compile().on_fit_start(Fake("cuda"), flow())


class Fake:
    """As much of a trainer as decides where things run."""

    def __init__(self, device):
        self.strategy, self.datamodule = type("Strategy", (), {"root_device": torch.device(device)}), None


# norms under bf16


def reference_norm(layer, x):
    """Norm as PyTorch has it, in the precision of the weights; keeps a copy of x in that precision."""
    return F.group_norm(x.to(layer.weight.dtype), layer.num_groups, layer.weight, layer.bias, layer.eps).to(
        x.dtype
    )


def with_gradients(call, layer, x, grad, kind=torch.bfloat16):
    """Output, and gradients of x, weight and bias."""
    layer.zero_grad()
    x = x.to(kind, copy=True).requires_grad_()
    y = call(layer, x)
    y.backward(grad.to(kind))
    return [y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]


def rough_images(order=torch.contiguous_format):
    """Images that are far from normal, a gradient, and a norm with weights."""
    torch.manual_seed(0)
    x, grad = (
        (3 + 5 * torch.randn(4, 32, 8, 8)).bfloat16().to(memory_format=order),
        torch.randn(4, 32, 8, 8).bfloat16(),
    )
    return randomise(norm(32), scale=1.0), x, grad


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_norm_of_half_precision_is_that_of_its_float32_copy_to_the_bit(order):
    layer, x, grad = rough_images(order)
    found = with_gradients(lambda layer, x: layer(x), layer, x, grad)
    expected = with_gradients(reference_norm, layer, x, grad)
    assert all(
        torch.equal(one, two) and one.dtype == two.dtype for one, two in zip(found, expected, strict=True)
    )
    assert found[0].stride() == expected[0].stride() == x.stride()
    with torch.no_grad():
        assert torch.equal(layer(x), found[0])


def test_a_norm_of_half_precision_is_as_near_to_float64_as_rounding_allows():
    layer, x, grad = rough_images()
    found = with_gradients(lambda layer, x: layer(x), layer, x, grad)
    exact = with_gradients(reference_norm, copy.deepcopy(layer).double(), x, grad, torch.float64)
    for name, one, two in zip(("output", "images", "weight", "bias"), found, exact, strict=True):
        rounding = 2**-8 if one.dtype == torch.bfloat16 else 2**-18
        assert ((one - two).abs() <= rounding * two.abs() + rounding * two.abs().max() / 16).all(), name


@pytest.mark.parametrize("frozen", ["images", "weight", "bias"])
def test_a_norm_gives_gradients_only_to_what_wants_them(frozen):
    layer, x, grad = rough_images()
    held = {"images": x, "weight": layer.weight, "bias": layer.bias}
    for name, tensor in held.items():
        tensor.requires_grad_(name != frozen)
    layer(x).backward(grad)
    assert [name for name, tensor in held.items() if tensor.grad is None] == [frozen]


def kept(network, x, bf16=False, on=False):
    """Bytes that a training step keeps for its gradient, by type, weights not counted."""
    recompute(network, on)
    known = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = (
                tensor.dtype,
                storage.nbytes(),
                tensor,
            )  # held on to, or addresses would come again
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False),
    ):
        loss = network(
            x,
            torch.rand(len(x)),
            {"label": torch.zeros(len(x), dtype=torch.int64)} if network.num_classes else {},
        )
    assert loss.requires_grad
    return {
        kind: sum(size for dtype, size, _ in held.values() if dtype == kind)
        for kind in (torch.float32, torch.bfloat16)
    }


def kept_of_images(network, **how):
    """The same of eight further images, without weights that were cast."""
    some, more = (kept(network, torch.randn(rows, 3, 8, 8), **how) for rows in (8, 16))
    return {kind: more[kind] - some[kind] for kind in more}


def test_bug_norms_kept_a_float32_copy_of_every_bf16_image():
    network = small(width=32).train()
    plain, half = kept_of_images(network), kept_of_images(network, bf16=True)
    assert half[torch.bfloat16] < 0.6 * plain[torch.float32]
    assert half[torch.float32] < 0.05 * plain[torch.float32], "embeddings and statistics"


# activations that are computed again

KINDS = {
    "unet": lambda: small(dropout=0.3, attention_resolutions=(4, 8)),
    "unet with classes": lambda: small(dropout=0.3, num_classes=3, label_dropout=0.5),
    "adm": lambda: ADM(8, 3, 16, (1, 4), 1, (4,), dropout=0.3, num_classes=0),
    "dit": lambda: DiT(8, 3, patch=4, width=32, depth=2, heads=2, dropout=0.3),
    "dit, rotary": lambda: DiT(8, 3, patch=4, width=32, depth=2, heads=2, dropout=0.3, positions="rotary"),
    "edm": lambda: EDM(small(dropout=0.3, time_scale=1.0)),
}


def steps(network, bf16=False, on=False):
    """Losses and gradients of three steps, two evaluations each, and the weights after them."""
    torch.manual_seed(1)
    recompute(network.train(), on)
    optimizer, seen = torch.optim.SGD(network.parameters(), lr=0.1), []
    for _ in range(3):
        optimizer.zero_grad()
        x, t = torch.randn(4, 3, 8, 8), torch.rand(4)
        cond = {"label": torch.tensor([0, 1, 2, 1])} if network.num_classes else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
            loss = (network(x, t, cond) - x).square().mean() + network(-x, t, cond).square().mean()
        loss.backward()
        optimizer.step()
        seen += [loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]
    return [*seen, *network.parameters(), torch.rand(1)]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_computed_again_it_is_the_same_to_the_bit(kind, bf16):
    torch.manual_seed(0)
    plain = randomise(KINDS[kind](), scale=0.1)
    again = copy.deepcopy(plain)
    one, two = steps(plain, bf16), steps(again, bf16, on=True)
    assert len(one) == len(two) and all(map(torch.equal, one, two)), (
        "with dropout, and what is drawn afterwards"
    )
    before = KINDS[kind]().state_dict()
    assert list(again.state_dict()) == list(plain.state_dict()) == list(before)
    assert spec(again) == spec(plain) and identity(again) == identity(plain)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("kind", ["unet", "adm", "dit"])
def test_only_the_inputs_of_stages_are_kept(kind, bf16):
    network = randomise(KINDS[kind](), scale=0.1).train()
    plain, again = (sum(kept_of_images(network, bf16=bf16, on=on).values()) for on in (False, True))
    assert again < 0.4 * plain


def test_outside_training_nothing_is_computed_twice():
    network = small()
    recompute(network)
    calls = []
    network.stem.register_forward_hook(lambda *_: calls.append("stem"))
    network.encoder[0].block.register_forward_pre_hook(lambda *_: calls.append("block"))
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    network.eval()(x, t).sum().backward()
    with torch.no_grad():
        network.train()(x, t)
    assert calls == ["stem", "block"] * 2
    network(x, t).sum().backward()
    assert calls[4:] == ["stem", "block", "block"]


def test_a_run_computes_its_student_again_and_ends_where_it_would_have(tmp_path):
    guide, teacher = small(), small()
    _, plain = train(tmp_path / "plain", [], 4, None, flow(guide, small(dropout=0.3)), teacher)
    look = Look(lambda _trainer, module: [stage._recomputed for _, stage in module.network.named_stages()])
    _, again = train(
        tmp_path / "again",
        [ActivationCheckpointing(), look],
        4,
        None,
        flow(guide, small(dropout=0.3)),
        teacher,
    )
    assert len(look.seen) == 4 and all(all(seen) and seen for seen in look.seen)
    assert tiny.same(again.state_dict(), plain.state_dict()), "network and averages"
    assert not any(stage._recomputed for _, stage in again.network.named_stages()), "it is over after fit"


@pytest.mark.slow
def test_it_goes_with_compiling_and_channels_last(tmp_path, monkeypatch):
    """Through the graphs of forward and backward that a compiler is given, but without the code that it would
    write for them.
    """
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    ends = []
    for name, callbacks in {
        "plain": [ChannelsLast()],
        "again": [ChannelsLast(), ActivationCheckpointing(), Compile()],
    }.items():
        module = flow(network=small(dropout=0.3))
        train(tmp_path / name, callbacks, 3, module=module, teacher=tiniest())
        assert (module.network._compiled_call_impl is not None) == (name == "again")
        ends.append(module)
    for one, two in zip(*(end.parameters() for end in ends), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    torch._dynamo.reset()


def test_a_network_without_parts_is_refused(tmp_path):
    with pytest.raises(
        FlowlitError, match=r"Affine has no parts that could be computed again; UNet, ADM and DiT have"
    ):
        train(tmp_path, [ActivationCheckpointing()], module=flow(network=tiniest()), teacher=tiniest())


def test_sizes_that_are_not_to_be_shared_are_graphs_of_their_own(eager, tmp_path):
    """``dynamic: false``: generation pads batches to whole blocks; a last batch of another number of blocks
    has its own graph.
    """
    trainer = tiny.trainer(tmp_path, callbacks=[Compile(dynamic=False)], logger=False)
    trainer.predict(
        flow(network=tiniest()), FlowDataModule(noise=SeededNoise((3, 8, 8), 76), noise_batch_size=32)
    )
    sizes = [
        node.meta["example_value"].shape for g in eager for node in g.graph.nodes if node.op == "placeholder"
    ]
    batches = [size[0] for size in sizes if tuple(size[1:]) == (3, 8, 8)]
    assert batches == [32, 16], "of 32, 32 and 12 rows"
