"""Texts that look like numbers stay texts; every value of a YAML is within reach of the command line."""

import pytest
import tiny
import yaml
from commandline import in_process

from flowlit.commands._line.items import with_items
from flowlit.commands._line.words import as_folder, with_text_root
from flowlit.commands.pipeline.recipe import Recipe

NAMES = [
    "20251105",
    "007",
    "1e5",
    "no",
    "null",
    "~",
    "[a]",
    "{x}",
    "0x10",
    "12:30",
    "1_000",
    "true",
    "2025-11-05",
    ".5",
]


def printed(*words):
    outcome = in_process(*words, "--print_config")
    assert outcome.code == 0, outcome.err
    return yaml.safe_load(outcome.out)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    content = tiny.fit("${vars.root}", network=tiny.unet(width="${vars.width}"))
    content["trainer"]["logger"]["init_args"]["name"] = "${vars.root}_1"
    content["trainer"]["logger"]["init_args"]["version"] = "${vars.version}"
    variables = {"root": "runs/a", "width": 8, "version": "v", "more": [1]}
    return tiny.write(tmp_path_factory.mktemp("words") / "a.yaml", {"vars": variables, **content})


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_named_by_a_date(config, name):
    logger = printed("fit", "-c", config, "--vars.root", name)["trainer"]["logger"]["init_args"]
    assert logger["save_dir"] in (name, f"./{name}")
    assert logger["name"] in (f"{name}_1", f"./{name}_1")


@pytest.mark.parametrize("name", NAMES)
def test_a_root_of_a_pipeline_is_text(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "a.yaml", {"a": 1})
    stages = {"s": {"command": "fit", "config": "a.yaml", "writes": "s/x"}}
    path = tiny.write(tmp_path / "r.yaml", {"root": "elsewhere", "stages": stages})
    monkeypatch.setattr("flowlit.commands.pipeline.check.check_configurations", lambda *plans: None)
    assert in_process("pipeline", "-c", path, "--root", name, "--dry-run").code == 0
    recipe = Recipe.read(str(path), name)
    words = recipe.stages[0].arguments(recipe.root)
    assert recipe.root.name == name and with_text_root(words)[4] == as_folder(name)


def test_variables_are_numbers_where_numbers_are_read(config):
    words = ["--vars.width", "12", "--vars.version", "7"]
    content = printed("fit", "-c", config, *words)
    assert content["model"]["init_args"]["network"]["init_args"]["width"] == 12
    assert content["trainer"]["logger"]["init_args"]["version"] == 7


def test_a_root_that_is_a_number_in_a_file_says_how_to_write_it(config, tmp_path):
    content = yaml.safe_load(config.read_text())
    content["vars"]["root"] = 20251105
    error = in_process("fit", "-c", tiny.write(tmp_path / "a.yaml", content)).error
    assert "vars.root is 20251105" in error and "root: './20251105'" in error


@pytest.mark.parametrize("word", ["007", "010", "12:30"])
def test_a_number_that_is_not_what_was_typed_is_refused(config, word):
    error = in_process("fit", "-c", config, "--trainer.logger.version", word).error
    assert f"--trainer.logger.version {word} is read as the number" in error
    assert "v" + word in error


def test_a_number_with_leading_zeros_is_refused(config):
    error = in_process("fit", "-c", config, "--trainer.log_every_n_steps", "010").error
    assert "--trainer.log_every_n_steps 010 is read as the number 10" in error
    content = printed("fit", "-c", config, "--trainer.log_every_n_steps", "10", "--vars.version", "007")
    assert content["trainer"]["log_every_n_steps"] == 10 and content["vars"]["version"] == "007"


def test_items_of_lists_are_overridden(config):
    words = ["--trainer.callbacks.0.decay", "0.5", "--trainer.callbacks.1.every_n_train_steps=7"]
    more = ["--model.optimizer.betas.1", "0.75", "--model.network.multipliers.0", "3"]
    content = printed("fit", "-c", config, *words, *more, "--trainer.callbacks+", "flowlit.callbacks.Samples")
    first, second, third = content["trainer"]["callbacks"]
    assert first["init_args"]["decay"] == 0.5 and second["init_args"]["every_n_train_steps"] == 7
    assert third["class_path"] == "flowlit.callbacks.Samples"
    assert content["model"]["init_args"]["optimizer"]["init_args"]["betas"] == [0.9, 0.75]
    assert content["model"]["init_args"]["network"]["init_args"]["multipliers"] == [3, 2]


def test_items_come_from_the_last_file_that_lists_them():
    files = [{"a": [1, 2, 3]}, {"b": 1}, {"a": [4, 5]}, {"a+": [6]}]
    words = with_items(["fit", "-c", "1", "-c", "2", "--a.2", "9", "--b.0", "1", "--x"], files)
    assert words == ["fit", "-c", "1", "-c", "2", "--config", '{"a": [4, 5, "9"]}', "--b.0", "1", "--x"]


@pytest.mark.parametrize("file", [["-c", "a"], ["--config", "a"], ["--config=a"], ["-c=a"], ["-ca"]])
def test_items_stand_after_the_files_and_before_other_options(file):
    words = with_items(["fit", *file, "--a.0", "9", "--b", "5"], [{"a": [1]}])
    assert words == ["fit", *file, "--config", '{"a": ["9"]}', "--b", "5"]


def test_items_are_found_through_init_args_and_names_of_classes():
    files = [{"m": {"class_path": "a.B", "init_args": {"l": ["c.D", {"class_path": "c.E"}]}}}]
    words = with_items(["-c", "1", "--m.l.0.x", "1", "--m.l.1.y.z", "[2]"], files)
    assert yaml.safe_load(words[3]) == {
        "m": {
            "init_args": {
                "l": [
                    {"class_path": "c.D", "init_args": {"x": "1"}},
                    {"class_path": "c.E", "init_args": {"y": {"z": [2]}}},
                ]
            }
        }
    }
