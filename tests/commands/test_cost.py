"""What networks cost: the sizes of the papers from their fragments, and ``flowlit cost``."""

import json
import re

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tools import Mean, randomise, tiny_unet, write_checkpoint
from torch import nn

from flowlit.callbacks import FID, Report
from flowlit.commands._yaml import build_network, network_in
from flowlit.commands.cost.models import match, read_models
from flowlit.commands.cost.plot import plot
from flowlit.commands.cost.records import read_reports
from flowlit.couplings import SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics.cost import count_macs, count_parameters
from flowlit.metrics.report import Estimate, Kind, Record
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import ADM, ClassifierFreeGuidance
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler, Heun

PARTS = REPOSITORY / "experiments/parts/networks"

# sizes of
# the papers

# fragment: parameters, GMACs of convolutions and linear layers outside attention, GMACs of everything
DDPM = {
    "unet_62m_32": (61_804_419, 10.34, 10.85),
    "unet_28m_32": (27_906_179, 6.57, 6.90),
    "unet_16m_32": (15_707_235, 3.70, 3.90),
    "unet_7m_32": (6_989_891, 1.65, 1.75),
    "unet_3m_32": (3_437_123, 0.71, 0.74),
    "unet_62m_64": (61_804_419, 41.3, 41.9),
    "unet_28m_64": (27_906_179, 26.3, 26.7),
    "unet_16m_64": (15_707_235, 14.8, 15.0),
    "unet_7m_64": (6_989_891, 6.58, 6.71),
    "unet_3m_64": (3_536_195, 2.82, 2.92),
    "edm_56m_32": (55_732_739, 20.6, 21.2),
}
ADMS = {"adm_81m_64": (80_685_315, 31.0, 33.9), "adm_45m_64": (44_685_827, 28.1, 30.9)}


def fragment(name):
    with torch.device("meta"):
        return build_network(PARTS / f"{name}.yaml")


@pytest.mark.parametrize("name", [*DDPM, *ADMS])
def test_a_fragment_has_the_size_that_papers_tell(name):
    parameters, papers, everything = {**DDPM, **ADMS}[name]
    network = fragment(name)
    macs = count_macs(network)
    seen = macs.layers + macs.projections * (
        name in ADMS
    )  # the papers' counter does not know DDPM++'s projections
    assert count_parameters(network) == parameters
    assert seen / 1e9 == pytest.approx(papers, rel=0.01)
    assert macs.all / 1e9 == pytest.approx(everything, rel=0.01)


def test_the_teacher_of_edm_for_imagenet():
    with torch.device("meta"):
        network = ADM(width=192, multipliers=(1, 2, 3, 4), blocks=3, attention_resolutions=(32, 16, 8))
    macs = count_macs(network)
    assert count_parameters(network) == 295_899_267
    assert (macs.layers + macs.projections) / 1e9 == pytest.approx(103.4, rel=0.001)
    assert macs.all / 1e9 == pytest.approx(109.7, rel=0.001)


@pytest.mark.parametrize("name", [*DDPM, *ADMS])
def test_a_fragment_leaves_no_argument_to_the_file_below_it(name):
    """Layers keep what both classes call by the same name; a spec leaves out a second time that is off."""
    described = network_in(PARTS / f"{name}.yaml")
    arguments = described["init_args"].get("network", described)["init_args"]
    assert arguments.pop("second_time") is False
    assert described == fragment(name).spec


@pytest.mark.parametrize("name", [*DDPM, *ADMS])
def test_a_fragment_tells_its_own_numbers(name):
    text = (PARTS / f"{name}.yaml").read_text()
    network = fragment(name)
    macs = count_macs(network)
    found = re.search(
        r"costs\s+([\d,]+) parameters; ([\d.]+) GMACs .*, ([\d.]+) with attention", text
    ).groups()
    seen = macs.layers + macs.projections * (name in ADMS)
    assert found[0] == f"{count_parameters(network):,}"
    assert [float(number) for number in found[1:]] == pytest.approx([seen / 1e9, macs.all / 1e9], rel=0.005)
    size = network.shape[-1]
    assert name.endswith(f"_{size}") and size in (32, 64)
    noise = yaml.safe_load(text).get("data", {}).get("init_args", {}).get("noise", {}).get("init_args", {})
    assert size == 32 or noise["shape"] == [3, 64, 64]
    assert noise.get("num_classes", 0) == network.num_classes


