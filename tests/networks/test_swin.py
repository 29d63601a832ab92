"""ResShift's published networks: read from files with their names, and compared with a literal copy."""

import numpy as np
import pytest
import torch
import yaml
from commandline import REPOSITORY, in_process
from pictures import encoded, into_folder, noise
from PIL import Image
from reference import vq
from reference.resshift import Net, mask, sample
from safetensors.torch import save_file

import flowlit
from flowlit import rng
from flowlit.couplings import NoisedImage, SuperResolution
from flowlit.data import VQ, Bicubic, ImageFolder
from flowlit.errors import FlowlitError
from flowlit.generators.upscaling import describe_task
from flowlit.metrics.cost import count_macs
from flowlit.networks import ResShiftVelocity, StoredVQ, SwinUNet, UNet, at_size, pretrained
from flowlit.networks.checkpoints.layouts import ResShiftLayout
from flowlit.networks.checkpoints.spec import build
from flowlit.networks.swin import WindowAttention, apart
from flowlit.objectives import TrajectoryDistillation
from flowlit.paths import ResShift
from flowlit.solvers import Euler, OneStep
from flowlit.solvers.grids import DiffusionSteps
from flowlit.types import Diffusion

LAYERS = REPOSITORY / "experiments/super_resolution/layers"
SMALL = Net()
"""Two levels, of four windows and of one, and one shifted block each."""
TINY = Net(8, mult=(1,), attends=(8,))
"""One level of four windows, for chains of many steps."""
NETS = {
    "two levels": SMALL,
    "one window alone": Net(8, window=8, attends=(8,), mult=(1,)),
    "two blocks": Net(8, window=4, attends=(8,), blocks=2, mult=(1, 2)),
}
CHAINS = {4: ResShift(4, first=0.2), 15: ResShift(15)}


def ours(net, chain=None):
    """A fresh network of the same sizes, inside its velocity."""
    return ResShiftVelocity(
        SwinUNet(
            net.resolution,
            3,
            net.width,
            net.mult,
            net.blocks,
            net.attends,
            window=net.window,
            swin_width=net.swin,
            swin_depth=net.depth,
            head=net.head,
            mlp_ratio=net.ratio,
        ),
        chain or CHAINS[4],
    )


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file as the authors' trainer writes it: plain weights, under names of torch.compile and of DDP."""
    path = tmp_path_factory.mktemp("resshift") / "resshift_realsrx4_s4_v3.pth"
    torch.save({f"module._orig_mod.{name}": value for name, value in SMALL.state().items()}, path)
    return path


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("resshift") / "resshift.pth"
    torch.save(TINY.state(), path)
    return path


@pytest.fixture(scope="module")
def velocity(file):
    return pretrained(str(file), network=ours(SMALL))


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@torch.no_grad()
def test_it_computes_what_their_code_does(net, tmp_path):
    state = net.state(seed=3)
    torch.save({"state_dict": state}, tmp_path / "r.pth")
    found = pretrained(str(tmp_path / "r.pth"), network=ours(net))
    size = net.resolution
    x, low, place = drawn(2, 3, size, size), drawn(2, 3, size, size, seed=2), torch.tensor([0.0, 3.0])
    expected = net.forward(state, x, place, low)
    assert expected.std() > 0.1
    difference = found.network(x, place, {"lr": low, "image": x}) - expected
    assert difference.abs().max() < 3e-5 * expected.abs().max()
    assert sorted(found.report.loaded) == sorted(found.state_dict())
    assert not (found.report.missing or found.report.unexpected or found.report.mismatched)
    assert {name.rpartition(".")[2] for name in found.report.unused} <= {
        "relative_position_index",
        "attn_mask",
    }


@torch.no_grad()
def test_larger_images_have_more_windows(velocity):
    """Theirs are of the size that is given, too: the number of windows follows, and their sides stay."""
    x, low, place = drawn(1, 3, 24, 32), drawn(1, 3, 24, 32, seed=2), torch.tensor([2.0])
    expected = SMALL.forward(SMALL.state(), x, place, low)
    found = at_size(velocity, 24, 32).network(x, place, {"lr": low})
    assert (found - expected).abs().max() < 3e-5 * expected.abs().max()
    with pytest.raises(FlowlitError, match="expected multiples of 8"):
        at_size(velocity, 20, 32)


def test_masks_change_rows_and_columns_as_in_their_code():
    found = apart((12, 8), 4, 2, torch.device("cpu"))
    assert torch.equal(found, mask(12, 8, 4, 2))
    assert not torch.equal(found[4], found[4].reshape(4, 4, 4, 4).permute(1, 0, 3, 2).reshape(16, 16))


