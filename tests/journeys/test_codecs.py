"""A codec whose x1 has another shape than its images, through every stage; and what happens when two meet."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from commandline import in_process
from PIL import Image

import flowlit
from flowlit.couplings import Cached, Independent, Simulated
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.data import Digits, Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import UNet, pretrained
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler

pytestmark = pytest.mark.journey

SHAPE = (4, 4, 4)
CODEC = {"class_path": "flowlit.data.Patches"}
NETWORK = tiny.unet(resolution=4, in_channels=4)


def noise(num, **arguments):
    return tiny.noise(num, **{"shape": list(SHAPE), **arguments})


def images(codec, **arguments):
    coupling = tiny.digits(**arguments)
    coupling["init_args"]["codec"] = codec
    return coupling


def run(command, path, content, *more):
    outcome = in_process(command, "-c", tiny.write(path, content), *more)
    assert outcome.code == 0, outcome.err
    return outcome


def train(root, name, module, network, coupling, callbacks, steps=8, **arguments):
    """Train one stage, with the codec of its network's file if that has one."""
    content = tiny.fit(root / name, module, network, coupling, callbacks, steps, {"noise": noise(8)})
    content["model"]["init_args"] |= arguments
    run("fit", root / f"{name}.yaml", content)
    return str(root / name / "checkpoints/last.ckpt")