@pytest.mark.parametrize("below", ["edm_56m_32", "adm_45m_64", "unet_62m_64"])
def test_a_fragment_replaces_a_network_of_any_class(below, cli):
    outcome = cli(
        *("fit", "-c", "experiments/slimflow_cifar.yaml", "-c", f"experiments/parts/networks/{below}.yaml"),
        *("-c", "experiments/parts/networks/unet_7m_32.yaml", "--print_config"),
    )
    assert outcome.code == 0 and not outcome.err, outcome.err
    network = yaml.safe_load(outcome.out)["model"]["init_args"]["network"]
    assert network == network_in(PARTS / "unet_7m_32.yaml")


# ------------------------------------------------------------------------------------------------------------
# the door


def write_yaml(path, network):
    path.write_text(
        yaml.safe_dump({"vars": {"root": str(path.parent)}, "model": {"init_args": {"network": network}}})
    )
    return path


@pytest.fixture
def fragments(tmp_path):
    wide = tiny_unet(width=16, num_classes=3)
    return [
        write_yaml(tmp_path / "wide.yaml", wide.spec),
        write_yaml(tmp_path / "slim.yaml", tiny_unet().spec),
    ]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run that was really measured: its network, with dropout, and the folder of its metrics.json."""
    root = tmp_path_factory.mktemp("recorded")
    network = randomise(tiny_unet(dropout=0.3))
    solvers = {"euler1": Euler(1), "heun2": Heun(2)}
    module = FlowModule(network, RectifiedFlow(), solvers=solvers)
    trainer = tiny.trainer(root, 1, [FID(Mean(), Digits(limit=40), cache=str(root / "cache")), Report()])
    trainer.logger = TensorBoardLogger(str(root), name="", version="")
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 40), noise_batch_size=40)
    trainer.validate(module, data, verbose=False)
    return network, root


QUICK = ("--batch_size", 2, "--repeats", 2)


def test_the_table(cli, fragments):
    outcome = cli("cost", *fragments, *QUICK)
    assert outcome.code == 0, outcome.err
    head, _, slim, wide, *rest = outcome.out.splitlines()
    network = tiny_unet()
    macs = count_macs(network)
    assert head.split() == [
        "network",
        "parameters",
        "GMACs",
        "+",
        "projections",
        "+",
        "products",
        "latency,",
        "ms",
        "images/s",
    ]
    assert slim.split()[:2] == ["slim", f"{count_parameters(network):,}"], "the smallest comes first"
    sums = [float(word) for word in slim.split()[2:5]]
    assert sums == pytest.approx(
        [macs.layers / 1e9, (macs.layers + macs.projections) / 1e9, macs.all / 1e9], rel=0.01
    )
    assert re.fullmatch(r"\S+ ± \S+ +\S+", slim.split(maxsplit=5)[5])
    assert wide.startswith("wide")
    told = "\n".join(rest)
    assert torch.__version__ in told and "1 thread," in told and "batches of 2" in told and "DDPM++" in told
    assert "Timing" not in outcome.out


def test_everything_as_json(cli, fragments, tmp_path):
    outcome = cli("cost", *fragments, *QUICK, "--json", "--into", tmp_path / "cost.png")
    told = json.loads(outcome.out)
    assert (
        told["batch_size"] == told["repeats"] == 2
        and told["threads"] == 1
        and told["torch"] == torch.__version__
    )
    slim, wide = told["networks"]
    assert [slim["name"], wide["name"]] == ["slim", "wide"] and slim["file"] == str(fragments[1])
    assert (
        slim["parameters"] == count_parameters(tiny_unet())
        and slim["macs"]["all"] == count_macs(tiny_unet()).all
    )
    assert slim["latency"] > 0 and slim["images_per_second"] > 0 and slim["records"] == []


def test_a_checkpoint_and_a_configuration_that_reads_it(cli, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "last.ckpt", tiny_unet(), tiny_unet())
    reads = {
        "class_path": "flowlit.networks.pretrained",
        "init_args": {"checkpoint": "${vars.root}/last.ckpt"},
    }
    outcome = cli("cost", checkpoint, write_yaml(tmp_path / "reads.yaml", reads), *QUICK, "--json")
    first, second = json.loads(outcome.out)["networks"]
    assert {first["name"], second["name"]} == {checkpoint, "reads"}
    assert (
        first["macs"]
        == second["macs"]
        == {**count_macs(tiny_unet())._asdict(), "all": count_macs(tiny_unet()).all}
    )


def test_files_of_one_name_are_told_apart(fragments, tmp_path):
    (tmp_path / "other").mkdir()
    same = write_yaml(tmp_path / "other/slim.yaml", tiny_unet().spec)
    assert [model.name for model in read_models([str(fragments[1]), str(same)])] == [
        str(fragments[1]),
        str(same),
    ]


def test_the_picture_without_records_is_not_empty(cli, fragments, tmp_path):
    outcome = cli("cost", *fragments, *QUICK, "--into", tmp_path / "new/cost.png")
    assert outcome.code == 0 and outcome.out.splitlines()[-1] == str(tmp_path / "new/cost.png")
    assert Image.open(tmp_path / "new/cost.png").width > 500
    (axes,) = plot(read_models([str(path) for path in fragments])).axes
    assert [text.get_text().split(":")[0].strip() for text in axes.texts] == ["slim", "wide"] and len(
        axes.lines
    ) == 2


def test_records_of_the_same_architecture(cli, recorded, tmp_path):
    """Dropout may differ, nothing else."""
    _, root = recorded
    same = write_yaml(tmp_path / "same.yaml", tiny_unet().spec)
    other = write_yaml(tmp_path / "other.yaml", tiny_unet(attention_resolutions=(4, 2)).spec)
    (root / "metrics_broken.json").write_text("{")
    (root / "metrics_foreign.json").write_text('{"format": "else"}')
    outcome = cli("cost", same, other, *QUICK, "--records", root, "--into", tmp_path / "cost.png")
    assert outcome.code == 0, outcome.err
    report = json.loads((root / "metrics.json").read_text())
    table = outcome.out.partition("recorded")[2].splitlines()
    assert (
        table[0].split("  ")[-1].strip() == "in"
        and "frechet_mean, 40 images" in table[0]
        and "fid" not in outcome.out
    )
    rows = [line.split() for line in table[2:4]]
    assert [row[:3] for row in rows] == [["same", "euler1", "1"], ["same", "heun2", "4"]]
    for row in rows:
        assert float(row[3]) == pytest.approx(report["metrics"][f"frechet_mean/{row[1]}"], rel=1e-4)
        assert float(row[5]) == pytest.approx(report["spread"][f"frechet_mean/{row[1]}"], rel=0.1)
        assert row[6] == str(root / "metrics.json")
    assert "1 of 1 records" in outcome.out
    assert outcome.err.count("skipped") == 2 and "metrics_broken.json" in outcome.err


def test_records_as_json(cli, recorded, tmp_path):
    network, root = recorded
    outcome = cli(
        "cost", write_yaml(tmp_path / "same.yaml", network.spec), *QUICK, "--records", root, "--json"
    )
    first, second = json.loads(outcome.out)["networks"][0]["records"]
    report = json.loads((root / "metrics.json").read_text())
    assert (first["solver"], second["solver"], second["nfe"]) == ("euler1", "heun2", 4)
    (distance,) = first["distances"]
    assert distance["value"] == report["metrics"]["frechet_mean/euler1"]
    assert (distance["name"], distance["images"], distance["features"]) == ("frechet_mean", 40, "1.0")


def test_records_of_a_checkpoint_are_those_of_its_weights(recorded, tmp_path, cli):
    network, root = recorded
    same = write_checkpoint(tmp_path / "same.ckpt", network, network)
    other = write_checkpoint(tmp_path / "other.ckpt", network, randomise(tiny_unet(dropout=0.3), 1))
    outcome = cli("cost", same, other, *QUICK, "--records", root, "--json")
    found = {model["name"]: len(model["records"]) for model in json.loads(outcome.out)["networks"]}
    assert found == {same: 2, other: 0}
    outcome = cli("cost", other, *QUICK, "--records", root)
    assert "0 of 1 records" in outcome.out and "recorded" not in outcome.out


@pytest.mark.parametrize(
    "changes",
    [
        {"params": 1},
        {"built": {"spec": {"class_path": "flowlit.networks.UNet", "init_args": {}}}},
        {"built": None},
    ],
    ids=["size", "description", "none"],
)
def test_records_that_do_not_tell_the_same_do_not_match(changes, recorded, tmp_path, cli):
    network, root = recorded
    report = {**json.loads((root / "metrics.json").read_text()), **changes}
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    outcome = cli("cost", write_yaml(tmp_path / "same.yaml", network.spec), *QUICK, "--records", tmp_path)
    assert outcome.code == 0 and "0 of 1 records" in outcome.out


def test_the_picture_of_records(recorded, tmp_path):
    network, root = recorded
    files = [
        write_yaml(tmp_path / "same.yaml", network.spec),
        write_yaml(tmp_path / "wide.yaml", tiny_unet(width=16).spec),
    ]
    models, report = (
        read_models([str(file) for file in files]),
        json.loads((root / "metrics.json").read_text()),
    )
    larger = {**report, "features": {"mean": {**report["features"]["mean"], "images": 50_000}}}
    match(models, {"small": report, "large": larger, **read_reports([])})
    small, large = plot(models).axes
    assert {small.get_title(), large.get_title()} == {
        "frechet_mean, 40 images",
        "frechet_mean, 50,000 images",
    }
    assert [text.get_text() for text in small.get_legend().get_texts()] == ["same"]
    assert small.get_xscale() == small.get_yscale() == "log" and small.get_ylabel() == "frechet_mean"
    names = [note.get_text() for note in small.texts]
    points = dict(zip(names, small.containers[0][0].get_xydata(), strict=False))
    cost = models[0].macs.all / 1e9 * report["metrics"]["nfe/heun2"]
    assert points["heun2"] == pytest.approx([cost, report["metrics"]["frechet_mean/heun2"]])
    assert any("wide: not recorded" in text.get_text() for text in small.texts)


def test_labels_tell_kinds_apart_that_must_not_be_compared():
    one, other = Kind("fid", 50_000, "aaaaaaaaaa", "b"), Kind("fid", 50_000, "cccccccccc", "b")
    assert one.label([one]) == "fid, 50,000 images"
    assert one.label([one, other]) == "fid, 50,000 images, features aaaaaaaa"
    assert one.label([one, Kind("frechet_x", 1, "d", "e")]) == "fid, 50,000 images"


class Shapeless(nn.Linear):
    """A user's network that tells nothing."""

    def __init__(self):
        super().__init__(1, 1)


