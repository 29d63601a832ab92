"""The state of a stage is what was written, or none: a damaged one lets the stage run again."""

import json

import pytest
from hostile_bytes import VALUES, altered, as_json, bounded, mutated, places, replaced
from hypothesis import given
from PIL import Image

from flowlit.commands.pipeline.state import read_state, write_state
from flowlit.commands.pipeline.summary import draw_samples, format_table, read_rows, summarise
from flowlit.errors import FlowlitError
from flowlit.metrics.report import records

GOOD = {
    "key": "0123456789abcdef",
    "done": True,
    "seconds": 1.5,
    "result": "0.1",
    "content": {"command": "fit"},
    "inputs": {"photos": "3 files"},
}


def test_a_state_comes_back_as_it_was_written(tmp_path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, GOOD)
    assert read_state(tmp_path) == GOOD
    older = {key: value for key, value in GOOD.items() if key != "inputs"}
    write_state(tmp_path, older)
    assert read_state(tmp_path) == older


def test_a_key_cannot_name_another_folder(tmp_path):
    """It becomes part of the name of the folder that a stage is put aside in."""
    for key in ("../../etc", "/", "", "0123456789abcdef/..", "0123456789ABCDEF", None, 3):
        write_state(tmp_path, {**GOOD, "key": key})
        assert read_state(tmp_path) is None


@given(altered(GOOD))
@bounded
def test_any_state_is_read_or_none(tmp_path_factory, state):
    folder = tmp_path_factory.getbasetemp() / "stage"
    folder.mkdir(exist_ok=True)
    (folder / "stage.json").write_bytes(as_json(state))
    state = read_state(folder)
    assert state is None or (state["key"] == GOOD["key"] and isinstance(state["done"], bool))


@given(mutated(as_json(GOOD)))
@bounded
def test_any_bytes_are_a_state_or_none(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "stage"
    folder.mkdir(exist_ok=True)
    (folder / "stage.json").write_bytes(data)
    read_state(folder)


REPORT = {
    "format": "flowlit-metrics",
    "version": 2,
    "params": 10,
    "metrics": {"fid/euler": 3.5, "nfe/euler": 1.0, "images_per_s/euler": 5.0, "straightness/sum": None},
}


@pytest.mark.parametrize("place", list(places(REPORT)), ids=str)
def test_a_report_gives_a_row_or_one_clear_error(tmp_path, place):
    (tmp_path / "a").mkdir()
    table = [{"stage": "a", "model": "m", "solver": "euler"}]
    for value in VALUES:
        (tmp_path / "a/metrics.json").write_bytes(as_json(replaced(REPORT, place, value)))
        try:
            (row,) = read_rows(tmp_path, table)
        except FlowlitError as error:
            assert "has no complete metrics for solver 'euler'" in str(error) and len(str(error)) < 1500
        else:
            assert format_table([row])


def test_the_table_has_the_distance_and_no_half_or_extrapolation_of_it(tmp_path):
    """Tags are sorted, and frechet_extrapolated_own comes before frechet_own."""
    tags = {"frechet_extrapolated_own/euler": 1.0, "frechet_own/euler": 2.0, "frechet_own_half/euler": 3.0}
    (tmp_path / "a").mkdir()
    metrics = {"fid_extrapolated/euler": 4.0, **tags, "frechet_own/other": 5.0}
    report = {**REPORT, "metrics": {**metrics, "nfe/euler": 1.0, "images_per_s/euler": 5.0}}
    (tmp_path / "a/metrics.json").write_bytes(as_json(report))
    (row,) = read_rows(tmp_path, [{"stage": "a", "model": "m", "solver": "euler"}])
    assert (row["frechet"], row["features"]) == (2.0, "own")
    (found,) = records("metrics.json", report | {"metrics": metrics | {"frechet_own/other": None}})
    assert [(kind.name, each.value) for kind, each in found.distances.items()] == [("frechet_own", 2.0)]


def test_samples_that_are_missing_or_torn_are_one_error(tmp_path):
    (tmp_path / "a/samples").mkdir(parents=True)
    table = [{"stage": "a", "model": "m", "solver": "euler"}]
    path = tmp_path / "a/samples/euler.png"
    for write in (lambda: None, lambda: path.write_bytes(b"no picture")):
        write()
        with pytest.raises(FlowlitError, match=r"euler\.png cannot be read"):
            draw_samples(tmp_path, table)
    Image.new("RGB", (8, 8)).save(path)
    assert draw_samples(tmp_path, table).height > 8


def test_a_summary_that_cannot_be_drawn_leaves_the_last_one(tmp_path):
    (tmp_path / "a/samples").mkdir(parents=True)
    (tmp_path / "a/metrics.json").write_bytes(as_json(REPORT))
    (tmp_path / "summary.json").write_text("before")
    table = [{"stage": "a", "model": "m", "solver": "euler"}]
    with pytest.raises(FlowlitError, match="cannot be read"):
        summarise(tmp_path, table, {})
    assert (tmp_path / "summary.json").read_text() == "before"
    Image.new("RGB", (8, 8)).save(tmp_path / "a/samples/euler.png")
    summarise(tmp_path, table, {})
    assert json.loads((tmp_path / "summary.json").read_text())[0]["model"] == "m"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "samples.png", "summary.json"]


def test_states_are_plain_json(tmp_path):
    write_state(tmp_path, GOOD)
    assert json.loads((tmp_path / "stage.json").read_text()) == GOOD
