"""Every YAML says what it is, parses, and survives a run of two steps."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from commandline import REPOSITORY, in_process
from matrix import few
from pictures import encoded, into_zip, noise
from PIL import Image

from flowlit.commands.pipeline.recipe import Recipe
from flowlit.commands.pipeline.summary import read_rows
from flowlit.metrics.base import FeatureBatch
from flowlit.metrics.reference import cached_reference

EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"))
OWN = sorted((REPOSITORY / "experiments/own").glob("*.yaml"))
PARTS = sorted((REPOSITORY / "experiments/parts").rglob("*.yaml"))
RECIPES = sorted((REPOSITORY / "experiments/recipes").glob("*.yaml"))
FIRST = sorted((REPOSITORY / "experiments/one_more_step").glob("*.yaml"))
EVERY = [*EXPERIMENTS, *OWN, *FIRST, *PARTS, *RECIPES]


def name(path):
    return str(path.relative_to(REPOSITORY))


def header(path):
    lines = path.read_text().splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def command(path):
    """The words of the header's run line, without ``flowlit``."""
    return re.search(r"^#\s+run\s.*?flowlit (.+)$", header(path), re.M).group(1).split()


def test_there_are_experiments():
    names = {path.stem for path in EXPERIMENTS}
    assert names >= {
        f"{stage}_digits"
        for stage in ("features", "teacher", "couple", "slimflow", "recouple", "distill", "evaluate")
    }
    assert names >= {f"{stage}_cifar" for stage in ("teacher", "couple", "slimflow", "recouple", "distill")}
    assert {path.stem for path in RECIPES} >= {"slimflow_digits", "slimflow_cifar"}


@pytest.mark.parametrize("path", [*EXPERIMENTS, *OWN, *FIRST, *RECIPES], ids=name)
def test_the_header_tells_what_one_must_know(path):
    words = re.findall(r"^#\s+(run|needs|writes|costs|expect)\s+\S", header(path), re.M)
    assert {"run", "needs", "writes", "costs", "expect"} <= set(words)
    assert name(path) in header(path), "the command must name this file"


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_the_header_names_files_that_exist(path):
    for found in re.findall(r"experiments/[\w/]+\.yaml", header(path)):
        assert (REPOSITORY / found).is_file(), found


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_the_command_in_the_header_parses(path, cli, tmp_path):
    words = command(path)
    last = ["--root", tmp_path, "--dry-run"] if words[0] == "pipeline" else ["--print_config"]
    outcome = cli(*words, *last)
    assert outcome.code == 0, outcome.err


def values(text):
    """All mappings of a YAML file."""

    def walk(node):
        if isinstance(node, dict):
            yield node
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from walk(child)

    return list(walk(yaml.safe_load(text)))


def mixtures(text):
    """Keys that are both a fragment and overridden by a dotted key: jsonargparse would drop the fragment
    silently.
    """
    return [
        key
        for node in values(text)
        for key, value in node.items()
        if isinstance(value, str)
        and value.endswith(".yaml")
        and any(other.startswith(f"{key}.") for other in node)
    ]


