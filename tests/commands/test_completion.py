"""Scripts of ``flowlit completion``, run by the shells that they are for."""

import shutil
import subprocess

import pytest

from flowlit.commands import COMMANDS
from flowlit.commands.completion import completion, options


def completed(words):
    """What bash offers for the last of the words, after the script was sourced."""
    script = (
        completion("bash")
        + f"""
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
        _flowlit; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_commands_are_completed():
    assert completed(["flowlit", ""]) == list(COMMANDS)
    assert completed(["flowlit", "cou"]) == ["couple", "couplings"]


def test_options_are_those_of_the_command():
    assert "--trainer.max_steps" in completed(["flowlit", "fit", "--trainer.max"])
    assert completed(["flowlit", "average", "--in"]) == ["--into"]
    assert "--dry_run" in completed(["flowlit", "pipeline", "-c", "x.yaml", "--"])


def test_commands_below_a_command():
    assert {"info", "verify", "merge"} <= set(completed(["flowlit", "couplings", ""]))
    assert completed(["flowlit", "couplings", "import", "--tea"]) == ["--teacher"]


def test_files_are_completed_where_no_option_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert completed(["flowlit", "fit", "-c", "mi"]) == ["mine.yaml"]


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


def test_fish_offers_commands_with_what_they_do():
    lines = completion("fish").splitlines()
    assert all(any(f"-a {name} -d" in line for line in lines) for name in COMMANDS)
    assert any("__fish_seen_subcommand_from fit' -l trainer.max_steps" in line for line in lines)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "couplings"])
def test_every_command_has_options(name):
    assert "-c" in options(name)
