"""Variables of several files: later files replace them one by one."""

import pytest
import tiny
import yaml
from commandline import REPOSITORY, in_process

from flowlit.commands._line.items import with_vars


def printed(*words):
    outcome = in_process("fit", *words, "--print_config")
    assert outcome.code == 0, outcome.err
    return yaml.safe_load(outcome.out)


@pytest.fixture
def files(tmp_path):
    """A fit of ``root`` and ``steps``, and files that change a variable each."""
    content = {**tiny.fit("${vars.root}"), "vars": {"root": str(tmp_path / "run"), "steps": 3}}
    content["trainer"]["max_steps"] = "${vars.steps}"
    others = {
        "more": {"steps": 7},
        "root": {"root": "elsewhere"},
        "own": {"own": 5},
        "none": {},
        "null": None,
    }
    for name, variables in others.items():
        tiny.write(tmp_path / f"{name}.yaml", {"vars": variables})
    tiny.write(tmp_path / "first.yaml", content)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        ("first more", (), {"steps": 7}),
        ("first more root", (), {"steps": 7, "root": "elsewhere"}),
        ("first own", (), {"own": 5}),
        ("first none", (), {}),
        ("first null", (), {}),
        ("more first", (), {}),
        ("first more", ("--vars.steps", 9), {"steps": "9"}),  # a word stays text
        ("first more", ("--vars.root", "007"), {"steps": 7, "root": "./007"}),
        (
            "first more none root",
            ("--vars.own", 3, "--vars.root", "x"),
            {"steps": 7, "root": "x", "own": "3"},
        ),
    ],
)
def test_later_files_replace_variables_one_by_one(files, names, options, expected):
    if "--vars.own" in options:
        names += " own"
    words = [word for name in names.split() for word in ("-c", files / f"{name}.yaml")]
    config = printed(*words, *options)
    whole = {"root": str(files / "run"), "steps": 3, **expected}
    assert config["vars"] == whole
    assert config["trainer"]["max_steps"] == int(whole["steps"])
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == whole["root"]


def test_plain_functions_read_them_alike(files, monkeypatch):
    digits = REPOSITORY / "experiments/reference_digits.yaml"
    error = in_process("reference", "-c", digits, "-c", files / "own.yaml", "--vars.root", "nowhere").error
    assert "nowhere/features/checkpoints/last.ckpt does not exist" in error


def test_words_with_one_file_are_left_alone():
    for contents in ([], [{}], [{"vars": {"a": 1}}], [{"vars": {"a": 1}}, {}]):
        assert with_vars(["fit", "-c", "a.yaml"], contents) == ["fit", "-c", "a.yaml"]
    words = with_vars(["fit", "--config=a", "-cb", "--vars.a", "3"], [{"vars": {"a": 1}}, {"vars": None}])
    assert words == ["fit", "--config=a", "-cb", "--config", '{"vars": {"a": 1}}', "--vars.a", "3"]


def test_numbers_that_are_not_finite_stay_numbers(files):
    tiny.write(files / "large.yaml", {"vars": {"a": float("inf"), "b": [float("-inf")]}})
    words = ("-c", files / "first.yaml", "-c", files / "large.yaml")
    assert printed(*words)["vars"] == {**printed(*words[:2])["vars"], "a": float("inf"), "b": [float("-inf")]}
