"""References of words of a command line, and of files, that lead somewhere or nowhere."""

import copy

import pytest
import tiny
import yaml
from commandline import REPOSITORY, in_process


@pytest.fixture
def file(tmp_path):
    """A fit with variables."""
    variables = {"root": str(tmp_path), "steps": 3, "width": 8, "none": None, "several": [1]}
    variables |= {"place": "p", "name": "n", "a": 1, "b": 2}
    return tiny.write(tmp_path / "a.yaml", {**tiny.fit("${vars.root}"), "vars": variables})


def printed(file, *words):
    outcome = in_process("fit", "-c", file, *words, "--print_config")
    assert outcome.code == 0, outcome.err
    return yaml.safe_load(outcome.out)


def refused(file, *words):
    return in_process("fit", "-c", file, *words, "--print_config").error


def test_a_word_may_name_what_files_and_other_words_set(file, tmp_path):
    words = ("--vars.root", "${vars.place}/b", "--vars.place=${vars.name}", "--vars.name", "c")
    words += ("--trainer.max_steps", "${vars.steps}", "--model.network.width=${vars.width}")
    config = printed(file, *words, "--data.batch_size", "${trainer.max_steps}")
    assert config["vars"]["root"] == config["trainer"]["logger"]["init_args"]["save_dir"] == "c/b"
    assert config["trainer"]["max_steps"] == config["data"]["init_args"]["batch_size"] == 3
    assert config["model"]["init_args"]["network"]["init_args"]["width"] == 8


def test_plain_functions_take_them_too(tmp_path):
    words = ("--vars.root", tmp_path, "--into", "${vars.root}/y", "--print_config")
    outcome = in_process("reference", "-c", REPOSITORY / "experiments/reference_digits.yaml", *words)
    assert yaml.safe_load(outcome.out)["into"] == f"{tmp_path}/y"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--vars.root", "${vars.root}/x"), "lead back to themselves: vars.root → vars.root"),
        (("--vars.a", "${vars.b}", "--vars.b", "${vars.a}"), "lead back to themselves: vars.b → vars.a"),
        (("--vars.root", "${vars.wdth}"), "${vars.wdth} leads nowhere; did you mean vars.width?"),
        (("--vars.root", "${vars.none}"), "${vars.none} is no text or number"),
        (("--trainer.max_steps", "${vars.several}"), "${vars.several} is no text or number"),
        (("--vars.root", "${model.network.width}"), "write ${model.init_args.network.init_args.width}"),
        (("--trainer.max_steps", "${fit.vars.steps}"), ""),  # as Lightning has it
    ],
)
def test_what_a_word_cannot_have_is_said_and_no_name_suggested_for_itself(file, words, told):
    if not told:
        assert printed(file, *words)["trainer"]["max_steps"] == 3
        return
    error = refused(file, *words)
    assert told in error
    assert "did you mean" not in error or "wdth" in error


def test_a_file_inside_another_cannot_have_its_variables(file, tmp_path):
    content = yaml.safe_load(file.read_text())
    network = copy.deepcopy(content["model"]["init_args"]["network"])
    network["init_args"]["width"] = "${vars.width}"
    tiny.write(tmp_path / "network.yaml", network)
    content["model"]["init_args"]["network"] = "network.yaml"
    error = refused(tiny.write(tmp_path / "b.yaml", content))
    assert "${vars.width} leads nowhere from a file that another one names" in error
    assert "(it is looked for in model.init_args.network)" in error


def test_a_name_without_init_args_is_completed(file, tmp_path):
    content = yaml.safe_load(file.read_text())
    content["vars"]["width"] = "${model.network.width}"
    error = refused(tiny.write(tmp_path / "b.yaml", content))
    assert error.endswith(
        "${model.network.width} leads nowhere; write ${model.init_args.network.init_args.width}\n"
    )
