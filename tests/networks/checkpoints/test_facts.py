"""The facts in a file of weights are sound, or refused in one line that names the field."""

import json

import pytest
import torch
from commandline import REPOSITORY
from hostile_bytes import altered, as_json, bounded, ends_well
from hypothesis import given
from safetensors import safe_open

from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.facts import FACTS

OLD = REPOSITORY / "tests/golden/before_move"
GOOD = torch.load(OLD / "teacher/checkpoints/last.ckpt", weights_only=True, map_location="cpu")["flowlit"]


def test_facts_of_older_files_are_sound():
    facts = FACTS.check(GOOD, "file")
    assert facts.ema_updates == 4 and facts.averages["power"].profile == "flowlit.averages.PowerLaw"
    for path in (OLD / "teacher/snapshots").iterdir():
        with safe_open(path, "pt") as file:
            text = file.metadata()["flowlit"]
        assert FACTS.parse(text, path) == json.loads(text)
    assert FACTS.check({}, "file").step == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "version: Expected str"),
        ({"network": []}, "network: Expected object"),
        ({"network": {"class_path": 3}}, "network.class_path"),
        ({"solver": {"class_path": "a.B", "init_args": [1]}}, "solver.init_args: Expected object"),
        ({"codec": "Pixels"}, "codec: Expected object"),
        ({"ema_updates": -1}, "ema_updates: Expected int >= 0"),
        ({"ema_updates": 2.5}, "ema_updates: Expected int"),
        ({"ema_updates": torch.ones(3)}, "ema_updates: Expected int"),
        ({"ema": {"updates": "4"}}, "ema.updates: Expected int"),
        ({"averages": ["power"]}, "averages: Expected object"),
        ({"averages": {"power": {"updates": -4}}}, "updates: Expected int >= 0"),
        ({"averages": {3: {}}}, "Expected str"),
        ({"step": None}, "step: Expected int"),
        ({"weights": ["ema"]}, "weights: Expected str"),
    ],
)
def test_the_fact_that_lies_is_named(change, words):
    with pytest.raises(FlowlitError, match=words):
        FACTS.check({**GOOD, **change}, "file")


@given(altered(GOOD))
@bounded
def test_any_facts_are_sound_or_refused_in_one_line(value):
    ends_well(lambda: FACTS.parse(as_json(value), "file"))