@pytest.mark.parametrize(
    ("name", "chain"), [("15", ResShift()), ("4", CHAINS[4]), ("15_bicubic", ResShift(kappa=1.0))]
)
def test_the_published_chains_are_those_of_their_configurations(name, chain):
    content = yaml.safe_load((LAYERS / f"published_resshift_{name}.yaml").read_text())
    described = content["model"]["init_args"]["network"]["init_args"]
    assert build(described["diffusion"], Diffusion) == chain
    assert described["network"] == {"class_path": "flowlit.networks.SwinUNet"}


def test_the_published_sizes_fit_name_by_name():
    """The names and shapes of a real file, by the literal copy: each has its place, and nothing is left."""
    net = Net(64, 160, (1, 2, 2, 4), 2, (64, 32, 16, 8), 8)
    net.swin, net.ratio = 192, 4
    with torch.device("meta"):
        network = SwinUNet()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    names = {rule.theirs[0]: shapes.pop(rule.ours) for rule in ResShiftLayout().rules(network)}
    assert not shapes
    theirs = {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in net.shapes().items()
        for part in ("weight", "bias")
    }
    tables = {name: shape for name, shape in names.items() if name.endswith("_bias_table")}
    assert set(tables.values()) == {(225, 6)} and len(tables) == 18
    assert {name: shape for name, shape in names.items() if name not in tables} == theirs
    assert sum(value.numel() for value in network.parameters()) == 118_593_583
    assert network.stride == 64


@pytest.mark.parametrize("steps", [4, 15])
@torch.no_grad()
def test_its_prediction_is_theirs_at_every_state_of_their_sampler(steps, tiny_file):
    """The states of the published sampler, noise and all, carried over to the straight path."""
    chain = CHAINS[steps]
    found = pretrained(str(tiny_file), network=ours(TINY, chain))
    state = TINY.state()
    center, low = drawn(1, 3, 8, 8, seed=4), drawn(1, 3, 8, 8, seed=5)
    cond = {"image": center, "lr": low}
    asked = []

    def predict(shown, k):
        clean = TINY.forward(state, shown, torch.tensor([float(k)]), low)
        asked.append((shown, k, clean))
        return clean

    end = sample(predict, steps, 2.0, chain.first, center, drawn(steps, 1, 3, 8, 8, seed=6))
    assert [k for _, k, _ in asked] == list(reversed(range(steps)))
    torch.testing.assert_close(end, asked[-1][2])
    for shown, k, clean in asked:
        eta = chain.roots()[k] ** 2
        t = torch.tensor([chain.times()[k]], dtype=torch.float32)
        x_eta = shown * np.sqrt(1 + 4 * eta)
        x_t = center + float(t) / (1 - eta) * (x_eta - center)
        predicted = x_t + (1 - float(t)) * found(x_t, t, cond)
        torch.testing.assert_close(predicted, clean, rtol=0, atol=2e-4 * float(clean.abs().max()))


@pytest.mark.parametrize("steps", [4, 15])
@torch.no_grad()
def test_euler_on_its_steps_is_the_deterministic_sampler(steps, tiny_file):
    """x_η' = (1 - η') x̂ + η' c + κ √η' ε with one ε; as literal weights have it, to the end."""
    chain = CHAINS[steps]
    found = pretrained(str(tiny_file), network=ours(TINY, chain))
    state = TINY.state()
    center, low, noise = (drawn(1, 3, 8, 8, seed=seed) for seed in (4, 5, 6))
    eta = chain.roots() ** 2
    x = center + 2 * np.sqrt(eta[-1]) * noise
    for k in reversed(range(steps)):
        clean = TINY.forward(state, x / np.sqrt(1 + 4 * eta[k]), torch.tensor([float(k)]), low)
        if k == steps - 1:
            left = 2 * noise  # as it was drawn
        else:
            left = (x - (1 - eta[k]) * clean - eta[k] * center) / np.sqrt(eta[k])
        before = eta[k - 1] if k else 0.0
        x = (1 - before) * clean + before * center + np.sqrt(before) * left
    solver = Euler(steps, grid=DiffusionSteps(chain))
    cond = {"image": center, "lr": low}
    end = solver(found, center + 2 * noise, cond)
    assert int(end.nfe) == steps
    assert (end.x1 - x).abs().max() < 1e-3 * x.abs().max()


