"""Files are whole or absent."""

import os

import pytest
from matplotlib.figure import Figure
from PIL import Image

from flowlit._support.files import reserve, write_figure


class Torn(Figure):
    """A figure that fails while it is being written."""

    def savefig(self, file, **options):
        file.write(b"half a picture")
        raise RuntimeError("no font")


def test_a_figure_is_written_in_the_format_of_its_ending(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50)
    for name, form, size in (
        ("a.png", "PNG", (100, 50)),
        ("b.jpg", "JPEG", (100, 50)),
        ("c", "PNG", (100, 50)),
    ):
        write_figure(tmp_path / name, figure)
        with Image.open(tmp_path / name) as image:
            assert image.format == form and image.size == size
    write_figure(tmp_path / "a.png", figure, dpi=120)
    assert Image.open(tmp_path / "a.png").size == (240, 120)
    with pytest.raises(ValueError, match="words"):
        write_figure(tmp_path / "d.words", figure)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.jpg", "c"]


def test_a_figure_that_cannot_be_drawn_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.png"
    write_figure(path, Figure(figsize=(2, 1)))
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="no font"):
        write_figure(path, Torn())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_space_is_reserved_where_the_system_can(tmp_path, monkeypatch):
    """macOS has no posix_fallocate."""
    path = tmp_path / "a"
    with open(path, "wb") as file:
        file.write(b"head")
        file.truncate(1 << 20)
    assert path.stat().st_blocks * 512 < 1 << 20
    with monkeypatch.context() as patch:
        patch.delattr(os, "posix_fallocate")
        reserve(path)
    reserve(path)
    assert path.stat().st_blocks * 512 >= path.stat().st_size == 1 << 20
    assert path.read_bytes()[:5] == b"head\0"