def test_a_mixture_would_be_found():
    assert mixtures("trainer: parts/trainer.yaml\ntrainer.max_steps: 2") == ["trainer"]
    assert mixtures("trainer: parts/trainer.yaml\nmodel: {network: parts/net.yaml, lr: 2}") == []


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_no_key_is_both_a_fragment_and_overridden(path):
    assert mixtures(path.read_text()) == []


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_no_key_is_given_twice(path):
    """YAML keeps the last of two equal keys without a word."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Strict.add_constructor("tag:yaml.org,2002:map", mapping)
    yaml.load(path.read_text(), Strict)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_fits_together(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    recipe = Recipe.read(str(path))
    recipe.settle(dry_run=True)
    stages = {stage.name: stage for stage in recipe.stages}
    for stage in recipe.stages:
        for config in stage.configs:
            assert Path(config).is_file(), config
        assert stage.command == command(REPOSITORY / stage.configs[0])[0]
    folders = [stage.writes.split("/")[0] for stage in recipe.stages]
    assert len(folders) == len(set(folders)), "two stages share a folder"
    for row in recipe.table:
        assert row["solver"] in solvers(stages[row["stage"]])


def solvers(stage):
    """Of the last file that names any: a layer replaces them all."""
    contents = [yaml.safe_load(Path(config).read_text()) for config in stage.configs]
    arguments = [content["model"]["init_args"] for content in contents if "model" in content]
    return next(found["solvers"] for found in reversed(arguments) if "solvers" in found)


def quick(text):
    """The same experiment, where callbacks and solvers take fewer steps."""
    callbacks = "flowlit.callbacks."
    for found, fewer in {
        f"{callbacks}Straightness\n": "steps: 3",
        f"{callbacks}Trajectories\n": "steps: 2, euler: 2",
        f"{callbacks}Interpolations\n": "num: 2, steps: 3",
        f"{callbacks}Throughput\n": "batch_size: 4, repeats: 1",
    }.items():
        text = text.replace(found, f"{found}      init_args: {{{fewer}}}\n")
    return re.sub(r"[ra]tol: 1\.0e-\d", lambda tol: f"{tol[0][:4]}: 0.5", text)


def stage_of(path, folder=None):
    """How to run an experiment in no time: the command, and overrides that make everything small."""
    words, content = [command(path)[0], "-c", name(path)], yaml.safe_load(path.read_text())
    if folder is not None:  # options in a list cannot be overridden
        words[2] = folder / path.name
        words[2].write_text(quick(path.read_text()))
    if words[0] == "reference":
        return words
    model, data = content["model"]["init_args"], content["data"]["init_args"]
    if words[0] == "fit":
        steps = ["--trainer.max_steps", 2, "--trainer.val_check_interval", 2]
        words += [*steps, "--data.batch_size", 8, "--trainer.log_every_n_steps", 1]
    if words[0] == "couple":
        words += ["--num", 20, "--shard_size", 10, "--batch_size", 10]
    if words[0] == "sweep":
        words += ["--num", 4, "--exact.rtol", 0.1, "--exact.atol", 0.1]
    if "noise" in data and words[0] != "couple":
        words += ["--data.noise.num", 16, "--data.test_num", 16]
    if "kid_subset" in content["vars"]:
        words += ["--vars.kid_subset", 8]
    network, place = model["network"], "--model.network"
    if network["class_path"].endswith("EDM"):
        network, place = network["init_args"]["network"], f"{place}.network"
    if network["class_path"].endswith("UNet"):
        words += [f"{place}.width", 8, f"{place}.blocks", 1, f"{place}.multipliers", "[1, 1]"]
    if network["class_path"].endswith("DiT"):
        words += [f"{place}.width", 8, f"{place}.depth", 1, f"{place}.heads", 2]
    if "lpips" in path.read_text().lower():
        words[3:3] = ["-c", "experiments/parts/squared_distance.yaml"]
    return [*words, "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """CIFAR-10 and Inception without a download: a few random images, random features; statistics go
    elsewhere.
    """
    statistics = tmp_path_factory.mktemp("statistics")

    def cached(images, features, folder, *rest):
        return cached_reference(images, features, statistics, *rest)

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    projection = torch.randn(3 * 32 * 32, 6, generator=generator)

    class Random(torch.nn.Module):
        def forward(self, x):
            found = x.flatten(1).float() @ projection / 1e4
            return found, found

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr("flowlit.callbacks.evaluation.fid.cached_reference", cached)
        patch.setattr("flowlit.data.CIFAR10._read", lambda self: (images, labels))
        patch.setattr("flowlit.metrics.Inception._load", lambda self: SimpleNamespace(network=Random()))
        patch.setattr("flowlit.metrics.Inception.extract", lambda self, x: FeatureBatch(*Random()(x)))
        yield


@pytest.fixture(scope="module")
def chain(tmp_path_factory, offline):
    """Run what an experiment needs, once for all experiments of a data set, in the order of the recipe."""
    roots = {
        family: tmp_path_factory.mktemp(family)
        for family in sorted({family_of(path) for path in EXPERIMENTS})
    }
    done = {}

    def run(path):
        if path not in done:
            for needed in needs(path):
                assert run(needed).code == 0, f"{needed.name} failed"
            words = stage_of(path, roots[family_of(path)])
            words += ["--into", roots[family_of(path)] / "reference.npz"] if words[0] == "reference" else []
            done[path] = in_process(*words, "--vars.root", roots[family_of(path)])
        return done[path]

    return SimpleNamespace(run=run, roots=roots)


def family_of(path):
    """The data set, the last word of the file's name, and the kind of teacher."""
    kind = "edm_" if "_edm_" in path.stem else "dit_" if path.stem.startswith("dit_") else ""
    return kind + path.stem.rsplit("_", 1)[1]