def from_file(checkpoint):
    return {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": checkpoint}}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Teacher, its pairs, annealed reflow, its pairs, one-step student, and a classifier, all of latents."""
    root = tmp_path_factory.mktemp("latents")
    files = {}
    kept = [tiny.EMA, tiny.checkpoints(8)]
    files["teacher"] = train(root, "teacher", "Teacher", NETWORK, images(CODEC), kept, codec=CODEC)
    files["pairs"] = couple(root, "pairs", files["teacher"], seed=5)
    annealed = [tiny.anneal(8), *kept]
    student = {"network": NETWORK, "coupling": tiny.cached(files["pairs"]), "codec": CODEC}
    files["reflow"] = train(root, "reflow", "ReflowStudent", callbacks=annealed, **student)
    files["straighter"] = couple(root, "straighter", files["reflow"], seed=6)
    again = {"network": from_file(files["reflow"]), "coupling": tiny.cached(files["straighter"])}
    files["distill"] = train(root, "distill", "OneStepStudent", callbacks=kept, **again)
    files["features"] = classifier(root)
    return root, files


def couple(root, name, checkpoint, **arguments):
    content = tiny.fit(root, network=from_file(checkpoint))
    content["data"]["init_args"] = {"noise": noise(1)}
    content["trainer"] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    size = {"num": 24, "shard_size": 10, "batch_size": 8}
    content |= {"store": str(root / name), **size, **arguments}
    run("couple", root / f"couple_{name}.yaml", content)
    return str(root / name)


def classifier(root):
    small = {"class_path": "flowlit.networks.SmallClassifier", "init_args": {"in_channels": 4, "dim": 8}}
    content = tiny.fit(
        root / "features", "Classifier", small, images(CODEC, labels=True), [tiny.checkpoints(8)], 8
    )
    content["model"]["init_args"] = {"network": small, "codec": CODEC}
    content["data"]["init_args"]["validation"] = {
        "class_path": "flowlit.data.Digits",
        "init_args": {"part": "test", "limit": 20},
    }
    content["data"]["init_args"].pop("noise")
    content["trainer"] |= {"limit_val_batches": 1.0, "val_check_interval": 8, "check_val_every_n_epoch": None}
    run("fit", root / "features.yaml", content)
    return str(root / "features/checkpoints/last.ckpt")


def test_every_stage_of_latents_names_their_codec(stages):
    _, files = stages
    for name in ("teacher", "reflow", "distill", "features"):
        facts = torch.load(files[name], weights_only=True)["flowlit"]
        assert facts["codec"] == {"class_path": "flowlit.data.Patches", "init_args": {}}, name
    for name in ("pairs", "straighter"):
        manifest = read_manifest(files[name])
        assert manifest["codec"]["class_path"] == "flowlit.data.Patches"
        assert manifest["shape"] == list(SHAPE) and manifest["count"] == 24
    assert "flowlit.data.Patches" in in_process("couplings", "info", files["pairs"]).out


def test_latents_are_evaluated_as_the_images_they_stand_for(stages, tmp_path):
    """The model's codec is not named here: it comes from the checkpoint."""
    _, files = stages
    content = tiny.fit(tmp_path, "OneStepStudent", from_file(files["distill"]), data={"noise": noise(40)})
    features = {"checkpoint": files["features"], "name": "latents"}
    fid = {
        "features": {"class_path": "flowlit.metrics.ClassifierFeatures", "init_args": features},
        "reference": {"class_path": "flowlit.data.Digits", "init_args": {"limit": 60}},
        "cache": str(tmp_path / "statistics"),
    }
    near = {"images": {"class_path": "flowlit.data.Digits", "init_args": {"limit": 60}}, "num": 4}
    content["data"]["init_args"].pop("coupling")
    content["trainer"] |= {"limit_val_batches": 1.0, "log_every_n_steps": 1}
    content["trainer"]["callbacks"] = [
        {"class_path": "flowlit.callbacks.FID", "init_args": fid},
        {"class_path": "flowlit.callbacks.NearestNeighbours", "init_args": near},
        {"class_path": "flowlit.callbacks.Samples", "init_args": {"num": 8}},
        {"class_path": "flowlit.callbacks.Trajectories", "init_args": {"num": 2}},
        {"class_path": "flowlit.callbacks.Interpolations", "init_args": {"num": 2}},
        {"class_path": "flowlit.callbacks.Straightness", "init_args": {"steps": 4}},
        {"class_path": "flowlit.callbacks.Dashboard"},
        {"class_path": "flowlit.callbacks.Report"},
    ]
    run("validate", tmp_path / "evaluate.yaml", content)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["codec"]["class_path"] == "flowlit.data.Patches"
    width, height = Image.open(tmp_path / "samples/euler2.png").size
    assert (width - 1) % 65 == 0 == (height - 1) % 65, "a grid of 8×8 images, not of latents"


def test_latents_are_sampled_by_load_and_by_predict(stages, tmp_path):
    _, files = stages
    generator = flowlit.load(files["distill"])
    assert isinstance(generator.codec, Patches) and generator.shape == SHAPE
    samples = generator.sample(3, seed=7)
    assert samples.dtype == torch.uint8 and samples.shape == (3, 1, 8, 8)
    content = tiny.fit(
        tmp_path, "OneStepStudent", from_file(files["distill"]), data={"noise": noise(3, seed=7)}
    )
    content["model"]["init_args"].pop("solvers")
    content["data"]["init_args"].pop("coupling")
    writer = {
        "class_path": "flowlit.callbacks.ImageWriter",
        "init_args": {"folder": str(tmp_path / "images")},
    }
    content["trainer"] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "callbacks": [writer],
    }
    run("predict", tmp_path / "predict.yaml", {**content, "return_predictions": False})
    for number, image in enumerate(samples):
        written = torch.tensor(list(Image.open(tmp_path / f"images/{number:08d}.png").getdata()))
        assert (written - image.flatten().int()).abs().max() <= 1, "but for last bits before rounding"


def test_stored_latents_are_exported_and_shown_as_images(stages, tmp_path):
    _, files = stages
    assert in_process("couplings", "export", files["pairs"], "--into", tmp_path / "images.zip").code == 0
    exported = flowlit.data.ImageZip(str(tmp_path / "images.zip"), channels=1)
    latents = StoredPairs([files["pairs"]]).__getitems__(range(24)).x1.float()
    assert torch.equal(torch.stack([exported[i]["x1"] for i in range(24)]), Patches().decode(latents))
    assert in_process("couplings", "show", files["pairs"], "--into", tmp_path / "pairs.png").code == 0
    assert in_process("couplings", "verify", files["pairs"]).code == 0