def here(name):
    return {"class_path": f"{__name__}.{name}"}


@pytest.mark.parametrize(
    ("network", "words", "message"),
    [
        (None, (), "wrong.yaml: expected model.init_args.network with a class_path, found none"),
        ("parts/net.yaml", (), "found parts/net.yaml"),
        ({"class_path": "flowlit.networks.Nothing"}, (), r"wrong.yaml: its network cannot be built.*Nothing"),
        (
            {"class_path": "flowlit.networks.UNet", "init_args": {"wide": 3}},
            (),
            r"wrong.yaml: its network.*wide",
        ),
        (
            {"class_path": "flowlit.networks.UNet", "init_args": {"width": 7}},
            (),
            r"wrong.yaml: its network.*width 7",
        ),
        ({"class_path": "torch.optim.Adam"}, (), r"wrong.yaml: its network"),
        (
            {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": "no/last.ckpt"}},
            (),
            "no/last.ckpt",
        ),
        (
            {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": "${vars.no}/x"}},
            (),
            "wrong.yaml.*vars.no",
        ),
        (here("Shapeless"), ("--trust",), "wrong.yaml: Shapeless does not state the shape"),
        (tiny.unet(), ("--batch_size", 0), "--batch_size: found 0, expected a whole number > 0"),
        (tiny.unet(), ("--repeats", 1), "--repeats 1: expected 2"),
        (tiny.unet(), ("--device", "abacus"), "--device abacus"),
        (tiny.unet(), ("--device", "meta"), "--device meta"),
        (tiny.unet(), ("--into", "cost.txt"), "--into cost.txt"),
        (tiny.unet(), ("--records", "no/folder"), "--records no/folder"),
        (tiny.unet(), ("no.yaml",), "no.yaml"),
        (tiny.unet(), ("no.ckpt",), "no.ckpt does not exist"),
    ],
    ids=str,
)
def test_errors_come_before_any_timing(network, words, message, cli, tmp_path, monkeypatch):
    monkeypatch.setattr("flowlit.commands.cost.measure.measure_speed", lambda *rest: pytest.fail("timed"))
    outcome = cli("cost", write_yaml(tmp_path / "wrong.yaml", network), *words)
    assert re.search(message, outcome.error, re.S), outcome.err


def test_a_file_that_is_no_mapping(cli, tmp_path):
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "torn.yaml").write_text("a: [")
    assert "list.yaml" in cli("cost", tmp_path / "list.yaml").error
    assert "torn.yaml" in cli("cost", tmp_path / "torn.yaml").error


def test_a_network_without_shape_cannot_be_counted():
    with pytest.raises(FlowlitError, match="shape = \\(C, H, W\\)"):
        count_macs(Shapeless())


def test_help_names_the_command(cli):
    assert "flowlit cost" in cli("--help").out


def test_bug_guided_networks_were_drawn_at_twice_their_cost(tmp_path):
    """One call of guidance evaluates its network twice: MACs of a call times NFE counted that double."""
    inner = tiny_unet(num_classes=3, label_dropout=0.1)
    guided = ClassifierFreeGuidance(inner, 2.0)
    models = read_models(
        [
            str(write_yaml(tmp_path / f"{name}.yaml", it.spec))
            for name, it in (("plain", inner), ("guided", guided))
        ]
    )
    kind = Kind("frechet_x", 10, "a", "b")
    for model, nfe in zip(sorted(models, key=lambda model: model.name), (2, 1), strict=True):
        model.records = [Record("runs/x/metrics.json", "euler1", nfe, {kind: Estimate(0.1, None)})]
    places = {bars.get_label(): bars[0].get_xydata()[0][0] for bars in plot(models).axes[0].containers}
    assert places["guided"] == pytest.approx(2 * places["plain"])


def test_records_of_one_solver_are_told_apart_by_their_folders(tmp_path):
    (model,) = read_models([str(write_yaml(tmp_path / "plain.yaml", tiny_unet().spec))])
    kind = Kind("frechet_x", 10, "a", "b")
    model.records = [
        Record(f"runs/{name}/metrics.json", "euler1", 1, {kind: Estimate(0.1, None)}) for name in "xy"
    ]
    assert [note.get_text() for note in plot([model]).axes[0].texts] == ["euler1, x", "euler1, y"]
