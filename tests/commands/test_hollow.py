"""Names in a YAML with nothing but ``{}`` below them."""

import pytest
import tiny
from commandline import REPOSITORY, in_process

from flowlit.commands._line.hollow import unread

VALUES = {
    "trainer": {"max_steps": 3, "callbacks": [{"class_path": "a.B", "init_args": {"c": 1}}]},
    "data": {"class_path": "b.C", "init_args": {}},
    "model": {
        "class_path": "a.Model",
        "init_args": {"network": {"class_path": "a.Net", "init_args": {"w": 1}}},
    },
}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"trainer": {}},
        {"trainer": {"callbacks": {}}},
        {"model": {"init_args": {}}},
        {"model": {"network": {}}},
        {"model": {"init_args": {"network": {"init_args": {"w": {}}}}}},
        {
            "model": {"init_args": {"network": {"class_path": "a.Other", "init_args": {"depth": {}}}}}
        },  # replaced
        {"trainer": {"callbacks": [{"class_path": "x.B", "init_args": {"c": {}}}]}},
        {"trainer": {"callbacks+": []}},
        {"data": {"noise": {}}},  # no class is given
        {"unknown": 3},  # which jsonargparse refuses by itself
    ],
)
def test_what_a_configuration_has_is_left_alone(content):
    assert unread([content], VALUES) == ""


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"trianer": {}}, "trianer"),
        ({"trainer": {"calbacks": {"a": {"b": {}}}}}, "trainer.calbacks"),
        ({"model": {"init_args": {"network": {"init_args": {"v": {}}}}}}, "model.network.v"),
        ({"model": {"network": {"class_path": "b.Net", "v": {}}}}, "model.network.v"),
        ({"trainer": {"callbacks+": [{"class_path": "B", "init_args": {"d": {}}}]}}, "trainer.callbacks.d"),
    ],
)
def test_what_it_does_not_have_is_named(content, name):
    assert unread([{}, content], VALUES).startswith(f"{name}: no such option")


@pytest.mark.parametrize("words", [("--print_config",), ()])
@pytest.mark.parametrize("command", ["fit", "doctor", "couple"])
def test_every_command_refuses_them(command, words, tmp_path):
    path = tiny.write(tmp_path / "a.yaml", {**tiny.fit(tmp_path / "run"), "trianer": {}})
    outcome = in_process(command, "-c", path, *words)
    assert outcome.code == 2
    assert outcome.error.startswith(
        f"flowlit {command}: error: trianer: no such option; did you mean trainer?"
    )


def test_commands_of_plain_functions_refuse_them(tmp_path):
    path = tiny.write(tmp_path / "a.yaml", {"imagse": {}})
    digits = REPOSITORY / "experiments/reference_digits.yaml"
    error = in_process("reference", "-c", digits, "-c", path, "--vars.root", tmp_path).error
    assert error.startswith("flowlit reference: error: imagse: no such option; did you mean images?")