def needs(path):
    """Experiments whose results this one reads, as its header says."""
    wanted = "\n".join(re.findall(r"^#\s+needs\s+(.*(?:\n#\s{6,}.*)*)", header(path), re.M))
    found = {REPOSITORY / file for file in re.findall(r"experiments/\w+\.yaml", wanted)}
    recipes = [Recipe.read(str(recipe)) for recipe in RECIPES]
    for recipe in recipes:
        for stage in recipe.stages:
            if name(path) in stage.configs and path.stem.startswith("evaluate"):
                found |= {REPOSITORY / s.configs[0] for s in recipe.stages if s.name in stage.needs}
    return sorted(found & set(EXPERIMENTS) - {path})


DIGITS = [path for path in EXPERIMENTS if path.stem.endswith("_digits") and path.stem != "sweep_digits"]
"""Experiments whose short runs are among the fast tests."""

SHORT = [*DIGITS, *(path for path in EXPERIMENTS if path not in DIGITS)]


@pytest.mark.parametrize("path", few(SHORT, len(DIGITS)), ids=[name(path) for path in SHORT])
def test_every_experiment_survives_a_short_run(path, chain):
    outcome = chain.run(path)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("family", few(["digits", "cifar"], 1))
def test_pairs_on_the_fly_are_one_override(family, chain, tmp_path):
    assert chain.run(REPOSITORY / f"experiments/teacher_{family}.yaml").code == 0
    words = stage_of(REPOSITORY / f"experiments/slimflow_{family}.yaml")
    words[3:3] = ["-c", f"experiments/parts/on_the_fly_{family}.yaml"]
    teacher = ["--data.coupling.teacher.checkpoint", chain.roots[family] / "teacher/checkpoints/last.ckpt"]
    outcome = in_process(*words, "--vars.root", tmp_path, *teacher)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "reflow/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("family", few(["digits", "cifar"], 1))
def test_an_edm_teacher_makes_couplings_by_its_own_sampler(family, chain):
    assert chain.run(REPOSITORY / f"experiments/teacher_edm_{family}.yaml").code == 0
    words, root = stage_of(REPOSITORY / f"experiments/couple_{family}.yaml"), chain.roots[f"edm_{family}"]
    words[3:3] = ["-c", "experiments/parts/edm_heun.yaml"]
    outcome = in_process(*words, "--vars.root", root)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((root / "couplings/manifest.json").read_text())
    assert manifest["solver"]["class_path"] == "flowlit.solvers.EDMHeun"
    assert "NFE 35.0" in outcome.err, "18 steps of Heun's rule, the last of Euler's"


@pytest.mark.slow
def test_fid_is_one_file_more(offline, tmp_path):
    words = stage_of(REPOSITORY / "experiments/teacher_cifar.yaml")
    words[3:3] = ["-c", "experiments/parts/fid_cifar.yaml"]
    solver = ["--model.solvers", "{euler1: {class_path: flowlit.solvers.Euler, init_args: {steps: 1}}}"]
    outcome = in_process(*words, *solver, "--vars.root", tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "teacher/checkpoints/best.ckpt").exists(), "the best checkpoint by fid/euler1"


