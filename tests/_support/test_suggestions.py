"""A misspelt name is met by the one that was meant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlit._support.suggestions import closest, did_you_mean

NAMES = ["--trainer.max_steps", "--resume", "--model.network.width", "flowlit.networks.UNet", "couplings"]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_a_slip_of_the_finger_is_understood(name, data):
    place = data.draw(st.integers(0, len(name) - 2))
    slips = {
        "left out": name[:place] + name[place + 1 :],
        "swapped": name[:place] + name[place + 1] + name[place] + name[place + 2 :],
        "doubled": name[: place + 1] + name[place:],
        "another": name[:place] + "q" + name[place + 1 :],
        "capitals": name.upper(),
    }
    assert closest(data.draw(st.sampled_from(list(slips.values()))), NAMES) == name


@pytest.mark.parametrize(
    ("word", "meant"), [("--max-steps", "--max_steps"), ("--seed", "--seed_everything"), ("c", "cost")]
)
def test_dashes_and_abbreviations(word, meant):
    assert closest(word, ["--max_steps", "--seed_everything", "cost", "fit"]) == meant
    assert did_you_mean(word, [meant]) == f"; did you mean {meant}?"


def test_what_is_like_nothing_gets_no_advice():
    assert did_you_mean("quite something else", NAMES) == did_you_mean("x", []) == ""
