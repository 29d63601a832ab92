"""Files are whole or absent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from flowlit._support.files import building, reserve, write_figure
from flowlit.errors import FlowlitError


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


def filled(folder, text):
    (folder / "made.txt").write_text(text)


def made(folder):
    """Whether a folder is one that may be replaced."""
    return (folder / "made.txt").is_file()


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path):
    target = tmp_path / "made"
    for text in ("first", "second"):
        with building(target, replaces=made) as folder:
            filled(folder, text)
            assert text == "first" or (target / "made.txt").read_text() == "first"
        assert (target / "made.txt").read_text() == text
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyError("stopped"), OSError("disk full")], ids=repr)
def test_what_fails_leaves_the_folder_before(tmp_path, error):
    target = tmp_path / "made"
    with building(target) as folder:
        filled(folder, "first")
    with pytest.raises((KeyError, FlowlitError), match=str(error)), building(target, replaces=made) as folder:
        filled(folder, "second")
        raise error
    assert (target / "made.txt").read_text() == "first" and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_given_its_name_leaves_the_one_before(tmp_path, monkeypatch):
    target = tmp_path / "made"
    with building(target) as folder:
        filled(folder, "first")
    rename = Path.rename

    def refused(path, name):
        if path.name.endswith(".tmp"):
            raise OSError("no")
        return rename(path, name)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(FlowlitError, match="cannot be written"), building(target, replaces=made) as folder:
        filled(folder, "second")
    assert (target / "made.txt").read_text() == "first" and list(tmp_path.iterdir()) == [target]


KILLED = """
import os, signal, sys
from pathlib import Path
from flowlit._support.files import building

rename = Path.rename
renamed = []

def killing(path, name):
    if len(renamed) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    renamed.append(name)
    return rename(path, name)

Path.rename = killing
with building(Path(sys.argv[1]), replaces=lambda folder: (folder / "made.txt").is_file()) as folder:
    (folder / "made.txt").write_text("second")
"""


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_process_that_is_killed_leaves_one_of_them_whole(tmp_path, renamed):
    """Before the old one has another name, and between the two names."""
    target = tmp_path / "made"
    with building(target) as folder:
        filled(folder, "first")
    child = subprocess.run([sys.executable, "-c", KILLED, target, str(renamed)], check=False)
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(KeyError), building(target, replaces=made):
        assert (target / "made.txt").read_text() == "first", "brought back"
        raise KeyError
    assert (target / "made.txt").read_text() == "first" and list(tmp_path.iterdir()) == [target]


def test_what_is_something_else_is_not_replaced(tmp_path):
    target = tmp_path / "made"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(FlowlitError, match="exists already"), building(target, replaces=made):
        pass
    other = tmp_path / ".made.old"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(FlowlitError, match="exists already"), building(target):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".made.old", "made"]
    assert (other / "mine.txt").exists() and (target / "mine.txt").exists()
