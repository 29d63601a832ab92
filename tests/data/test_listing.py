"""Images are found through links, in order, and what is left out is counted."""

import os
import socket
import sys
import zipfile
from pathlib import Path

import pytest
from pictures import into_folder, into_zip

from flowlit.data.listing import MOST_BYTES, Paths, in_words, list_folder, list_zip, sub_folders
from flowlit.errors import FlowlitError


def names(root):
    return [entry.name for entry in list_folder(Path(root)).entries]


def listed_zip(path):
    with zipfile.ZipFile(path) as archive:
        return list_zip(archive, str(path))


def test_names_are_in_the_order_of_paths(tmp_path):
    files = ["b.png", "a/z.png", "a-b/1.png", "a.png", "a/b/c.png", "B/1.png", "é [x].png", "a/b.png"]
    into_folder(tmp_path, dict.fromkeys(files, b""))
    expected = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert names(tmp_path) == [str(path.relative_to(tmp_path)) for path in expected]


def test_links_are_followed(tmp_path):
    into_folder(tmp_path / "elsewhere", {"cats/1.png": b"", "cats/deep/2.png": b"", "3.png": b""})
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "elsewhere/cats", tmp_path / "set/cat")
    os.symlink("../elsewhere/3.png", tmp_path / "set/dog.png")
    os.symlink(tmp_path / "set", tmp_path / "root")
    assert names(tmp_path / "root") == ["cat/1.png", "cat/deep/2.png", "dog.png"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_loop_of_links_is_refused(target, tmp_path):
    into_folder(tmp_path, {"a/b/1.png": b""})
    os.symlink(target, tmp_path / "a/b" / target.replace(".", "x").replace("/", "-"))
    with pytest.raises(FlowlitError, match=r"loop of links"):
        list_folder(tmp_path)


def test_one_folder_by_two_names_is_refused(tmp_path):
    """Two links in each of forty folders would be a million million images."""
    for i in range(40):
        (tmp_path / f"{i}").mkdir()
        for name in ("x", "y"):
            os.symlink(f"../{i + 1}", tmp_path / f"{i}" / name)
    into_folder(tmp_path, {"40/1.png": b""})
    with pytest.raises(FlowlitError, match="are one folder by a link"):
        list_folder(tmp_path / "0")


@pytest.mark.parametrize("target", ["/nowhere/at/all", "itself"])
def test_a_link_to_nothing_is_refused_where_an_image_or_a_class_would_be(target, tmp_path):
    into_folder(tmp_path, {"cat/1.png": b""})
    for name, function in (("gone.png", list_folder), ("dog", sub_folders)):
        os.symlink(name if target == "itself" else target, tmp_path / name)
        with pytest.raises(FlowlitError, match=f"{name} is a link to something that does not exist"):
            function(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("target", ["/nowhere/at/all", "readme"])
def test_another_link_to_nothing_is_left_out(target, tmp_path):
    into_folder(tmp_path, {"1.png": b""})
    for name in ("readme", "notes.txt"):
        os.symlink(target, tmp_path / name)
    assert names(tmp_path) == ["1.png"]
    assert list_folder(tmp_path).left_out == {"without suffix": 1, ".txt": 1}


def test_a_folder_with_the_name_of_an_image(tmp_path):
    into_folder(tmp_path, {"clip.png/0.png": b"", "1.png": b""})
    assert names(tmp_path) == ["1.png", "clip.png/0.png"]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file(kind, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    with socket.socket(socket.AF_UNIX) as end:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        os.mkfifo(path) if kind == "pipe" else end.bind("a.png")
        with pytest.raises(FlowlitError, match=r"a.png is a pipe, socket or device, expected an image"):
            list_folder(tmp_path)


OTHERS = {
    **dict.fromkeys(["1.gif", "b/2.GIF", "3.tif", "notes.txt", "LICENSE", "x.npy", "photo.heic"], ""),
    **dict.fromkeys([".DS_Store", "._a.png", "b/.hidden.png", "Thumbs.db", "@eaDir/a.png"], "hidden"),
    **dict.fromkeys([".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png"], "hidden"),
}


def test_what_is_left_out_is_counted(tmp_path):
    files = dict.fromkeys(["a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", *OTHERS], b"")
    entries, left_out = list_folder(Path(into_folder(tmp_path / "folder", files)))
    listing = listed_zip(into_zip(tmp_path / "a.zip", {**files, "dataset.json": b"", "card.json": b""}))
    assert (
        [entry.name for entry in entries] == listing.names == ["a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp"]
    )
    assert left_out == listing.left_out
    assert in_words(left_out) == "7 hidden, 2 .gif, 1 .tif, 1 .txt, 1 without suffix, 1 .npy, 1 .heic" or (
        left_out == {"hidden": 7, ".gif": 2, ".tif": 1, ".txt": 1, "without suffix": 1, ".npy": 1, ".heic": 1}
    )


def test_nothing_left_out_needs_no_words(tmp_path):
    assert in_words(list_folder(Path(into_folder(tmp_path, {"a.png": b""}))).left_out) == ""


@pytest.mark.parametrize("name", ["../../a.png", "/etc/a.png", "a\\..\\b.png", "./a.png"])
def test_names_in_a_zip_are_only_names(name, tmp_path):
    assert listed_zip(into_zip(tmp_path / "a.zip", {name: b""})).names == [name]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    with pytest.raises(FlowlitError, match=r"a.zip:a.png occurs twice"):
        listed_zip(tmp_path / "a.zip")


def test_encrypted_and_giant_files_in_a_zip():
    class Archive:
        def infolist(self):
            return [self.info]

    archive = Archive()
    archive.info = zipfile.ZipInfo("a.png")
    archive.info.flag_bits = 1
    with pytest.raises(FlowlitError, match="encrypted"):
        list_zip(archive, "a.zip")
    archive.info.flag_bits = 0
    archive.info.file_size = MOST_BYTES + 1
    with pytest.raises(FlowlitError, match="1,073,741,825 bytes unpacked"):
        list_zip(archive, "a.zip")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"")
    assert names(tmp_path) == [name]
    assert Paths(tmp_path, [name])[0] == tmp_path / name


def test_paths_are_a_sequence(tmp_path):
    files = Paths(tmp_path, ["a.png", "é/b.png", "c.png"])
    assert len(files) == 3 and list(files) == [tmp_path / "a.png", tmp_path / "é/b.png", tmp_path / "c.png"]
    assert files[-1] == tmp_path / "c.png" and files[1:] == list(files)[1:] and files.name(1) == "é/b.png"
    with pytest.raises(IndexError):
        files[3]
    assert len(Paths(tmp_path, [])) == 0
    assert files.digest() != Paths(tmp_path, ["a.png", "é/b.pngc", ".png"]).digest()
