"""One writer at a time, whatever ends it."""

import errno
import fcntl
import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from flowlit._support import locks
from flowlit._support.files import building
from flowlit._support.locks import locked, locked_folder, locked_target, refuse_at_work
from flowlit.errors import FlowlitError

HOLD = """
import os, sys, time
from pathlib import Path
from flowlit._support.locks import locked_folder
with locked_folder(Path(sys.argv[1]), "fit", ""):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print("held", os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    if sys.argv[2] != "fork":
        print("held", os.getpid(), flush=True)
    time.sleep(60)
"""


def holder(folder, how="alone"):
    """A process that holds a folder, and the one that reports it (its fork, if there is one)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline().split()[1])


def test_the_second_is_refused_until_the_first_is_killed(tmp_path):
    first, _ = holder(tmp_path)
    try:
        begun = time.monotonic()
        busy = pytest.raises(FlowlitError, match=rf"{tmp_path}: another fit .*process {first.pid} on .*wait")
        with busy, locked_folder(tmp_path, "fit", "choose another"):
            pass
        assert time.monotonic() - begun < 5
        with pytest.raises(
            FlowlitError, match=rf"another process \(process {first.pid} on .*\) is writing there"
        ):
            refuse_at_work(tmp_path)
    finally:
        first.kill()
        first.wait()
    refuse_at_work(tmp_path)
    with locked_folder(tmp_path, "fit", ""):
        pass


def test_a_fork_does_not_hold_what_its_parent_held(tmp_path):
    """Data workers live on for seconds after their run was killed."""
    first, worker = holder(tmp_path, "fork")
    try:
        first.kill()
        first.wait()
        with locked_folder(tmp_path, "fit", ""):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_another_kind_of_writer_may_work_beside(tmp_path):
    with locked_folder(tmp_path, "fit", ""), locked_folder(tmp_path, "validate", ""):
        pass


def test_nothing_stays_behind(tmp_path):
    with locked_folder(tmp_path / "a/b", "fit", ""):
        assert [path.name for path in (tmp_path / "a/b").iterdir()] == [".fit.lock"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), locked_target(tmp_path / "file"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / ".lock", "", "", keep=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_is_being_made_is_not_made_twice(tmp_path):
    """The second removed the folder that the first was filling."""
    with building(tmp_path / "made") as folder:
        (folder / "file").touch()
        with pytest.raises(FlowlitError, match="another process is making it"), building(tmp_path / "made"):
            pass
    assert (tmp_path / "made/file").exists()


def test_a_lock_that_was_removed_in_between_is_taken_anew(tmp_path, monkeypatch):
    """Its holder removes it at the end, and a third process would lock a new file."""
    file = tmp_path / "x.lock"
    flock = fcntl.flock
    first = []

    def removed(lock, how):
        if not first:
            first.append(True)
            file.unlink()
        return flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", removed)
    with locked(file, "", ""):
        assert file.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, code):
    def fails(lock, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fails)
    warned = pytest.warns(UserWarning, match=f"has no locks .*{os.strerror(code)}")
    with warned, locked_folder(tmp_path, "fit", ""):
        pass


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(FlowlitError, match=r"file cannot be written .*; choose another")
    with refused, locked_folder(tmp_path / "file", "fit", "choose another"):
        pass


def test_a_lock_that_vanishes_holds_nothing_up(tmp_path):
    (tmp_path / ".gone.lock").symlink_to("nowhere")
    (tmp_path / ".folder.lock").mkdir()
    refuse_at_work(tmp_path)


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "uv.lock").write_text("content")
    (tmp_path / ".editor.lock").write_text("content")
    refuse_at_work(tmp_path)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"content"}


def test_patience_is_short():
    assert locks.PATIENCE <= 1


def test_python_says_where_it_runs_where_files_have_no_such_locks(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    monkeypatch.delitem(sys.modules, "flowlit._support.locks")
    with pytest.raises(ImportError, match="run it in WSL"):
        importlib.import_module("flowlit._support.locks")