def test_images_are_encoded_before_the_flow_inverts_them(stages, tmp_path):
    _, files = stages
    model = FlowModule(pretrained(files["teacher"]), RectifiedFlow(), solvers={"euler2": Euler(2)})
    data = FlowDataModule(
        Independent(Digits(limit=6, labels=False)), noise=flowlit.couplings.SeededNoise(SHAPE, 1)
    )
    tiny.trainer(tmp_path, 1).couple(
        model,
        data,
        store=str(tmp_path / "real"),
        origin="data",
        num=6,
        shard_size=4,
        x0="float32",
        x1="float32",
    )
    pairs = StoredPairs([tmp_path / "real"]).__getitems__(range(6))
    encoded = Patches().encode(torch.stack([Digits(limit=6)[i]["x1"] for i in range(6)]))
    assert torch.equal(pairs.x1, encoded) and read_manifest(tmp_path / "real")["origin"] == "data"


def fit(model, coupling, root):
    data = FlowDataModule(coupling, 8, flowlit.couplings.SeededNoise(SHAPE, 8))
    tiny.trainer(root, 1, limit_val_batches=0).fit(model, data)


def network():
    return UNet(**NETWORK["init_args"])


def test_pairs_and_images_of_another_codec_are_refused(stages, tmp_path):
    _, files = stages
    pixels = FlowModule(network(), RectifiedFlow(), codec=Pixels())
    with pytest.raises(FlowlitError, match=r"couplings in .* flowlit\.data\.Patches.* flowlit\.data\.Pixels"):
        fit(pixels, Cached(files["pairs"]), tmp_path)
    latents = FlowModule(network(), RectifiedFlow(), codec=Patches())
    with pytest.raises(
        FlowlitError, match=r"images of Digits .* flowlit\.data\.Pixels.* flowlit\.data\.Patches"
    ):
        fit(latents, Independent(Digits(labels=False)), tmp_path)
    simulated = Simulated(pretrained(files["teacher"]), Euler(2), flowlit.couplings.SeededNoise(SHAPE, 16))
    with pytest.raises(FlowlitError, match=r"simulated by .* flowlit\.data\.Patches.* flowlit\.data\.Pixels"):
        fit(pixels, simulated, tmp_path)
    fit(latents, simulated, tmp_path)


def test_a_store_does_not_go_on_with_another_codec(stages, tmp_path):
    _, files = stages
    model = FlowModule(pretrained(files["teacher"]), RectifiedFlow(), solvers={"e": Euler(2)}, codec=Pixels())
    data = FlowDataModule(noise=flowlit.couplings.SeededNoise(SHAPE, 1))
    before = {path.name: path.read_bytes() for path in Path(files["pairs"]).glob("*.*")}
    with pytest.raises(FlowlitError, match=r"already holds other pairs .*codec: .*Patches.* there, None now"):
        tiny.trainer(tmp_path, 1).couple(model, data, store=files["pairs"], num=48, seed=5, shard_size=10)
    assert {path.name: path.read_bytes() for path in Path(files["pairs"]).glob("*.*")} == before


def test_latents_are_neither_stored_as_bytes_nor_mirrored(stages, tmp_path):
    _, files = stages
    model = FlowModule(pretrained(files["teacher"]), RectifiedFlow(), solvers={"e": Euler(2)})
    data = FlowDataModule(noise=flowlit.couplings.SeededNoise(SHAPE, 1))
    with pytest.raises(FlowlitError, match=r"x1 of Patches are no pixels.*--x1 float16"):
        tiny.trainer(tmp_path, 1).couple(model, data, store=str(tmp_path / "new"), num=4, x1="uint8")
    assert not (tmp_path / "new").exists()
    with pytest.raises(FlowlitError, match="mirrors pixels, but x1 of Patches are none"):
        fit(model, Cached(files["pairs"], flip=True), tmp_path)
