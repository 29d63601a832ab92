"""Bad input gets one clear error that says what was found, what was expected and what mends it; nothing is
lost.
"""

import json

import pytest
import tiny
import torch
from commandline import in_process
from matrix import few
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained teacher and 20 of its pairs."""
    root = tmp_path_factory.mktemp("trained")
    assert in_process("fit", "-c", tiny.write(root / "teacher.yaml", tiny.fit(root / "teacher"))).code == 0
    last = root / "teacher/checkpoints/last.ckpt"
    words = ["--store", root / "pairs", "--num", 20, "--shard_size", 8, "--batch_size", 4]
    made = in_process("couple", "-c", root / "teacher/config.yaml", "--ckpt_path", last, *words)
    assert made.code == 0, made.err
    return root


def refuse(cli, tmp_path, *words, command="fit", **arguments):
    """The error of a run that must be refused, and that must not write a checkpoint."""
    path = tiny.write(tmp_path / "bad.yaml", tiny.fit(tmp_path / "run", **arguments))
    outcome = cli(command, "-c", path, *words)
    assert not list((tmp_path / "run").glob("**/*.ckpt"))
    return outcome.error


def folder(tmp_path, count, **arguments):
    (tmp_path / "images").mkdir()
    for i in range(count):
        Image.new("L", (8, 8), i).save(tmp_path / "images" / f"{i}.png")
    images = {
        "class_path": "flowlit.data.ImageFolder",
        "init_args": {"root": str(tmp_path / "images"), "channels": 1},
    }
    images["init_args"] |= arguments
    return {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}


def test_missing_couplings_name_the_command_that_makes_them(cli, tmp_path):
    error = refuse(cli, tmp_path, module="ReflowStudent", coupling=tiny.cached(tmp_path / "nothing"))
    assert f"no couplings in {tmp_path}/nothing" in error and "flowlit couple -c" in error


def test_unfinished_couplings_name_the_command(cli, tmp_path, trained):
    manifest = json.loads((trained / "pairs/manifest.json").read_text())
    (tmp_path / "half").mkdir()
    (tmp_path / "half/manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    error = refuse(cli, tmp_path, coupling=tiny.cached(tmp_path / "half"))
    assert "0 of 20 pairs" in error and "flowlit couple" in error


def test_a_checkpoint_of_another_architecture(cli, tmp_path, trained):
    last = trained / "teacher/checkpoints/last.ckpt"
    error = refuse(cli, tmp_path, "--ckpt_path", last, network=tiny.unet(width=12))
    assert (
        "another architecture" in error
        and "network.time.layers.0.weight is (32, 8) there, (48, 12) here" in error
    )


def test_pretrained_weights_of_another_architecture(cli, tmp_path, trained):
    arguments = {"checkpoint": str(trained / "teacher/checkpoints/last.ckpt"), "network": tiny.unet(blocks=2)}
    error = refuse(
        cli, tmp_path, network={"class_path": "flowlit.networks.pretrained", "init_args": arguments}
    )
    assert "another architecture than UNet" in error and "missing there: encoder." in error


@pytest.mark.parametrize("content", [None, b"torn", b""])
@pytest.mark.parametrize("how", ["--ckpt_path", "pretrained"])
def test_a_missing_or_torn_checkpoint(cli, tmp_path, content, how):
    path = tmp_path / "some.ckpt"
    if content is not None:
        path.write_bytes(content)
    if how == "pretrained":
        network = {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": str(path)}}
        error = refuse(cli, tmp_path, network=network)
    else:
        error = refuse(cli, tmp_path, "--ckpt_path", path)
    assert f"checkpoint {path}" in error
    assert (
        "does not exist" if content is None else "torn or not a checkpoint"
    ) in error or "refused" in error


def test_a_checkpoint_that_holds_code_is_refused(cli, tmp_path):
    torch.save({"state_dict": {}, "code": tiny.Affine()}, tmp_path / "evil.ckpt")
    error = refuse(cli, tmp_path, "--ckpt_path", tmp_path / "evil.ckpt")
    assert "would run code" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.network.wdth", "12"], "'wdth' is not accepted"),
        (["--model.network", "flowlit.networks.Nope"], "has no attribute 'Nope'"),
        (["--model.network", "no_such_package.Net"], "no_such_package"),
        (["--trainer.max_steps", "many"], "trainer.max_steps"),
        (["--data.batch_size", "[1]"], "batch_size"),
        (["--nonsense", "1"], "nonsense"),
        (["--data.coupling.images.root", "${nothing.here}"], "nothing.here"),
    ],
)
def test_a_wrong_option_is_named(cli, tmp_path, words, expected):
    error = refuse(cli, tmp_path, *words)
    assert expected in error
    assert len(error.splitlines()) < 20, "the error must not drown in usage"


def test_an_unknown_key_in_a_file_is_named(cli, tmp_path):
    second = tiny.write(tmp_path / "second.yaml", {"trainer": {"max_stepps": 3}})
    assert "trainer.max_stepps" in refuse(cli, tmp_path, "-c", second)


@pytest.mark.parametrize("command", ["fit", "couple", "validate"])
def test_a_missing_or_broken_file(cli, tmp_path, command):
    assert "missing.yaml" in cli(command, "-c", tmp_path / "missing.yaml").error
    (tmp_path / "broken.yaml").write_text("model: [unclosed\n")
    assert "parsing config" in cli(command, "-c", tmp_path / "broken.yaml").error


def test_nothing_to_do_is_told(cli):
    assert "required: fit.data, fit.model" in cli("fit").error


def test_annealing_a_missing_attribute_names_what_exists(cli, tmp_path, trained):
    callback = tiny.anneal(4)
    callback["init_args"]["attribute"] = "objective.betta"
    error = refuse(
        cli, tmp_path, module="ReflowStudent", coupling=tiny.cached(trained / "pairs"), callbacks=[callback]
    )
    assert "no attribute 'betta'" in error and "it has" in error and "beta, " in error


def test_annealing_the_wrong_module_names_what_exists(cli, tmp_path):
    error = refuse(cli, tmp_path, callbacks=[tiny.anneal(4)])  # a teacher's objective has no beta
    assert "Teacher.objective has no attribute 'beta'" in error


def test_an_empty_or_missing_folder(cli, tmp_path):
    coupling = folder(tmp_path, 0)
    assert "holds no images" in refuse(cli, tmp_path, coupling=coupling)
    (tmp_path / "images").rmdir()
    assert "does not exist" in refuse(cli, tmp_path, coupling=coupling)


def test_a_broken_image_is_named_before_training(cli, tmp_path):
    coupling = folder(tmp_path, 12)
    (tmp_path / "images/7.png").write_bytes(b"not an image")
    assert "7.png is not a readable image" in refuse(cli, tmp_path, coupling=coupling)


def test_images_of_another_resolution(cli, tmp_path):
    error = refuse(cli, tmp_path, coupling=folder(tmp_path, 12, resolution=16))
    assert "8×8 pixels, expected 16×16" in error


def test_a_resolution_that_cannot_be_halved(cli, tmp_path):
    assert "resolution 7 cannot be halved" in refuse(cli, tmp_path, network=tiny.unet(resolution=7))


def test_data_that_the_network_cannot_take(cli, tmp_path):
    network = tiny.unet(resolution=16)
    error = refuse(cli, tmp_path, network=network, data={"noise": tiny.noise(shape=[1, 16, 16])})
    assert "built for images of shape (1, 16, 16), found (1, 8, 8)" in error


def test_a_limit_larger_than_what_exists(cli, tmp_path, trained):
    assert "limit is 5000, but it holds 1797" in refuse(cli, tmp_path, coupling=tiny.digits(limit=5000))
    error = refuse(cli, tmp_path, coupling=tiny.cached(trained / "pairs", limit=21))
    assert "limit is 21, but it holds 20" in error and "--num 21" in error


def test_a_batch_size_that_does_not_divide(cli, tmp_path):
    error = refuse(cli, tmp_path, "--data.batch_size", 9, "--trainer.accumulate_grad_batches", 2)
    assert "batch_size 9" in error and "1 devices × 2 accumulated" in error


def couple(cli, trained, tmp_path, *words):
    last = trained / "teacher/checkpoints/last.ckpt"
    fixed = [
        "--ckpt_path",
        last,
        "--store",
        tmp_path / "pairs",
        "--num",
        20,
        "--shard_size",
        8,
        "--batch_size",
        4,
    ]
    return cli("couple", "-c", trained / "teacher/config.yaml", *fixed, *words)


def test_a_teacher_of_another_shape_leaves_nothing_behind(cli, tmp_path, trained):
    error = couple(cli, trained, tmp_path, "--data.noise.shape", "[1, 16, 16]").error
    assert "(1, 8, 8)" in error and "(1, 16, 16)" in error
    assert not (tmp_path / "pairs").exists()
    assert couple(cli, trained, tmp_path).code == 0  # the mended command works in the same folder


def test_a_full_disk_is_told_before_work_begins(cli, tmp_path, trained):
    error = couple(cli, trained, tmp_path, "--num", 10**15, "--shard_size", 10**12).error
    assert "GB are free" in error and "--x0 seed --x1 float16" in error
    assert (
        couple(cli, trained, tmp_path, "--x0", "seed", "--x1", "float16").code == 0
    )  # what it advises is possible


MIXED = [
    (["--seed", 9], "seeds: [1] there, [9] now"),
    (["--seed", 9, "--num", 24], "seeds: [1] there, [9] now"),
    (["--x1", "uint8"], "x1: float16 there, uint8 now"),
    (["--x0", "seed"], "x0: float16 there, seed now"),
    (["--shard_size", 5], "shard_size: 8 there, 5 now"),
    (
        ["--model.solvers", "{e: {class_path: flowlit.solvers.Euler, init_args: {steps: 3}}}"],
        "solver: class_path flowlit.",
    ),
]


@pytest.mark.parametrize(("words", "found"), few(MIXED, 2))
def test_a_store_is_never_mixed(cli, trained, tmp_path, words, found):
    assert couple(cli, trained, tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "pairs").iterdir()}
    error = couple(cli, trained, tmp_path, *words).error
    assert "already holds other pairs" in error and found in error and "--store" in error
    assert {path.name: path.read_bytes() for path in (tmp_path / "pairs").iterdir()} == before


def test_a_store_never_shrinks(cli, trained, tmp_path):
    assert couple(cli, trained, tmp_path).code == 0
    error = couple(cli, trained, tmp_path, "--num", 12).error
    assert "is to hold, 20 pairs" in error and "--num 12 would lose some" in error and "limit" in error


@pytest.mark.parametrize(
    "words", [["--x0", "uint8"], ["--x1", "seed"], ["--origin", "nosie"], ["--x1", "float64"]]
)
def test_a_wrong_choice_of_couple_is_named(cli, trained, tmp_path, words):
    assert words[1] in couple(cli, trained, tmp_path, *words).error
    assert not (tmp_path / "pairs").exists()


def test_a_store_of_another_teacher_is_refused(cli, trained, tmp_path):
    assert couple(cli, trained, tmp_path).code == 0
    other = tiny.write(tmp_path / "other.yaml", tiny.fit(tmp_path / "other", steps=2))
    assert cli("fit", "-c", other, "--data.seed", 99).code == 0
    last = tmp_path / "other/checkpoints/last.ckpt"
    assert "teacher: " in couple(cli, trained, tmp_path, "--ckpt_path", last).error


def test_couplings_need_the_shape_of_the_noise(cli, trained):
    outcome = cli(
        "couple",
        "-c",
        trained / "teacher/config.yaml",
        "--data.noise",
        "null",
        "--store",
        trained / "never",
        "--untrained",
        "true",
    )
    assert "data.noise" in outcome.error


def test_a_corrupt_shard_is_named(cli, trained, tmp_path):
    assert couple(cli, trained, tmp_path).code == 0
    (tmp_path / "pairs/00000.safetensors").write_bytes(b"torn")
    error = refuse(cli, tmp_path, coupling=tiny.cached(tmp_path / "pairs"))
    assert "00000.safetensors is missing or corrupt" in error and "flowlit couple" in error
