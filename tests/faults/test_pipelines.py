"""A pipeline sees what changed, also where it is no YAML."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny
from commandline import REPOSITORY
from PIL import Image

from flowlit.commands.pipeline import recipe as pipeline
from flowlit.commands.pipeline.inputs import merged
from flowlit.commands.pipeline.recipe import Recipe, Stage
from flowlit.commands.pipeline.stamps import stamp
from flowlit.errors import FlowlitError

IMAGES = "data.init_args.coupling.init_args.images"


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos/more").mkdir(parents=True)
    for i in range(8):
        Image.new("L", (8, 8), i).save(tmp_path / f"photos/{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def recipe(tmp_path, photos, monkeypatch):
    """Return a function that reads a recipe of a stage on photos and one that needs it; both are faked."""
    tiny.write(tmp_path / "a.yaml", {"data": {"init_args": {"coupling": {"init_args": {"images": {}}}}}})
    tiny.write(tmp_path / "b.yaml", {"store": "${vars.root}/couplings"})
    images = {"class_path": "flowlit.data.ImageFolder", "init_args": {"root": str(photos)}}
    a = {"command": "fit", "config": str(tmp_path / "a.yaml"), "writes": "a/last.ckpt"}
    b = {"command": "couple", "config": str(tmp_path / "b.yaml"), "writes": "couplings/manifest.json"}
    stages = {"a": {**a, "options": {IMAGES: images}}, "b": {**b, "needs": ["a"]}}
    path = tiny.write(tmp_path / "recipe.yaml", {"root": str(tmp_path / "root"), "stages": stages})
    ran = []

    def run(words, env):
        root = tmp_path / "root"
        ran.append(words[3])
        if words[3] == "fit":
            (root / "a/last.ckpt").write_text("weights")
        else:
            (root / "couplings/0.safetensors").write_text("pairs")
            (root / "couplings/manifest.json").write_text(json.dumps({"shards": [{"file": "0.safetensors"}]}))
        return 0

    monkeypatch.setattr(pipeline, "run_child", run)

    def read():
        return Recipe.read(str(path))

    read.ran = ran
    return read


def go(recipe):
    recipe.ran.clear()
    this = recipe()
    plans = this.plans()
    this.check(plans)
    for plan in plans:
        this.run(plan)
    return recipe.ran


def plans(recipe):
    return [(plan.action, plan.reason) for plan in recipe().plans()]


def test_a_pipeline_sees_that_the_data_changed(recipe, photos):
    assert go(recipe) == ["fit", "couple"]
    assert [action for action, _ in plans(recipe)] == ["done", "done"]
    for path in photos.glob("*.png"):
        before = path.stat()
        Image.new("L", (8, 8), 255).save(path)
        os.utime(path, (before.st_atime, before.st_mtime))
    (action, reason), after = plans(recipe)
    assert (action == "run" and reason.startswith(f"changed: {photos}: 8 files, ")) or "changed" in reason
    assert after == ("run", "it depends on a")
    assert go(recipe) == ["fit", "couple"]


def test_images_that_are_gone_are_told_before_anything_runs(recipe, photos):
    go(recipe)
    shutil.rmtree(photos)
    (action, reason), _ = plans(recipe)
    assert action == "run" and f"{photos}: 8 files → gone" in reason
    recipe.ran.clear()
    with pytest.raises(FlowlitError, match=f"stage a reads {photos}: no such file or folder"):
        go(recipe)
    assert recipe.ran == []


def test_what_lacks_an_input_quotes_what_the_recipe_needs(cli, tmp_path):
    head = "# A recipe.\n#   needs    first.yaml, and patience  \n"
    (tmp_path / "i.yaml").write_text(f"source: {tmp_path}/gone\ninto: {tmp_path}/runs/a/a.zip\n")
    stages = f"stages: {{a: {{command: images, config: {tmp_path}/i.yaml, writes: a/a.zip}}}}\n"
    for text, end in ((head, "name another (needs, says "), ("", "name another")):
        (tmp_path / "r.yaml").write_text(f"{text}root: {tmp_path}/runs\n{stages}")
        error = cli("pipeline", "-c", tmp_path / "r.yaml").error
        assert f"stage a reads {tmp_path}/gone: no such file or folder; put it there, or " + end in error
        assert error.strip().endswith("first.yaml, and patience)" if text else "name another"), error


@pytest.mark.parametrize("change", ["add", "remove", "rename", "resize", "in a sub-folder", "through a link"])
def test_every_change_of_a_folder_is_seen(recipe, photos, change):
    outside = photos.parent / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(b"a")
    (photos / "linked").symlink_to(outside)
    go(recipe)
    {
        "add": lambda: (photos / "new.png").write_bytes(b""),
        "remove": lambda: (photos / "1.png").unlink(),
        "rename": lambda: (photos / "1.png").rename(photos / "9.png"),
        "resize": lambda: (photos / "1.png").write_bytes(b"x"),
        "in a sub-folder": lambda: (photos / "more/x.png").write_bytes(b"x"),
        "through a link": lambda: (outside / "x.png").write_bytes(b"b"),
    }[change]()
    assert plans(recipe)[0][0] == "run"


def test_a_touch_changes_nothing_and_images_that_come_back_bring_their_results_back(recipe, photos):
    go(recipe)
    for path in photos.glob("*.png"):
        os.utime(path, (0, 0))
    assert go(recipe) == []
    (photos / "1.png").rename(photos.parent / "1.png")
    assert go(recipe) == ["fit", "couple"]
    (photos.parent / "1.png").rename(photos / "1.png")
    assert go(recipe) == []


def test_a_stage_of_an_older_flowlit_is_not_run_again_for_its_inputs(recipe, photos, tmp_path):
    """Its stage.json has no inputs, and a key without them."""
    go(recipe)
    states = {name: tmp_path / f"root/{name}/stage.json" for name in ("a", "couplings")}
    bases = base_keys(recipe)
    for path, key in zip(states.values(), bases, strict=True):
        state = json.loads(path.read_text())
        del state["inputs"]
        path.write_text(json.dumps(state | {"key": key}))
    first, second = plans(recipe)
    assert first[0] == second[0] == "done"
    assert f"changes of {photos} are noticed from now on" in first[1] and "notice" not in second[1]
    assert go(recipe) == []
    assert "notice" not in plans(recipe)[0][1]
    (photos / "1.png").unlink()
    assert [action for action, _ in plans(recipe)] == ["run", "run"]


def base_keys(recipe):
    """Return the keys that an older flowlit gave: of configurations alone."""
    from flowlit.commands.pipeline.plan import _digest

    keys = {}
    for stage in recipe().stages:
        keys[stage.name] = _digest([stage.content(), {name: keys[name] for name in stage.needs}])
    return keys.values()


@pytest.mark.parametrize("name", ["couplings/0.safetensors", "couplings/manifest.json", "a/last.ckpt"])
def test_a_result_that_was_deleted_is_made_again(recipe, tmp_path, name):
    go(recipe)
    (tmp_path / "root" / name).unlink()
    assert [reason for action, reason in plans(recipe) if action == "run"] == [
        f"{tmp_path / 'root' / name} has disappeared"
    ]


OTHERS = {
    "a zip": ("data.paths", "[a.zip, b.zip]", "b.zip"),
    "a reference": (
        "trainer.callbacks",
        "[{class_path: flowlit.callbacks.FID, init_args: {reference: r.npz}}]",
        "r.npz",
    ),
    "a checkpoint by hand": ("ckpt_path", "teacher.ckpt", "teacher.ckpt"),
    "labels": ("labels", "labels.txt", "labels.txt"),
    "a file of an own data set": ("data.own.folder", "my/list.txt", "my/list.txt"),
    "through a variable": ("data.root", "${vars.where}/x", "there/x"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_input_is_seen(tmp_path, monkeypatch, kind):
    import yaml

    option, value, name = OTHERS[kind]
    monkeypatch.chdir(tmp_path)
    for file in ("a.zip", "b.zip", "r.npz", "teacher.ckpt", "labels.txt", "my/list.txt", "there/x"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"before")
    config = {"vars": {"where": "there"}}
    for part in reversed(option.split(".")):
        value = {part: yaml.safe_load(value) if isinstance(value, str) else value}
    tiny.write(tmp_path / "s.yaml", config | value)
    stages = {"s": {"command": "fit", "config": "s.yaml", "writes": "s/x"}}
    recipe = Recipe.read(str(tiny.write(tmp_path / "r.yaml", {"root": "root", "stages": stages})))
    before = recipe.plans()[0]
    assert name in before.inputs
    (tmp_path / name).write_bytes(b"behind")
    assert recipe.plans()[0].key != before.key


def test_the_file_of_an_own_class_counts_but_not_its_comments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text("raise SystemExit('never imported')\nx = 1\n")
    tiny.write(tmp_path / "s.yaml", {"model": {"class_path": "own_network.Net"}})
    stages = {"s": {"command": "fit", "config": "s.yaml", "writes": "s/x"}}
    recipe = Recipe.read(str(tiny.write(tmp_path / "r.yaml", {"root": "root", "stages": stages})))
    before = recipe.plans()[0].key
    (tmp_path / "own_network.py").write_text("# a remark\nraise SystemExit('never imported')\n\nx = 1\n")
    assert recipe.plans()[0].key == before
    (tmp_path / "own_network.py").write_text("raise SystemExit('never imported')\nx = 2\n")
    assert recipe.plans()[0].key != before


def test_shipped_recipes_read_nothing_but_images_their_own_results_and_shared_ones(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for path in (REPOSITORY / "experiments/recipes").glob("*.yaml"):
        recipe = Recipe.read(str(path))
        recipe.settle(dry_run=True)
        for plan in recipe.plans():
            shared = f"{recipe.variables.get('shared')}/"
            missing = {name for name in plan.missing if not name.startswith(shared)}
            theirs = {recipe.variables.get(name) for name in ("images", "teacher", "prompts")}
            assert missing <= theirs, (path, plan.missing)
            others = [name for name in plan.inputs if not name.startswith(("data/", shared))]
            assert not others, (path, plan.inputs)


def test_what_a_layer_replaces_is_no_input():
    base = {"images": {"class_path": "m.Folder", "init_args": {"root": "gone", "channels": 1}}}
    assert merged(base, {"images": {"class_path": "m.Zip", "init_args": {"paths": ["a"]}}}) == {
        "images": {"class_path": "m.Zip", "paths": ["a"]}
    }
    assert merged(base, {"images": {"root": "here"}})["images"] == {
        "class_path": "m.Folder",
        "root": "here",
        "channels": 1,
    }


def test_a_large_folder_is_stamped_by_times_and_links_do_not_loop(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    with open(folder / "a.bin", "wb") as file:
        file.truncate(1 << 30)
    (folder / "loop").symlink_to(folder)
    before = stamp(folder, tmp_path / "root")
    assert before.startswith("1 files, 1,073,741,824 bytes, ")
    os.utime(folder / "a.bin", (1, 1))
    assert stamp(folder, tmp_path / "root") != before


@pytest.fixture
def large(tmp_path, photos):
    for i in range(3):
        (photos / f"large{i}.png").write_bytes(bytes([i]) * (2 << 20))
    return photos


def test_large_images_with_other_times_are_the_same_and_with_other_contents_are_not(recipe, large):
    assert go(recipe) == ["fit", "couple"]
    shutil.copytree(large, large.parent / "copied", copy_function=shutil.copy)
    shutil.rmtree(large)
    (large.parent / "copied").rename(large)
    for path in large.glob("*.png"):
        os.utime(path, (0, 0))
    assert [action for action, _ in plans(recipe)] == ["done", "done"] and go(recipe) == []
    with open(large / "large1.png", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"other")
    assert plans(recipe)[0][1] == f"changed: {large}: changed, still 11 files"


def test_contents_of_large_images_are_recorded_for_a_stage_of_an_older_flowlit(recipe, large, tmp_path):
    go(recipe)
    path = tmp_path / "root/a/stage.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({key: state[key] for key in state if key not in ("contents", "rewritten")}))
    assert go(recipe) == []
    for file in large.glob("*.png"):
        os.utime(file, (0, 0))
    assert go(recipe) == []


def test_an_input_is_stamped_once_for_all_stages(tmp_path, photos, monkeypatch):
    from flowlit.commands.pipeline import stamps

    stamped = []
    monkeypatch.setattr(stamps, "stamp", lambda path, besides: stamped.append(str(path)) or "1 bytes, a")
    tiny.write(tmp_path / "s.yaml", {"data": {"root": str(photos)}})
    stages = {
        name: {"command": "fit", "config": str(tmp_path / "s.yaml"), "writes": f"{name}/x"} for name in "abc"
    }
    path = tiny.write(tmp_path / "r.yaml", {"root": str(tmp_path / "root"), "stages": stages})
    assert [plan.inputs for plan in Recipe.read(str(path)).plans()] == [{str(photos): "1 bytes, a"}] * 3
    assert stamped == [str(photos)]


@pytest.mark.parametrize("name", ["log_dir", "output_dir", "plots", "sheet"])
def test_what_a_stage_changes_itself_is_no_input(tmp_path, monkeypatch, name):
    """It is there before the first run, as a folder of results often is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my/results").mkdir(parents=True)
    (tmp_path / "my/list.txt").write_text("before")
    tiny.write(tmp_path / "s.yaml", {"model": {name: "my/results", "files": "my/list.txt"}})
    stages = {"s": {"command": "fit", "config": "s.yaml", "writes": "s/x"}}
    path = tiny.write(tmp_path / "r.yaml", {"root": "root", "stages": stages})
    codes = [1, 0]

    def run(words, env):
        (tmp_path / f"my/results/{len(codes)}").write_text("result")
        (tmp_path / "root/s/x").write_text("weights")
        return codes.pop(0)

    monkeypatch.setattr(pipeline, "run_child", run)

    def step():
        this = Recipe.read(str(path))
        (plan,) = this.plans()
        this.run(plan)
        return plan.action

    with pytest.raises(FlowlitError, match="failed with exit code 1"):
        step()
    assert [step(), step()] == ["resume", "done"]
    (tmp_path / "my/results/more").write_text("by hand")
    assert step() == "done"
    (tmp_path / "my/list.txt").write_text("after")
    assert Recipe.read(str(path)).plans()[0].action == "run"


