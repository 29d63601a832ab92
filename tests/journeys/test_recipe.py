"""Whole runs: killed and resumed, alone and in company. Everything must come out equal to the bit."""

import os
import random
import signal
import time

import pytest
import tiny
import torch
from bombs import bomb
from commandline import in_process
from forks import forked, killed
from matrix import few
from stores import content

pytestmark = pytest.mark.journey
HELPERS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "helpers")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Twenty pairs of an untrained network."""
    root = tmp_path_factory.mktemp("pairs")
    path = tiny.write(
        root / "couple.yaml", {k: v for k, v in couple(root / "store").items() if k != "callbacks"}
    )
    made = in_process("couple", "-c", path)
    assert made.code == 0, made.err
    return root / "store"


def couple(store, **arguments):
    whole = tiny.fit(store.parent / "logs", network=tiny.unet())
    module = whole["model"]
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    size = {"num": 22, "seed": 5, "shard_size": 6, "batch_size": 4, "untrained": True}
    return {
        "seed_everything": 1,
        "model": module,
        "data": {"class_path": "flowlit.modules.FlowDataModule", "init_args": {"noise": tiny.noise()}},
        "trainer": {**trainer, **arguments},
        "store": str(store),
        **size,
    }


# ---------------------------------------------------------------------------------------------------------
# kill, resume


@pytest.mark.parametrize(
    ("module", "dropout", "workers"),
    few([("Teacher", 0.0, 0), ("ReflowStudent", 0.4, 0), ("OneStepStudent", 0.0, 0), ("Teacher", 0.4, 2)], 3),
)
def test_a_killed_fit_ends_as_if_nothing_had_happened(tmp_path, pairs, module, dropout, workers):
    def configuration(root, *more):
        callbacks = [tiny.EMA, {"class_path": "flowlit.callbacks.Gradients"}, *more, tiny.checkpoints(4)]
        if module == "ReflowStudent":
            callbacks.insert(0, tiny.anneal(8))
        coupling = tiny.digits() if module == "Teacher" else tiny.cached(pairs, flip=True)
        data = {"num_workers": workers}
        network = tiny.unet(dropout=dropout)
        content = tiny.fit(root, module, network, coupling, callbacks, steps=11, data=data)
        warm_up = {
            "class_path": "flowlit.schedules.WarmUp",
            "init_args": {"steps": 6, "total": "${trainer.max_steps}"},
        }
        content["model"]["init_args"]["lr_scheduler"] = warm_up
        return tiny.write(root.with_suffix(".yaml"), content)

    assert in_process("fit", "-c", configuration(tmp_path / "whole")).code == 0
    killed("fit", "-c", configuration(tmp_path / "parts", bomb(7)))
    last = tmp_path / "parts/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    resumed = in_process("fit", "-c", configuration(tmp_path / "parts"), "--ckpt_path", last)
    assert resumed.code == 0, resumed.err
    a, b = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert a["global_step"] == b["global_step"] == 11
    assert a["flowlit"]["ema_updates"] == b["flowlit"]["ema_updates"] == 11
    assert tiny.same(a["state_dict"], b["state_dict"])
    moments = [
        {f"{i}.{k}": v for i, s in c["optimizer_states"][0]["state"].items() for k, v in s.items()}
        for c in (a, b)
    ]
    assert tiny.same(*moments)


def test_the_comparison_can_fail(tmp_path):
    for name, seed in (("a", 3), ("b", 4)):
        assert (
            in_process(
                "fit",
                "-c",
                tiny.write(tmp_path / f"{name}.yaml", tiny.fit(tmp_path / name, data={"seed": seed})),
            ).code
            == 0
        )
    a, b = (tiny.weights(tmp_path / name / "checkpoints/last.ckpt") for name in "ab")
    assert not tiny.same(a, b)


def test_a_resumed_run_with_accumulation_sees_the_same_batches(tmp_path):
    def configuration(name, *more):
        seen = {"class_path": "tiny.Seen", "init_args": {"folder": str(tmp_path / name / "seen")}}
        callbacks = [seen, tiny.EMA, *more, tiny.checkpoints(2)]
        content = tiny.fit(tmp_path / name, callbacks=callbacks, steps=5, accumulate_grad_batches=2)
        return tiny.write(tmp_path / f"{name}.yaml", content)

    assert in_process("fit", "-c", configuration("whole")).code == 0
    killed("fit", "-c", configuration("parts", bomb(3)))
    (tmp_path / "parts/seen/0.txt").unlink()
    last = tmp_path / "parts/checkpoints/last.ckpt"
    assert in_process("fit", "-c", configuration("parts"), "--ckpt_path", last).code == 0
    whole, rest = ((tmp_path / name / "seen/0.txt").read_text().splitlines() for name in ("whole", "parts"))
    assert len(whole) == 5 * 8 and rest == whole[2 * 8 :]
    assert tiny.same(
        *(tiny.weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "parts"))
    )


# couple


def test_killed_couplings_go_on_to_the_same_bytes(tmp_path, pairs):
    bomb = [{"class_path": "tiny.KillAfter", "init_args": {"batches": 5}}]
    killed("couple", "-c", tiny.write(tmp_path / "killed.yaml", couple(tmp_path / "store", callbacks=bomb)))
    left = content(tmp_path / "store")
    assert "manifest.json" in left and 1 <= len(left) - 1 < 4
    path = tiny.write(tmp_path / "couple.yaml", couple(tmp_path / "store"))
    stamps = {
        name: (tmp_path / "store" / name).stat().st_mtime_ns for name in left if name != "manifest.json"
    }
    assert in_process("couple", "-c", path).code == 0
    assert content(tmp_path / "store") == content(pairs)
    assert all((tmp_path / "store" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())


def test_couplings_killed_after_the_last_shard_are_finished(tmp_path, pairs):
    bomb = [{"class_path": "tiny.KillAfter", "init_args": {"batches": 7}}]
    killed("couple", "-c", tiny.write(tmp_path / "killed.yaml", couple(tmp_path / "store", callbacks=bomb)))
    for name, shard in content(pairs).items():  # the bomb may go off before the last one is written
        if name != "manifest.json":
            (tmp_path / "store" / name).write_bytes(shard)
    assert content(tmp_path / "store").keys() == content(pairs).keys()
    assert (
        in_process("couple", "-c", tiny.write(tmp_path / "couple.yaml", couple(tmp_path / "store"))).code == 0
    )
    assert content(tmp_path / "store") == content(pairs)


def test_a_finished_store_is_not_made_again(tmp_path, pairs):
    before = times(pairs)
    again = in_process("couple", "-c", tiny.write(tmp_path / "couple.yaml", couple(pairs)))
    assert again.code == 0 and "22 pairs" in again.err
    assert times(pairs) == before


def times(store):
    """When each file of a store was written. The lock, which names its process, is no part of it."""
    return {path.name: path.stat().st_mtime_ns for path in store.iterdir() if path.name != ".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_make_the_same_pairs(tmp_path, pairs, flowlit, processes):
    path = tiny.write(tmp_path / "couple.yaml", couple(tmp_path / "store"))
    words = ["--trainer.devices", processes, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    made = flowlit("couple", "-c", path, *words, cwd=tmp_path)
    assert made.code == 0, made.err
    assert content(tmp_path / "store") == content(pairs)


@pytest.mark.slow
def test_couplings_killed_at_random_moments_end_with_the_same_bytes(tmp_path):
    """Also while a shard or the manifest is being written; what one run finished no other one touches."""
    words = ["--num", 180, "--shard_size", 5, "--batch_size", 3]
    for name in ("whole", "killed"):
        tiny.write(tmp_path / f"{name}.yaml", couple(tmp_path / name))
    assert in_process("couple", "-c", tmp_path / "whole.yaml", *words).code == 0
    moments, store, stamps = random.Random(0), tmp_path / "killed", {}
    for kill in range(4):
        target = 0 if kill == 0 else len(stamps) + moments.randrange(1, 6)
        child = forked("couple", "-c", tmp_path / "killed.yaml", *words)
        limit = time.monotonic() + 120
        while not (store / "manifest.json").exists() or len(list(store.glob("*.safetensors"))) < target:
            assert time.monotonic() < limit, "the fork makes no pairs"
            time.sleep(0.0005)
        time.sleep(moments.random() * 0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        now = {path.name: path.stat().st_mtime_ns for path in store.glob("*.safetensors")}
        assert len(now) < 36 and {name: now[name] for name in stamps} == stamps
        stamps = now
    assert in_process("couple", "-c", tmp_path / "killed.yaml", *words).code == 0
    assert content(store) == content(tmp_path / "whole")
    assert {name: (store / name).stat().st_mtime_ns for name in stamps} == stamps
    assert not list(store.glob(".*.tmp"))


# DDP


@pytest.mark.slow
def test_two_processes_train_together_as_one(tmp_path, flowlit):
    """The ranks share each global batch, keep the same weights, and end with exit code 0."""

    def configuration(name):
        seen = {"class_path": "tiny.Seen", "init_args": {"folder": str(tmp_path / name / "seen")}}
        return tiny.write(
            tmp_path / f"{name}.yaml",
            tiny.fit(tmp_path / name, callbacks=[seen, tiny.EMA, tiny.checkpoints()]),
        )

    assert in_process("fit", "-c", configuration("one")).code == 0
    words = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
    both = flowlit("fit", "-c", configuration("two"), *words, cwd=tmp_path, PYTHONPATH=HELPERS)
    assert both.code == 0, both.err
    images = {
        name: [
            [line.split()[0] for line in path.read_text().splitlines()]
            for path in sorted((tmp_path / name / "seen").iterdir())
        ]
        for name in ("one", "two")
    }
    first, second = images["two"]
    assert len(first) == len(second) == 4 * 4 and not set(first) & set(second)
    assert sorted(first + second) == sorted(images["one"][0])
    noises = [path.read_text().split()[1::2] for path in sorted((tmp_path / "two/seen").iterdir())]
    assert not set(noises[0]) & set(noises[1]), "both ranks drew the same noise"
    assert (
        torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)["flowlit"]["ema_updates"] == 4
    )
