"""The door to stores: what is printed, and one clear line for every misuse."""

import json
import subprocess
import sys
import time

import pytest
import stores
from commandline import REPOSITORY
from suspects import edit, fill, noise_origin

COMMANDS = ("info", "verify", "merge", "import", "export", "show")


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "pairs", origin=noise_origin(120, seed=11, classes=10), x0="seed", x1="uint8")


def words(command, store, into):
    """A call of a command, with what it needs."""
    return [
        "couplings",
        command,
        store,
        *(["--into", into] if command in ("merge", "import", "export", "show") else []),
    ]


def test_info_tells_what_matters(cli, store):
    shown = cli("couplings", "info", store)
    assert shown.code == 0
    lines = {line.split()[0]: line for line in shown.out.splitlines()}
    assert "120 of 1×8×8" in lines["pairs"] and "NOT FINISHED" not in shown.out
    assert "x0 is noise" in lines["direction"] and "made from noise" in lines["direction"]
    assert "made again from the seed" in lines["x0"]
    assert "uint8" in lines["x1"] and "rounded by 0.00" in lines["x1"] and "at most" in lines["x1"]
    assert "num_classes 10" in lines["labels"] and "balanced" in lines["labels"]
    assert "Philox" in lines["noise"] and "seeds 11" in lines["noise"]
    assert "abc" in lines["teacher"] and "Euler" in lines["solver"]
    assert (
        "7.00 on average" in lines["NFE"] and "3 of 3" in lines["shards"] and lines["flowlit"].endswith("0")
    )
    assert "-1" in lines["range"] or "-0.9" in lines["range"]


def test_info_of_several_stores(cli, store, tmp_path):
    other = fill(tmp_path / "other", 30)
    shown = cli("couplings", "info", store, other)
    assert shown.code == 0 and "120 of 1×8×8" in shown.out and "30 of 1×8×8" in shown.out
    assert shown.out.index(str(store)) < shown.out.index(str(other))


def test_info_is_the_manifest_as_json(cli, store):
    shown = cli("couplings", "info", store, "--json")
    assert json.loads(shown.out) == json.loads((store / "manifest.json").read_text())


@pytest.mark.parametrize("shards", [[], [0], [0, 1, 2]], ids=str)
def test_info_of_an_unfinished_store(cli, tmp_path, shards):
    shown = cli("couplings", "info", fill(tmp_path / "half", shards=shards, finish=False))
    assert shown.code == 0 and "120 of 1×8×8, NOT FINISHED" in shown.out and "of 3 listed" in shown.out


def test_info_needs_no_torch_and_no_shards(store):
    for shard in store.glob("*.safetensors"):
        shard.unlink()
    code = (
        "import sys; from flowlit.commands import main; code = main(['couplings', 'info', sys.argv[1]]); "
        "assert not {'torch', 'numpy', 'lightning'} & set(sys.modules), 'heavy imports'; "
        "sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, store], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 3  # a tenth of that where nothing else runs
    assert "120 of 1×8×8" in done.stdout


def test_help_names_all_commands(cli):
    shown = cli("couplings", "--help")
    assert shown.code == 0 and all(f"\n    {command} " in shown.out for command in COMMANDS)
    for command in COMMANDS:
        assert cli("couplings", command, "--help").code == 0


# misuse


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "import"])
def test_a_folder_without_a_store(cli, tmp_path, command):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "file", "empty"):
        error = cli(*words(command, tmp_path / name, tmp_path / "into")).error
        assert f"no couplings in {tmp_path / name}" in error and "flowlit couple -c" in error
    assert not (tmp_path / "into").exists() and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "import"])
@pytest.mark.parametrize(
    "content", ["", '{"format": "flowlit-coup', "[1, 2]", '"words"', "{}", "\udcff"], ids=repr
)
def test_a_torn_manifest(cli, store, tmp_path, command, content):
    (store / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    error = cli(*words(command, store, tmp_path / "into")).error
    assert "manifest.json is no manifest of couplings" in error and not (tmp_path / "into").exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "import"])
def test_a_store_of_a_newer_flowlit(cli, store, tmp_path, command):
    edit(store, version=99)
    error = cli(*words(command, store, tmp_path / "into")).error
    assert "flowlit-couplings version 99" in error and "install a newer flowlit" in error


def test_a_store_of_an_older_flowlit(cli, store):
    edit(store, version=1)
    error = cli("couplings", "info", store).error
    assert (
        "flowlit-couplings version 1" in error
        and "make the couplings again" in error
        and "newer" not in error
    )


@pytest.mark.parametrize("changes", [{"version": "many"}, {"format": 3}, {"version": None}], ids=str)
def test_a_store_of_an_unknown_format(cli, store, changes):
    edit(store, **changes)
    assert "manifest.json" in cli("couplings", "info", store).error


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "import"])
def test_a_store_of_the_other_direction(cli, store, tmp_path, command):
    edit(store, direction="x0 is data, x1 is noise")
    error = cli(*words(command, store, tmp_path / "into")).error
    assert (
        "'x0 is data, x1 is noise'" in error and "expected 'x0 is noise (t = 0), x1 is data (t = 1)'" in error
    )


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize(
    "key", ["shards", "counts", "shape", "complete", "x1", "noise", "labels", "shard_size", "origin"]
)
def test_a_manifest_that_lacks_something(cli, store, command, key):
    stores.edit_manifest(store, lambda manifest: manifest.pop(key))
    assert "manifest.json" in cli("couplings", command, store).error


@pytest.mark.parametrize("command", ["export", "show"])
def test_an_unfinished_store_is_not_given_away(cli, tmp_path, command):
    half = fill(tmp_path / "half", shards=[0], finish=False)
    assert "not finished (50 of 120 pairs)" in cli(*words(command, half, tmp_path / "into.png")).error


@pytest.mark.parametrize("command", ["merge", "import", "export"])
def test_a_new_folder_must_be_named(cli, store, command):
    outcome = cli("couplings", command, store)
    assert outcome.code == 2 and "--into" in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "wrong", [[], ["infos"], ["info"], ["merge", "--into", "x"], ["info", "a", "--jsn"]], ids=str
)
def test_commands_that_do_not_exist(cli, wrong):
    outcome = cli("couplings", *wrong)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    told = [line for line in outcome.err.splitlines() if "error: " in line]
    assert len(told) == 1 and told[0].startswith("flowlit couplings")


def test_dtypes_that_cannot_be_imported(cli, tmp_path):
    for wrong in (["--x0", "seed"], ["--x1", "float64"], ["--data_range", "0"], ["--shard_size", "many"]):
        outcome = cli("couplings", "import", tmp_path, "--into", tmp_path / "into", *wrong)
        assert outcome.code == 2 and f"argument {wrong[0]}" in outcome.err