def test_what_is_data_by_one_option_is_data_by_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my/photos").mkdir(parents=True)
    (tmp_path / "my/plots").mkdir(parents=True)
    tiny.write(
        tmp_path / "s.yaml", {"a": {"root": "my/photos"}, "b": {"folder": "my/photos", "c": "my/plots"}}
    )
    assert Stage("s", "fit", "s.yaml", "s/x").uncertain(tmp_path / "root", []) == ["my/plots"]


OWN = {"class_path": "my.Food", "init_args": {"root": "data/food", "download": True}}
CIFAR = {"class_path": "flowlit.data.CIFAR10", "init_args": {"root": "data/no", "download": False}}
NEEDED = {
    "the best checkpoint": ({"ckpt_path": "best"}, []),
    "the last checkpoint": ({"ckpt_path": "last"}, []),
    "a checkpoint": ({"ckpt_path": "last.ckpt"}, ["last.ckpt"]),
    "words": ({"data.labels": "balanced", "data.reference": "train"}, []),
    "a list of labels": ({"data.labels": "my/labels"}, ["my/labels"]),
    "a reference": ({"data.reference": "train.npz"}, ["train.npz"]),
    "nothing": ({"ckpt_path": "null", "data.root": "null"}, []),
    "a folder": ({"data.root": "photos"}, ["photos"]),
    "a list in a text": ({"data.paths": "[a.zip, b.zip]"}, ["a.zip", "b.zip"]),
    "a class in a text": ({"data.images": "{class_path: my.Food, init_args: {root: here}}"}, ["here"]),
    "a text that is no list": ({"data.name": "[draft"}, []),
    "a set that downloads itself": ({"data.images": OWN}, []),
    "one that is told to": (
        {"data.images": {"class_path": "my.F", "root": "x"}, "data.images.download": "true"},
        [],
    ),
    "one that is told not to": ({"data.images": CIFAR}, ["data/no"]),
}


@pytest.mark.parametrize("kind", NEEDED)
def test_what_must_be_there(tmp_path, monkeypatch, kind):
    options, missing = NEEDED[kind]
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "s.yaml", {"model": {}})
    stage = Stage("s", "fit", "s.yaml", "s/x", options=options)
    assert stage.inputs(tmp_path / "root", []) == ({}, missing)


def test_a_plan_is_instant():
    """Nothing of torch is imported for it."""
    code = (
        "import sys; from flowlit.commands import main; "
        "main(['pipeline', '-c', 'experiments/recipes/slimflow_digits.yaml', '--dry-run', '--root', 'no']); "
        "assert not {'torch', 'lightning', 'numpy', 'omegaconf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True)