@pytest.mark.slow
def test_noise_by_optimal_transport_is_one_file_more(offline, tmp_path):
    words = stage_of(REPOSITORY / "experiments/teacher_cifar.yaml")
    words[3:3] = ["-c", "experiments/parts/transport_cifar.yaml"]
    solver = ["--model.solvers", "{euler1: {class_path: flowlit.solvers.Euler, init_args: {steps: 1}}}"]
    outcome = in_process(*words, *solver, "--vars.root", tmp_path)
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_real_images_that_the_teacher_inverts_are_mixed_in_as_the_header_says(chain, tmp_path, monkeypatch):
    path, root = REPOSITORY / "experiments/parts/mixed_cifar.yaml", chain.roots["cifar"]
    assert chain.run(REPOSITORY / "experiments/couple_cifar.yaml").code == 0
    black_or_white = 255 * torch.randint(
        2, (10, 3, 32, 32), dtype=torch.uint8
    )  # for a teacher that hardly moves them: noise
    monkeypatch.setattr("flowlit.data.CIFAR10._read", lambda self: (black_or_white, torch.arange(10)))
    words = (
        re.search(r"flowlit (couple .+)$", header(path), re.M)
        .group(1)
        .replace("runs/slimflow_cifar", str(root))
        .split()
    )
    solver = ["--model.solvers", "{euler1: {class_path: flowlit.solvers.Euler, init_args: {steps: 1}}}"]
    few = ["--num", 10, "--shard_size", 10, "--trainer.accelerator", "cpu"]
    outcome = in_process(*words, *few, *solver, "--vars.root", root)
    assert outcome.code == 0, outcome.err
    words = stage_of(REPOSITORY / "experiments/slimflow_cifar.yaml")
    words[3:3] = ["-c", name(path)]
    outcome = in_process(*words, *solver, "--vars.root", root, "--trainer.logger.save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "reflow/checkpoints/last.ckpt").exists()


@pytest.mark.slow
def test_reflow_with_a_perceptual_loss_is_one_file_more(chain, tmp_path):
    """Without VGG's weights, which cannot be had offline."""
    path, root = REPOSITORY / "experiments/parts/rfpp_cifar.yaml", chain.roots["cifar"]
    assert chain.run(REPOSITORY / "experiments/couple_cifar.yaml").code == 0
    quickly = tmp_path / path.name
    quickly.write_text(quick(path.read_text()))
    words = ["fit", "-c", "experiments/slimflow_cifar.yaml", "-c", quickly, "--model.objective.perceptual"]
    words += [
        "flowlit.objectives.distances.SquaredError",
        "--trainer.max_steps",
        2,
        "--trainer.val_check_interval",
        2,
    ]
    words += [
        "--data.batch_size",
        8,
        "--data.noise.num",
        16,
        "--trainer.log_every_n_steps",
        1,
        "--trainer.accelerator",
        "cpu",
    ]
    solver = ["--model.solvers", "{euler1: {class_path: flowlit.solvers.Euler, init_args: {steps: 1}}}"]
    outcome = in_process(*words, *solver, "--vars.root", root, "--trainer.logger.save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "reflow/checkpoints/last.ckpt").exists()


SMALL_TEACHERS = {
    "ffhq": {"width": 8, "blocks": 1, "multipliers": "[1, 1]"},
    "imagenet": {
        "width": 32,
        "blocks": 1,
        "multipliers": "[1, 1]",
        "attention_resolutions": "[32]",
        "num_classes": 2,
    },
}


def in_no_time(stage, sizes):
    """Words that make a stage of a recipe at 64×64 small, whatever it does."""
    few = ["--data.noise.num_classes", sizes.get("num_classes", 0)]
    if stage.command == "couple":
        return [*few, "--num", 8, "--shard_size", 4, "--batch_size", 4]
    few += ["--data.noise.num", 16, "--data.test_num", 16]
    if stage.command == "fit":
        few += ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--data.batch_size", 2]
    if stage.name == "distill":
        few += ["-c", "experiments/parts/squared_distance.yaml"]
    place = {"teacher": "--model.network.network", "reflow": "--model.network"}.get(stage.name)
    changes = [(f"{place}.{key}", value) for key, value in sizes.items()] if place else []
    return [*few, *(word for change in changes for word in change)]


def quickly(word, folder):
    """The place of a file with fewer steps: options in a list cannot be overridden."""
    if not word.endswith(".yaml"):
        return word
    text = quick(Path(word).read_text()).replace("{steps: 40}", "{steps: 2}")
    (folder / Path(word).name).write_text(text)
    return folder / Path(word).name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", SMALL_TEACHERS)
def test_a_recipe_at_64_pixels_survives_a_short_run(family, offline, tmp_path, monkeypatch):
    """All its stages in the order of the recipe, with its own layers and options."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(3 * 64 * 64, 6, generator=generator) / 1e4
    monkeypatch.setattr(
        "flowlit.metrics.Inception.extract",
        lambda self, x: FeatureBatch(x.flatten(1).float() @ projection, None),
    )
    pictures = {f"{i % 2}/{i}.png": encoded(Image.fromarray(noise(8, 64, 64, 3)[i])) for i in range(8)}
    labels = json.dumps({"labels": [[name, int(name[0])] for name in pictures]}).encode()
    archive = into_zip(tmp_path / "images.zip", {**pictures, "dataset.json": labels})
    recipe = Recipe.read(
        str(REPOSITORY / f"experiments/recipes/slimflow_edm_{family}.yaml"), tmp_path / "run"
    )
    for stage in recipe.stages:
        text = "".join(Path(config).read_text() for config in stage.configs)
        words = [quickly(word, tmp_path) for word in stage.arguments(recipe.root)]
        words += in_no_time(stage, SMALL_TEACHERS[family])
        words += ["--vars.images", archive] if "${vars.images}" in text else []
        outcome = in_process(*words, "--trainer.accelerator", "cpu")
        assert outcome.code == 0, f"{stage.name}: {outcome.err}"
    files = {stage.name: stage.writes for stage in recipe.stages}
    rows = read_rows(recipe.root, recipe.table, {row["stage"]: files[row["stage"]] for row in recipe.table})
    assert {row["nfe"] for row in rows} >= {1, 3}
