"""What is printed never ends a command: not a terminal without a character, nor a reader that has gone."""

import io
import os
import subprocess
import sys

import pytest
import tiny
from commandline import REPOSITORY
from matrix import few

from flowlit.commands import main
from flowlit.commands._line.terminal import Steady, steady_output

RECIPE = "experiments/recipes/slimflow_digits.yaml"
QUICK = {
    "help": ["--help"],
    "the help of a command": ["fit", "--help"],
    "a plan": ["pipeline", "-c", RECIPE, "--dry-run", "--root", "nowhere"],
    "an error": ["couplings", "info", "nowhere/→"],
}


def shell(words, redirection="", **env):
    command = f'"{sys.executable}" -m flowlit "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", "-", *words],
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("what", QUICK)
def test_a_terminal_without_a_character_shows_a_plain_sign(what, encoding):
    done = shell(QUICK[what], PYTHONIOENCODING=encoding)
    assert done.returncode == (1 if what == "an error" else 0), done.stderr
    assert b"Traceback" not in done.stderr and b"Encode" not in done.stderr
    if what == "help" and encoding != "cp437":
        assert b"teacher -> couplings -> annealing reflow" in done.stdout


def test_a_locale_without_characters(tmp_path):
    done = shell(QUICK["a plan"], LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0 and b"features" in done.stdout


@pytest.mark.parametrize("flag", ["-E", "-I", "-s"])
def test_a_locale_of_another_encoding_begins_a_process_again_once(flag):
    """``-E`` and ``-I`` ignore PYTHONUTF8."""
    code = (
        "import locale, sys; from flowlit.commands._line.terminal import read_as_utf8; "
        "locale.getencoding = lambda: 'latin-1'; read_as_utf8(); print(sys.flags.utf8_mode, sys.argv[1])"
    )
    code = f"import sys; sys.path.append({str(REPOSITORY)!r}); {code}"
    words = [sys.executable, flag, "-c", code, "word"]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    env.pop("PYTHONUTF8", None)
    done = subprocess.run(words, capture_output=True, env=env, timeout=20, check=True)
    assert done.stdout == b"1 word\n"


@pytest.mark.parametrize("redirection", ["| head -1", "| true", ">&-", "> /dev/full", ">&- 2>&-", "<&- >&-"])
@pytest.mark.parametrize("what", QUICK)
def test_a_reader_that_has_gone_changes_no_exit_code(what, redirection):
    done = shell(QUICK[what], redirection)
    assert done.returncode == (1 if what == "an error" else 0)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert (b"the rest of the output is lost" in done.stderr) == (
        redirection == "> /dev/full" and what != "an error"
    )


@pytest.mark.journey
@pytest.mark.parametrize(
    ("redirection", "encoding"), few([("> /dev/full", "ascii"), ("| true", "utf-8"), ("", "latin-1")], 0)
)
def test_the_report_is_written_before_it_is_printed(tmp_path, redirection, encoding):
    config = tiny.fit(tmp_path / "run", callbacks=[{"class_path": "flowlit.callbacks.Report"}])
    config["trainer"] |= {"limit_val_batches": 1.0, "enable_progress_bar": True}
    path = tiny.write(tmp_path / "e.yaml", config)
    done = shell(["validate", "-c", str(path), "--untrained", "true"], redirection, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "run/metrics.json").exists()


def test_a_closed_output_takes_no_number_that_a_file_gets_later(tmp_path):
    """A file opened as number 1 would receive what a library prints."""
    code = (
        "import os, sys; from flowlit.commands import main; main(['--version'])\n"
        f"file = open({str(tmp_path / 'result')!r}, 'w'); assert file.fileno() > 2; os.write(1, b'noise')"
    )
    subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$0" >&-', code], check=True, cwd=REPOSITORY)
    assert (tmp_path / "result").read_text() == ""


class Full(io.StringIO):
    """A stream whose disk is full after some characters."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, text):
        if self.tell() + len(text) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_lost_output_is_told_once_where_errors_go():
    errors = io.StringIO()
    stream = Steady(Full(5), Steady(errors))
    for text in ("one", "two", "three"):
        assert stream.write(text) == len(text)
    stream.flush()
    assert stream.getvalue() == "one"
    assert errors.getvalue().count("\n") == 1 and "No space left on device" in errors.getvalue()


def test_nothing_is_told_when_errors_are_lost_too():
    Steady(Full(0), Steady(Full(0))).write("text")
    Steady(Full(0)).write("text")


def test_streams_are_as_before_afterwards(monkeypatch):
    for out, err in ((io.StringIO(), io.StringIO()), (None, None)):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with steady_output():
            print("text")
            print("text", file=sys.stderr)
        assert (sys.stdout, sys.stderr) == (out, err)
        assert main(["--version"]) == 0
