"""Every hostile input ends in one short error that names what was found; none is accepted, none hangs."""

import pytest
from hostile import ROWS
from hostile.row import refusal


@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_it_is_refused_in_one_short_error(row, tmp_path):
    error = refusal(row, tmp_path)
    missing = [word for word in row.words if word not in error]
    assert not missing, f"{missing} not in: {error}"
    assert len(error) < 1500 and error.count("\n") < 6, error


def test_every_row_has_a_name_of_its_own():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
