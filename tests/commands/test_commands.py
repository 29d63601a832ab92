"""The door: commands, overrides, saved configurations."""

import subprocess
import sys
import time

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins import hparams_mixin
from PIL import Image

from flowlit.commands.lightning import FlowCLI


def printed(outcome):
    assert outcome.code == 0, outcome.err
    return yaml.safe_load(outcome.out)


@pytest.fixture
def teacher(tmp_path):
    """A configuration that writes into tmp_path/run."""
    return tiny.write(tmp_path / "teacher.yaml", tiny.fit(tmp_path / "run"))


def test_help_does_not_import_torch(cli):
    shown = cli("--help")
    assert shown.code == 0
    for command in ("fit", "couple", "validate", "test", "predict", "pipeline"):
        assert f"\n  {command} " in shown.out
    assert cli().out == shown.out
    assert cli("--version").out.startswith("flowlit ")


def test_help_is_instant():
    code = (
        "import sys; from flowlit.commands import main; code = main(['--help']); "
        "assert not {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules), 'heavy imports'; "
        "sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert (
        time.monotonic() - start < 3
    )  # a tenth of that where nothing else runs; torch alone takes two seconds
    assert "usage: flowlit" in done.stdout


def test_the_pipeline_decides_without_torch():
    code = (
        "import sys; from flowlit.commands import main; "
        "code = main(['pipeline', '-c', 'experiments/recipes/slimflow_digits.yaml', '--root', sys.argv[1], "
        "'--dry-run']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "/nonexistent"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_is_two(cli):
    outcome = cli("fitt", "-c", "x.yaml")
    assert outcome.code == 2
    assert outcome.error.startswith("flowlit: error: unknown command 'fitt'")


def test_help_of_a_command_names_its_options(cli):
    shown = cli("couple", "--help")
    assert shown.code == 0
    for option in ("--store", "--num", "--shard_size", "--x0", "--ckpt_path", "--vars"):
        assert option in shown.out
    assert cli("couple", "-h").out == shown.out


def test_help_names_the_command_however_it_was_called():
    shown = subprocess.run(
        [sys.executable, "-m", "flowlit", "predict", "--help"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert shown.stdout.startswith("usage: flowlit "), shown.stderr


def test_print_config_shows_the_file(cli, teacher):
    assert (
        printed(cli("fit", "-c", teacher, "--print_config"))["model"]["init_args"]["network"]["init_args"][
            "width"
        ]
        == 8
    )


def test_every_form_of_override(cli, teacher, tmp_path):
    second = tiny.write(
        tmp_path / "second.yaml", {"data": {"init_args": {"batch_size": 16}}, "trainer": {"max_steps": 5}}
    )
    words = [
        "--model.network.width",
        "12",
        "--model.init_args.network.init_args.blocks=2",
        "--trainer.max_steps",
        "9",
    ]
    words += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.5"]
    words += ["--trainer.callbacks+=flowlit.callbacks.Straightness", "--trainer.callbacks.num=3"]
    found = printed(cli("fit", "-c", teacher, "-c", second, *words, "--print_config"))
    model = found["model"]["init_args"]
    network = model["network"]["init_args"]
    assert (network["width"], network["blocks"], network["multipliers"]) == (12, 2, [1, 2])
    assert found["data"]["init_args"]["batch_size"] == 16  # the second file wins over the first
    assert found["trainer"]["max_steps"] == 9  # the command line wins over both
    assert (
        model["optimizer"]["class_path"] == "torch.optim.SGD" and model["optimizer"]["init_args"]["lr"] == 0.5
    )
    assert model["optimizer"]["init_args"].get("weight_decay", 0) == 0  # nothing leaks from Adam
    last = found["trainer"]["callbacks"][-1]
    assert last["class_path"].endswith("Straightness") and last["init_args"]["num"] == 3
    assert len(found["trainer"]["callbacks"]) == 3


def test_interpolation_follows_an_override_of_its_source(cli, tmp_path):
    content = tiny.fit("${vars.root}/${vars.name}")
    content["vars"] = {"root": str(tmp_path / "a"), "name": "one"}
    content["model"]["init_args"]["lr_scheduler"] = {
        "class_path": "flowlit.schedules.WarmUp",
        "init_args": {"steps": 2, "total": "${trainer.max_steps}"},
    }
    path = tiny.write(tmp_path / "vars.yaml", content)
    outcome = cli("fit", "-c", path, "--vars.root", tmp_path / "b", "--trainer.max_steps", "3")
    assert outcome.code == 0, outcome.err
    saved = yaml.safe_load((tmp_path / "b" / "one" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["lr_scheduler"]["init_args"]["total"] == 3
    assert not (tmp_path / "a").exists()


def test_the_saved_config_replays_to_the_same_weights(cli, teacher, tmp_path):
    words = ["--model.network.width", "12", "--trainer.max_steps", "3"]
    assert cli("fit", "-c", teacher, *words).code == 0
    first = tiny.weights(tmp_path / "run/checkpoints/last.ckpt")
    (tmp_path / "run").rename(tmp_path / "before")
    assert cli("fit", "-c", tmp_path / "before/config.yaml").code == 0
    second = tiny.weights(tmp_path / "run/checkpoints/last.ckpt")
    assert tiny.same(first, second)
    assert first["network.stem.weight"].shape[0] == 12


def test_a_refused_run_leaves_the_record_of_the_one_before(cli, teacher, tmp_path):
    assert cli("fit", "-c", teacher).code == 0
    before = (tmp_path / "run/config.yaml").read_text()
    assert "16" in cli("fit", "-c", teacher, "--data.noise.shape", "[1, 16, 16]").error
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert (
        "another architecture"
        in cli("fit", "-c", teacher, "--model.network.width", 12, "--ckpt_path", last).error
    )
    assert (tmp_path / "run/config.yaml").read_text() == before
    assert (tmp_path / "run/checkpoints/last.ckpt").exists() and not (tmp_path / "run/earlier").exists()


def test_the_checkpoint_does_not_beat_the_command_line(cli, teacher, tmp_path):
    assert cli("fit", "-c", teacher).code == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    again = cli(
        "fit", "-c", teacher, "--ckpt_path", last, "--model.optimizer.lr", "0.125", "--trainer.max_steps", "8"
    )
    assert again.code == 0, again.err
    assert "optimizer.init_args.lr: the checkpoint had 0.001, now 0.125 (used)" in again.err
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.125


def test_changed_options_of_the_optimizer_are_really_used_after_resuming(cli, tmp_path):
    content = tiny.fit(tmp_path / "run")
    warm_up = {"class_path": "flowlit.schedules.WarmUp", "init_args": {"steps": 16}}
    content["model"]["init_args"]["lr_scheduler"] = warm_up
    teacher = tiny.write(tmp_path / "teacher.yaml", content)
    assert cli("fit", "-c", teacher).code == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.rename(tmp_path / "half.ckpt")
    words = ["--model.optimizer.lr", "0.16", "--model.optimizer.betas", "[0.5, 0.6]"]
    outcome = cli(
        "fit", "-c", teacher, "--ckpt_path", tmp_path / "half.ckpt", "--trainer.max_steps", "8", *words
    )
    assert outcome.code == 0, outcome.err
    (group,) = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0.16 * 9 / 16)  # where the warm-up is after 8 steps
    assert tuple(group["betas"]) == (0.5, 0.6)


def test_validate_measures_a_checkpoint(cli, teacher, tmp_path):
    assert cli("fit", "-c", teacher).code == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    words = ["--trainer.limit_val_batches", "1.0", "--trainer.callbacks", "flowlit.callbacks.Report"]
    words += [
        "--trainer.callbacks+=flowlit.callbacks.Straightness",
        "--trainer.callbacks.steps=4",
        "--data.test_num",
        "16",
    ]
    for command in ("validate", "test"):
        outcome = cli(command, "-c", tmp_path / "run/config.yaml", "--ckpt_path", last, *words)
        assert outcome.code == 0, outcome.err
        path = tmp_path / "run" / {"validate": "metrics.json", "test": "metrics_test.json"}[command]
        report = yaml.safe_load(path.read_text())
        assert report["weights"] == "ema" and report["metrics"]["straightness/sum"] > 0
        assert (tmp_path / f"run/config_{command}.yaml").exists()
        path.unlink()


def test_predict_writes_images(cli, teacher, tmp_path):
    assert cli("fit", "-c", teacher).code == 0
    writer = yaml.safe_dump(
        {"class_path": "flowlit.callbacks.ImageWriter", "init_args": {"folder": str(tmp_path / "png")}}
    )
    words = [
        "--trainer.callbacks",
        writer,
        "--data.noise.num",
        "5",
        "--ckpt_path",
        tmp_path / "run/checkpoints/last.ckpt",
    ]
    outcome = cli("predict", "-c", tmp_path / "run/config.yaml", *words)
    assert outcome.code == 0, outcome.err
    files = sorted((tmp_path / "png").iterdir())
    assert [path.name for path in files] == [
        *(f"{i:08d}.png" for i in range(5)),
        "images.csv",
        "images.json",
    ]
    assert all(Image.open(path).size == (8, 8) for path in files[:5])


@pytest.mark.parametrize(
    ("words", "bar"),
    [
        ([], "Progress"),
        (["--trainer.enable_progress_bar", "false"], None),
        (["--trainer.callbacks", "lightning.pytorch.callbacks.TQDMProgressBar"], "TQDMProgressBar"),
    ],
)
def test_the_progress_bar_is_ours_unless_another_or_none_was_asked_for(cli, teacher, monkeypatch, words, bar):
    seen = []
    monkeypatch.setattr(
        "flowlit.commands.trainer.FlowTrainer.fit",
        lambda self, *a, **k: seen.append(self.progress_bar_callback),
    )
    default = [] if "--trainer.enable_progress_bar" in words else ["--trainer.enable_progress_bar", "true"]
    assert cli("fit", "-c", teacher, *default, *words).code == 0
    assert (None if seen[0] is None else type(seen[0]).__name__) == bar


def test_what_we_lean_on_in_lightning_is_still_there():
    for name in ("_parse_ckpt_path", "_instantiate_trainer", "before_instantiate_classes"):
        assert callable(getattr(LightningCLI, name)) and getattr(FlowCLI, name) is not getattr(
            LightningCLI, name
        )
    assert hparams_mixin._given_hyperparameters.get() is None


def test_only_the_command_that_runs_gets_a_parser(cli, teacher, monkeypatch):
    """Parsers of the others took half of the time before a fit began."""
    built = []
    prepare = LightningCLI._prepare_subcommand_parser

    def counted(self, trainer, name, **others):
        built.append(name)
        return prepare(self, trainer, name, **others)

    monkeypatch.setattr(LightningCLI, "_prepare_subcommand_parser", counted)
    assert cli("fit", "-c", teacher, "--print_config").code == 0
    assert built == ["fit"]


def test_help_of_a_command_may_be_named_first(cli):
    assert cli("help", "couple").out == cli("couple", "--help").out
    assert cli("help", "nothing").out == cli("--help").out
