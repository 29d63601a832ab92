"""Runs that go on, and what they write: faults that were found in the hands of others."""

import pytest
import tiny
from commandline import in_process
from watched import rates

TORCH = "torch.optim.lr_scheduler."


def experiment(root, steps, scheduler=None, /, callbacks=(), **arguments):
    """A run of some steps whose learning rates are in <root>.txt."""
    watch = {"class_path": "watched.Rates", "init_args": {"path": f"{root}.txt"}}
    content = tiny.fit(root, callbacks=[tiny.EMA, tiny.checkpoints(), watch, *callbacks], steps=steps)
    if scheduler:
        content["model"]["init_args"]["lr_scheduler"] = {"class_path": scheduler, "init_args": arguments}
    return tiny.write(root.with_suffix(".yaml"), content)


LONGER = [
    (f"{TORCH}CosineAnnealingLR", {"T_max": 4}, {"T_max": 8}),
    (f"{TORCH}OneCycleLR", {"max_lr": 0.01, "total_steps": 5}, {"max_lr": 0.01, "total_steps": 10}),
    ("flowlit.schedules.WarmUp", {"steps": 2, "total": 4}, {"steps": 2, "total": 8}),
]


@pytest.mark.journey
@pytest.mark.parametrize(("scheduler", "before", "now"), LONGER)
def test_a_run_made_longer_goes_on_along_the_longer_schedule(tmp_path, scheduler, before, now):
    """The rate was 0 for all further steps, or rose to the very end; the message said "used"."""
    fresh = experiment(tmp_path / "fresh", 8, scheduler, **now)
    assert in_process("fit", "-c", fresh).code == 0
    run = tmp_path / "run"
    assert in_process("fit", "-c", experiment(run, 4, scheduler, **before)).code == 0
    (tmp_path / "run.txt").unlink()
    longer = in_process("fit", "-c", experiment(run, 8, scheduler, **now), "--resume", "auto")
    assert longer.code == 0 and "(used)" in longer.err, longer.err
    expected = rates(tmp_path / "fresh.txt")
    assert rates(tmp_path / "run.txt") == {step: expected[step] for step in range(4, 8)}


@pytest.mark.journey
def test_a_schedule_that_is_added_or_taken_away_is_told_and_followed(tmp_path):
    """Only differences of what both sides had were printed."""
    run = tmp_path / "run"
    assert in_process("fit", "-c", experiment(run, 4)).code == 0
    added = experiment(run, 6, f"{TORCH}StepLR", step_size=5, gamma=0.5)
    outcome = in_process("fit", "-c", added, "--resume", "auto")
    assert "lr_scheduler.init_args.gamma: the checkpoint had nothing, now 0.5 (used)" in outcome.err
    outcome = in_process("fit", "-c", experiment(run, 8), "--resume", "auto")
    assert "lr_scheduler.init_args.gamma: the checkpoint had 0.5, now nothing (used)" in outcome.err
    found = rates(tmp_path / "run.txt")
    assert list(found.values()) == [1e-3] * 5 + [0.5e-3] + [1e-3] * 2
