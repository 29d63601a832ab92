"""Arrays in files are read as they were written, or refused: any bytes, in bounded memory."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hostile_bytes import bounded, memory_limit, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowlit._support.arrays import Npz, map_npy


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def header(text, version=(1, 0)):
    """Return a .npy file whose header is this text, and whose data are 24 bytes."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text.encode() + bytes(24)


DTYPES = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1", ">f4"])
SHAPES = arrays.array_shapes(min_dims=0, min_side=0, max_side=4)
ARRAYS = DTYPES.flatmap(lambda kind: arrays.arrays(kind, SHAPES))


@given(ARRAYS, st.booleans())
@settings(bounded, max_examples=50)
def test_arrays_come_back_as_they_were_written(tmp_path_factory, array, fortran):
    array = np.asfortranarray(array) if fortran else array
    folder = tmp_path_factory.mktemp("arrays")
    np.save(folder / "a.npy", array)
    np.savez(folder / "a.npz", a=array, b=array)
    np.savez_compressed(folder / "b.npz", a=array)
    for file in ("a.npz", "b.npz"):
        with Npz(folder / file) as archive:
            assert archive.header("a").shape == array.shape and ("b" in archive) == (file == "a.npz")
            again = archive.read("a")
            assert again.dtype == array.dtype and again.shape == array.shape
            assert again.tobytes() == array.tobytes()
    assert np.array(map_npy(folder / "a.npy")).tobytes() == array.tobytes()


HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 3), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (3.0,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 3), }"[:-3],
    "{'descr': '<f8', 'fortran_order': False, 'shape': 3, }",
    "{'descr': '<f8', 'fortran_order': 2, 'shape': (3,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f9', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': None, 'fortran_order': False, 'shape': (3,), }",
    "{'shape': (3,)}",
    "__import__('os').system('true')",
    "(" * 5000,
    "[" * 9000 + "]" * 9000,
    "{" + "'a': 1, " * 3000 + "}",
    "",
    "\0",
]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
@pytest.mark.parametrize("text", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path, text, version):
    (tmp_path / "a.npy").write_bytes(header(text, version))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header(text, version))
    with memory_limit(300), Npz(tmp_path / "a.npz") as archive:
        with pytest.raises(ValueError):
            map_npy(tmp_path / "a.npy")
        for read in (archive.read, archive.header):
            with pytest.raises(ValueError):
                read("a")


@pytest.mark.parametrize("gigabytes", [1, 100])
def test_an_archive_that_grows_a_hundredfold_is_refused(tmp_path, gigabytes):
    """A bomb: zeros take a thousandth of their bytes. The directory may also lie about sizes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({gigabytes << 30},), }}"
    data = header(text)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("a.npy", data + bytes(1 << 20))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    directory = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, directory + 24, min(len(data) + (gigabytes << 30), (1 << 32) - 2))
    (tmp_path / "a.npz").write_bytes(content)
    with memory_limit(300), Npz(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match="would grow"):
        archive.read("a")


@given(mutated(npy(np.arange(6.0).reshape(2, 3))))
@bounded
def test_any_bytes_of_an_array_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(data)
    try:
        np.array(map_npy(path))
    except ValueError as error:
        assert str(error)


def whole_archive():
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(50.0), b=np.array("text"))
    return file.getvalue()


@given(mutated(whole_archive()))
@settings(bounded, max_examples=300)
def test_any_bytes_of_an_archive_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(data)
    try:
        with Npz(path) as archive:
            assert np.array_equal(archive.read("a"), np.arange(50.0))  # a checksum guards every byte
            archive.read("b", "U")
    except ValueError as error:
        assert str(error)


@pytest.mark.timeout(10)
def test_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (Npz, map_npy):
        with pytest.raises(ValueError, match="no plain file"):
            read(tmp_path / "pipe")
        with pytest.raises(OSError):
            read(tmp_path / "nothing")