@torch.no_grad()
def test_it_is_converted_loaded_and_saved_by_the_commands(file, velocity, tmp_path):
    fragment = tmp_path / "network.yaml"
    fragment.write_text(yaml.safe_dump({"model": {"init_args": {"network": velocity.spec}}}))
    target = tmp_path / "resshift.safetensors"
    outcome = in_process("convert", file, "--network", fragment, "--into", target)
    assert outcome.code == 0, outcome.err
    assert "252 tensors loaded" in outcome.out
    chain = CHAINS[4]
    generator = flowlit.load(target, solver=Euler(4, grid=DiffusionSteps(chain)))
    assert generator.network.diffusion == chain
    x, t = drawn(2, 3, 16, 16), torch.tensor([0.1, 0.8])
    cond = {"image": drawn(2, 3, 16, 16, seed=8), "lr": drawn(2, 3, 16, 16, seed=9)}
    torch.testing.assert_close(generator.network(x, t, cond), velocity(x, t, cond), rtol=0, atol=0)
    generator.save(tmp_path / "saved.safetensors")
    again = flowlit.load(tmp_path / "saved.safetensors")
    assert again.solver == generator.solver
    torch.testing.assert_close(again.network(x, t, cond), velocity(x, t, cond), rtol=0, atol=0)


def test_half_precision_and_safetensors_are_read(tmp_path, velocity):
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in SMALL.state().items()
    }
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "r.safetensors")
    found = pretrained(str(tmp_path / "r.safetensors"), network=ours(SMALL))
    for name, value in velocity.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value.half().float(), rtol=0, atol=0)


def test_it_is_trained_further(velocity):
    """Of every parameter, as of a teacher that a student begins from; and twice without a difference."""
    network = ours(SMALL)
    network.load_state_dict(velocity.state_dict())
    x, t = drawn(2, 3, 16, 16), torch.tensor([0.1, 0.8])
    cond = {"image": drawn(2, 3, 16, 16, seed=8), "lr": drawn(2, 3, 16, 16, seed=9)}
    network(x, t, cond).square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = network(x, t, cond)
    assert (rough - network(x, t, cond)).abs().max() < 0.1 * rough.abs().max()
    double = ours(SMALL).double()
    assert double(x.double(), t.double(), {k: v.double() for k, v in cond.items()}).dtype == torch.float64


def test_a_published_teacher_is_distilled_to_one_step(tiny_file, tmp_path):
    """In the latents of its autoencoder, by OFTSR's objective, from the student that has its weights."""
    torch.save(vq.state(), tmp_path / "vq.pth")
    codec = VQ(StoredVQ(str(tmp_path / "vq.pth")))
    pictures = into_folder(tmp_path / "images", {f"{i}.png": encoded(noise(16, 16, 3)) for i in range(2)})
    coupling = SuperResolution(
        ImageFolder(pictures), Bicubic(2), NoisedImage(2.0, False), codec=codec, low=True
    )
    images = coupling.dataset()
    rng.begin(rng.Share(seed=4, total=2, rows=2))
    pair = coupling.complete({"x1": torch.stack([images[i]["x1"] for i in (0, 1)]), "cond": {}}, "cpu")
    rng.begin(None)
    assert pair.x1.shape == (2, 3, 8, 8) and set(pair.cond) == {"image", "lr"}
    teacher, student = (pretrained(str(tiny_file), network=ours(TINY, CHAINS[4])) for _ in range(2))
    objective = TrajectoryDistillation(teacher)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        loss = objective(student, pair)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    with torch.no_grad():
        large = codec.decode(OneStep(1.0)(student, pair.x0, pair.cond).x1)
    assert large.shape == (2, 3, 16, 16)


def test_photographs_are_enlarged_by_published_weights(cli, tiny_file, tmp_path):
    """By the command, from the file that holds network, autoencoder, sampler and task."""
    torch.save(vq.state(), tmp_path / "vq.pth")
    chain = CHAINS[4]
    network = pretrained(str(tiny_file), network=ours(TINY, chain))
    describe_task(network, Bicubic(2), NoisedImage(2.0, False))
    solver = Euler(4, grid=DiffusionSteps(chain))
    codec = VQ(StoredVQ(str(tmp_path / "vq.pth")))
    flowlit.Generator(network, solver, codec).save(tmp_path / "r.safetensors")
    photo = into_folder(tmp_path / "in", {"a.png": encoded(noise(11, 9, 3))})
    words = ("upscale", photo, "--model", tmp_path / "r.safetensors", "--overlap", 4)
    outcome = cli(*words, "--into", tmp_path / "out")
    assert "9×11 → 18×22, 4 tiles" in outcome.out
    cli(*words, "--batch", 1, "--into", tmp_path / "one")
    with Image.open(tmp_path / "out/a.png") as first, Image.open(tmp_path / "one/a.png") as second:
        assert first.size == (18, 22) and first.tobytes() == second.tobytes()


