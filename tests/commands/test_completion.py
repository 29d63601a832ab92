"""Scripts of ``flowlit completion``, run by the shells that they are for."""

import re
import shutil
import subprocess

import pytest

from flowlit.commands import COMMANDS, help_file
from flowlit.commands.completion import completion, options
from flowlit.commands.couplings import COMMANDS as STORES

PLACES = [(name, "") for name in COMMANDS if name != "couplings"] + [("couplings", part) for part in STORES]
TYPED = [" ".join(place).strip() for place in PLACES]


def run(shell, *lines):
    """Return what a shell prints that reads its script before some lines; skip where there is none."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    quiet = {"fish": ["--no-config"], "zsh": ["-f"], "bash": ["--norc"]}[shell]
    script = "\n".join(lines)
    done = subprocess.run([shell, *quiet, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout


def offered(*typed):
    """Return what bash offers for the last word of each of some lines, as a list of sets."""
    lines = [completion("bash")]
    for line in typed:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        lines.append(f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _flowlit")
        lines.append("printf '%s ' \"${COMPREPLY[@]}\"; echo")
    return [set(line.split()) for line in run("bash", *lines).splitlines()]


def completed(words):
    return offered(" ".join(words))[0]


def fish(*typed):
    """Return what fish offers for each of some lines."""
    lines = [completion("fish")]
    for line in typed:
        lines += [f"complete -C '{line}'", "echo END"]
    parts = run("fish", *lines).split("END\n")[:-1]
    return [{row.split("\t")[0] for row in part.splitlines()} for part in parts]


def test_commands_are_completed():
    assert completed(["flowlit", ""]) == {*COMMANDS, "--help", "-h", "--version"}
    assert completed(["flowlit", "cou"]) == {"couple", "couplings"}


def test_bash_offers_every_option_of_every_command():
    lists = offered(*(f"flowlit {line} -" for line in TYPED))
    assert lists == [set(options(*place)) for place in PLACES]


def test_bash_offers_the_commands_below_a_command():
    assert completed(["flowlit", "couplings", ""]) == {*STORES, "--help", "-h"}
    assert completed(["flowlit", "couplings", "info"]) == {"info"}


def test_fish_offers_every_command_and_option():
    shown = fish("flowlit ", "flowlit couplings ", *(f"flowlit {line} -" for line in TYPED))
    assert shown[0] == set(COMMANDS) and set(STORES) <= shown[1]
    expected = [set(options(*place)) for place in PLACES]
    for line, found, words in zip(TYPED, shown[2:], expected, strict=True):
        assert found == words, line


def test_fish_takes_words_for_what_they_are():
    """A folder called test was taken for the command."""
    (shown,) = fish("flowlit images test --")
    assert "--resolution" in shown and "--trainer.devices" not in shown


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_options_are_all_that_help_shows(place, cli):
    shown = cli(*filter(None, place), "--help").out
    words = {
        word
        for row in re.findall(r"^  (-[^ ].*)$", shown, re.M)
        for word in re.findall(r"(?:^|, )(--?[\w.+]+)", row)
    }
    assert words == set(options(*place))
    assert {"-h", "--help"} <= words


def test_options_are_those_of_the_command():
    assert "--trainer.max_steps" in completed(["flowlit", "fit", "--trainer.max"])
    assert completed(["flowlit", "average", "--in"]) == {"--into"}
    assert "--dry_run" in completed(["flowlit", "pipeline", "-c", "x.yaml", "--"])
    assert "--vars" in options("sample") and "-c" not in options("list")
    assert help_file("fit").exists() and {"-c", "--config"} <= set(options("fit"))


def test_files_are_completed_where_no_option_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert completed(["flowlit", "fit", "-c", "mi"]) == {"mine.yaml"}
    assert "mine.yaml" in fish("flowlit fit -c mi")[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_its_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(completion(shell))
    ready = "autoload -U compinit && compinit -u && " if shell == "zsh" else ""
    command = [shell, "-c", f"{ready}source {tmp_path / 'script'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_says_what_commands_do():
    lines = completion("fish").splitlines()
    assert all(any(f"-a {name} -d" in line for line in lines) for name in COMMANDS)


def test_zsh_offers_every_option_of_every_command():
    """Its functions are those of bash, which it runs by bashcompinit."""
    lines = ["autoload -U compinit && compinit -u -D", completion("zsh")]
    typed = ["flowlit ", *(f"flowlit {line} -" for line in TYPED)]
    for line in typed:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        lines.append(f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; CURRENT={len(words)}")
        lines.append("compgen -F _flowlit; echo END")
    first, *lists = (set(part.split()) for part in run("zsh", *lines).split("END\n")[:-1])
    assert first == {*COMMANDS, "--help", "-h", "--version"}
    assert lists == [set(options(*place)) for place in PLACES]
