"""What several tests share with ``journeys/test_resume.py``."""

from __future__ import annotations

import pytest
import runs
import tiny
from commandline import in_process

STEPS = 9


def configuration(
    root, module="ReflowStudent", coupling=None, strike=None, workers=0, network=None, every=4, **trainer
):
    callbacks = [tiny.EMA, {"class_path": "flowlit.callbacks.Gradients"}]
    if module != "OneStepStudent":
        callbacks.append({"class_path": "flowlit.callbacks.LossOverTime", "init_args": {"bins": 3}})
    if module == "ReflowStudent":
        callbacks.insert(0, tiny.anneal(8))
    if strike:
        hook, count, signum = strike
        arguments = {"hook": hook, "count": count, "once": str(root) + ".struck", "signum": int(signum)}
        callbacks.append({"class_path": "test_resume.Strike", "init_args": arguments})
    callbacks += [{"class_path": "flowlit.callbacks.Straightness"}, tiny.checkpoints(every)]
    settings = {
        "accumulate_grad_batches": 2,
        "limit_val_batches": 1.0,
        "val_check_interval": 6,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 2,
        **trainer,
    }
    data = {"num_workers": workers, "noise": tiny.noise(6), "noise_batch_size": 3}
    content = tiny.fit(root, module, network, coupling, callbacks, steps=STEPS, data=data, **settings)
    warm_up = {
        "class_path": "flowlit.schedules.WarmUp",
        "init_args": {"steps": 6, "total": "${trainer.max_steps}"},
    }
    content["model"]["init_args"]["lr_scheduler"] = warm_up
    return tiny.write(root.with_suffix(".yaml"), content)


def assert_equal(whole, parts):
    assert runs.differences(whole / "checkpoints/last.ckpt", parts / "checkpoints/last.ckpt") == []
    a, b = runs.logged(whole), runs.logged(parts)
    assert a.keys() == b.keys()
    for tag in a:
        assert a[tag] == b[tag], tag


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole") / "run"
    done = in_process("fit", "-c", configuration(root))
    assert done.code == 0, done.err
    return root