def test_it_says_what_it_reads_and_costs(velocity):
    """Each layer multiplies its weights at every pixel; each pixel meets those of its window, twice."""
    layers, products = [], []

    def count(module, inputs, output):
        if isinstance(module, WindowAttention):
            products.append(2 * inputs[0].numel() * module.window**2)
        else:
            channel = -1 if isinstance(module, torch.nn.Linear) else 1
            layers.append(module.weight.numel() * output.numel() // output.shape[channel])

    kinds = (WindowAttention, torch.nn.Linear, torch.nn.Conv2d)
    hooks = [part.register_forward_hook(count) for part in velocity.modules() if isinstance(part, kinds)]
    x = torch.zeros(1, 3, 16, 16)
    velocity(x, torch.zeros(1), {"image": x, "lr": x})
    for hook in hooks:
        hook.remove()
    macs = count_macs(velocity)
    assert (macs.all, macs.products) == (sum(layers) + sum(products), sum(products))
    assert velocity.reads == {"lr", "image"} and velocity.network.stride == 8


def changed(tmp_path, change):
    state = SMALL.state()
    change(state)
    torch.save(state, tmp_path / "r.pth")
    return str(tmp_path / "r.pth")


MASK = "input_blocks.1.1.blocks.1.attn_mask"
REFUSED = {
    "a tensor is missing": (
        lambda s: s.pop("middle_block.2.out_layers.3.bias"),
        "1 missing there: middle_block.2",
    ),
    "one is unknown": (lambda s: s.update({"input_blocks.9.0.weight": torch.zeros(3)}), "1 unknown here"),
    "of another width": (
        lambda s: s.update({"out.2.weight": torch.zeros(3, 64, 3, 3)}),
        r"out.*|1 of another shape",
    ),
    "of faces": (
        lambda s: s.update({"feature_extractor.0.weight": torch.zeros(16, 3, 3, 3)}),
        "another task",
    ),
    "of inpainting": (
        lambda s: s.update({"input_blocks.0.0.weight": torch.zeros(128, 7, 3, 3)}),
        "with 4 channels beside those of x",
    ),
    "of other windows": (lambda s: s.update({MASK: s[MASK].mT.flip(1)}), "made for other windows"),
    "of a mask of another form": (lambda s: s.update({MASK: torch.zeros(10**6, 4)}), "other windows"),
    "of a mask that is a number": (lambda s: s.update({MASK: torch.tensor(0.0)}), "other windows"),
    "of an end that is a number": (
        lambda s: s.update({"out.2.weight": torch.tensor(0.0)}),
        "of another shape",
    ),
    "not finite": (lambda s: s["out.2.weight"].fill_(float("nan")), "not finite|NaN|nan"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused(change, message, tmp_path):
    with pytest.raises(FlowlitError, match=message) as caught:
        pretrained(changed(tmp_path, change), network=ours(SMALL))
    assert "r.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (None, "steps and κ of ResShift's chain are in no tensor.*published_resshift_15.yaml"),
        (lambda: UNet(8, 1, 8, [1], 1, []), "cannot be read into UNet; expected .*around SwinUNet"),
        (lambda: ours(SMALL).network, "cannot be read into SwinUNet; expected .*ResShiftVelocity"),
        (lambda: ours(NETS["one window alone"]), "another architecture than ResShiftVelocity"),
    ],
    ids=["none", "UNet", "bare", "other sizes"],
)
def test_a_network_that_does_not_fit_is_refused(network, message, file):
    with pytest.raises(FlowlitError, match=message) as caught:
        pretrained(str(file), network=network and network())
    if network:
        assert "SwinUNet(resolution=16, in_channels=3, width=128, multipliers=[1, 1]" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 64}, "64 channels; expected multiples of 32, at least 128"),
        ({"width": 144}, "144 channels"),
        ({"swin_width": 100}, "100 channels"),
        ({"head": 48, "swin_width": 160}, "swin_width 160 is no multiple of head 48"),
        (
            {"resolution": 24, "multipliers": (1, 1)},
            "12×12 pixels at level 1 are no multiple of the window 8",
        ),
        ({"resolution": 20, "multipliers": (1, 1, 1, 1)}, "cannot be halved 3 times"),
    ],
    ids=str,
)
def test_sizes_that_it_cannot_have_are_refused(arguments, message):
    with pytest.raises(FlowlitError, match=message), torch.device("meta"):
        SwinUNet(**{"attention_resolutions": (24, 12), **arguments})


@pytest.mark.parametrize(
    ("cond", "found"),
    [({}, "none"), ({"lr": torch.zeros(2, 1, 16, 16)}, r"\(2, 1, 16, 16\)")],
    ids=["none", "grey"],
)
def test_without_a_low_resolution_image_it_says_so(cond, found, velocity):
    with pytest.raises(FlowlitError, match=rf"expected cond\['lr'\] \(2, 3, 16, 16\).*found {found}"):
        velocity.network(torch.zeros(2, 3, 16, 16), torch.zeros(2), cond)
