"""Kill runs at random moments, for as long as you like, and compare them with undisturbed ones, to the bit.

python tests/helpers/storm.py --minutes 60

Every module, coupling, number of data workers and of accumulated batches in turn; each run is killed (-9), or
told to stop, at moments drawn at random until it is through, and then has to equal the same run left in
peace: weights, averages, moments, schedules, loops, and all that was logged.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import runs
import tiny
from commandline import REPOSITORY, in_process

KINDS = ("teacher", "edm", "reflow", "online", "distill", "classifier")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def part(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"flowlit.{path}", "init_args": arguments}


def experiment(root: Path, kind: str, store: Path, workers: int, accumulated: int) -> Path:
    """A run of 40 steps with five validations."""
    network, coupling, more = tiny.unet(dropout=0.2), tiny.digits(), []
    module = {"distill": "OneStepStudent", "reflow": "ReflowStudent", "online": "ReflowStudent"}.get(
        kind, "Teacher"
    )
    teacher = {
        "teacher": tiny.unet(),
        "solver": part("solvers.Euler", steps=2),
        "noise": tiny.noise(64, seed=4),
    }
    if kind in ("reflow", "distill"):
        coupling = tiny.cached(store, flip=True)
    elif kind == "online":
        coupling = part("couplings.Simulated", **teacher)
    if module == "ReflowStudent":
        more.append(tiny.anneal(30))
    callbacks = [
        *more,
        tiny.EMA,
        part("callbacks.Gradients"),
        part("callbacks.Rollback"),
        tiny.checkpoints(7),
    ]
    if kind != "classifier":
        callbacks = [
            *callbacks,
            part("callbacks.Straightness"),
            *([] if kind == "distill" else [part("callbacks.LossOverTime", bins=4)]),
        ]
    settings = {
        "limit_val_batches": 1.0,
        "val_check_interval": 8 * accumulated,
        "check_val_every_n_epoch": None,
    }
    data = {"num_workers": workers, "noise_batch_size": 4, "overlap": kind == "online" and workers == 0}
    content = tiny.fit(
        root,
        module,
        network,
        coupling,
        callbacks,
        40,
        data,
        **settings,
        accumulate_grad_batches=accumulated,
        log_every_n_steps=3,
    )
    model = content["model"]["init_args"]
    if kind == "edm":
        model["network"] = part("networks.EDM", network=tiny.unet(time_scale=1))
        model["objective"] = part("objectives.EDMLoss")
    elif kind == "distill":
        guided = {"a": part("objectives.Distillation"), "b": part("objectives.FlowGuided", guide=tiny.unet())}
        model["objective"] = part("objectives.Combined", objectives=guided)
    elif kind == "classifier":
        images = {"class_path": "flowlit.data.Digits", "init_args": {"labels": True}}
        content["model"] = part("modules.Classifier", network=part("networks.SmallClassifier"), noise=0.3)
        content["data"]["init_args"]["coupling"] = part("couplings.Independent", images=images)
        content["data"]["init_args"]["validation"] = {**images, "init_args": {"labels": True, "limit": 12}}
        content["trainer"]["callbacks"] = [part("callbacks.Gradients"), tiny.checkpoints(7)]
    model["lr_scheduler"] = part("schedules.WarmUp", steps=10, total=40)
    return tiny.write(root.with_suffix(".yaml"), content)


def start(path: Path, processes: int = 1) -> int:
    """Fit in a fork of this process, which has imported everything, or in several that import it themselves;
    its id.
    """
    if processes > 1:
        words = [
            "fit",
            "-c",
            path,
            "--resume",
            "auto",
            "--trainer.devices",
            processes,
            "--trainer.strategy",
            "ddp",
        ]
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{REPOSITORY}"}
        return subprocess.Popen([sys.executable, "-m", "flowlit", *map(str, words)], env=environment).pid
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = in_process("fit", "-c", path, "--resume", "auto").code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def through(path: Path, takes: float, dice: random.Random, processes: int) -> list[str]:
    """Run to the end in spite of everything; what was done to it."""
    struck = []
    while True:
        child, signum = start(path, processes), dice.choice(SIGNALS)
        if len(struck) < 8:
            time.sleep(
                takes * (dice.uniform(0.6, 1.1) if processes > 1 else dice.random() * dice.random()) + 0.25
            )
            os.kill(child, signum)
        code = finish(child)
        if code == 0:
            return struck
        if (
            code not in (-signum, 128 + signum) and processes == 1
        ):  # which of several was first is a matter of chance
            raise SystemExit(f"{path}: exit code {code} after {signal.Signals(signum).name}")
        struck.append(signal.Signals(signum).name)


def make_store(root: Path) -> Path:
    content = tiny.fit(root / "logs")
    couple = {key: content[key] for key in ("seed_everything", "model")}
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    data = part("datamodule.FlowDataModule", noise=tiny.noise())
    size = {"store": str(root / "store"), "num": 50, "seed": 5, "shard_size": 20, "untrained": True}
    made = in_process(
        "couple", "-c", tiny.write(root / "couple.yaml", {**couple, "data": data, "trainer": trainer, **size})
    )
    assert made.code == 0, made.err
    return root / "store"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--processes", type=int, default=1, help="that train together (ddp)")
    given = options.parse_args()
    os.chdir(REPOSITORY)
    dice, end = random.Random(given.seed), time.monotonic() + 60 * given.minutes
    root = Path(tempfile.mkdtemp(prefix="storm-"))
    store, kills, done, whole = make_store(root), 0, 0, {}
    for kind, workers, accumulated in itertools.cycle(itertools.product(KINDS, (0, 2), (1, 2))):
        if time.monotonic() > end:
            break
        name = f"{kind}-{workers}-{accumulated}"
        if name not in whole:
            began = time.monotonic()
            assert (
                finish(start(experiment(root / name, kind, store, workers, accumulated), given.processes))
                == 0
            ), name
            whole[name] = time.monotonic() - began
        target = root / "stormy"
        struck = through(
            experiment(target, kind, store, workers, accumulated), whole[name], dice, given.processes
        )
        differ = runs.differences(root / name / "checkpoints/last.ckpt", target / "checkpoints/last.ckpt")
        a, b = runs.logged(root / name), runs.logged(target)
        differ += sorted(tag for tag in a.keys() | b.keys() if a.get(tag) != b.get(tag))
        kills, done = kills + len(struck), done + 1
        print(f"{name:18} {len(struck)} stops  {differ or 'equal'}", flush=True)
        if differ:
            raise SystemExit(f"{name} differs after {struck}; see {root}")
        shutil.rmtree(target)
    print(f"{done} runs, stopped {kills} times, all equal to the bit", flush=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
