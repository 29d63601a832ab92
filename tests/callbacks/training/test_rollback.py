"""Gradients that are not finite, losses that explode: repaired, skipped, gone back from, or given up."""

import pytest
import runs
import tiny
import torch
import yaml
from commandline import in_process

from flowlit._engine.loops import scale_learning_rate
from flowlit.callbacks import Gradients
from flowlit.callbacks.training.rollback import trouble

pytestmark = pytest.mark.journey


def poison(**arguments):
    return {"class_path": "poison.Poison", "init_args": arguments}


def rollback(**arguments):
    return {
        "class_path": "flowlit.callbacks.Rollback",
        "init_args": {"window": 1, "spike": 3.0, "bad_steps": 3, **arguments},
    }


def configuration(root, *callbacks, steps=12, gradients=None, every=4, moves=1, **trainer):
    ema = {"class_path": "flowlit.callbacks.EMA", "init_args": {"decay": 0.9, "every": moves}}
    guard = {"class_path": "flowlit.callbacks.Gradients", "init_args": gradients or {}}
    everyone = [ema, guard, *callbacks, tiny.checkpoints(every)]
    return tiny.write(root.with_suffix(".yaml"), tiny.fit(root, callbacks=everyone, steps=steps, **trainer))


def yaml_of(path):
    return yaml.safe_load(path.read_text())


def last(root):
    return torch.load(root / "checkpoints/last.ckpt", weights_only=True)


def test_repaired_steps_are_counted_and_logged(tmp_path):
    root = tmp_path / "run"
    assert in_process("fit", "-c", configuration(root, poison(steps=[2, 5]))).code == 0
    logged = runs.logged(root)
    assert logged["gradients/bad_steps"][11] == 2 and logged["gradients/bad_entries"][11] == 6
    assert all(torch.isfinite(v).all() for v in last(root)["state_dict"].values())


def test_a_skipped_step_leaves_weights_and_moments_alone(tmp_path):
    """The run with a skipped last step equals the run without that step, but for the counters."""
    for name, steps, bad in (("skipped", 5, [4]), ("shorter", 4, [])):
        path = configuration(tmp_path / name, poison(steps=bad), steps=steps, gradients={"nonfinite": "skip"})
        assert in_process("fit", "-c", path).code == 0
    a, b = (last(tmp_path / name) for name in ("skipped", "shorter"))
    network = [key for key in a["state_dict"] if key.startswith("network.")]
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in network)
    moments = [content["optimizer_states"][0]["state"] for content in (a, b)]
    assert all(
        torch.equal(moments[0][i][key], moments[1][i][key]) for i in moments[0] for key in moments[0][i]
    )
    assert a["global_step"] == 5


def test_unknown_ways_of_mending_are_refused(tmp_path):
    path = configuration(tmp_path / "run", gradients={"nonfinite": "ignore"})
    assert "nonfinite" in in_process("fit", "-c", path).error


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"steps": [6], "what": "weights", "value": 30.0}, "the loss is"),
        ({"steps": [6], "what": "weights", "value": float("nan")}, "the loss is not finite"),
        ({"steps": [5, 6, 7], "what": "gradients"}, "3 steps had non-finite gradients"),
    ],
)
@pytest.mark.parametrize("moves", [1, 6])
def test_trouble_goes_back_with_a_lower_learning_rate(tmp_path, what, why, moves):
    """Also to where the average, which moves every so many steps, had not moved yet."""
    root = tmp_path / "run"
    rates = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    path = configuration(root, poison(once=str(tmp_path / "once"), **what), rollback(), rates, moves=moves)
    outcome = in_process("fit", "-c", path)
    assert outcome.code == 0, outcome.err
    assert why in outcome.err and "going back to" in outcome.err and "learning rate × 0.5" in outcome.err
    content = last(root)
    assert content["global_step"] == 12 and content["optimizer_states"][0]["param_groups"][0]["lr"] == 5e-4
    assert all(torch.isfinite(v).all() for v in content["state_dict"].values())
    assert content["callbacks"]["Rollback"]["rollbacks"] == 1 and content["flowlit"]["ema_updates"] == 12


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    root = tmp_path / "run"
    path = configuration(root, poison(steps=[6], what="weights", value=float("inf")))
    assert "is not finite" in in_process("fit", "-c", path).error
    content = last(root)
    assert content["global_step"] == 4 and all(
        torch.isfinite(v).all() for v in content["state_dict"].values()
    )


def test_trouble_before_the_first_checkpoint_goes_back_to_the_first_step(tmp_path):
    root = tmp_path / "run"
    path = configuration(
        root,
        poison(steps=[2], what="weights", value=float("nan"), once=str(tmp_path / "once")),
        rollback(),
        every=100,
    )
    outcome = in_process("fit", "-c", path)
    assert outcome.code == 0 and "going back to" in outcome.err
    assert last(root)["global_step"] == 12


def test_trouble_that_returns_is_given_up(tmp_path):
    root = tmp_path / "run"
    path = configuration(
        root, poison(steps=[6], what="weights", value=float("nan")), rollback(most=2), every=2
    )
    outcome = in_process("fit", "-c", path)
    assert "went back 2 times and did not get past it" in outcome.error
    assert outcome.err.count("going back to") == 2 and "previous.ckpt" in outcome.err
    assert last(root)["global_step"] <= 6


@pytest.mark.slow
def test_a_run_that_went_back_is_killed_and_goes_on_exactly(tmp_path):
    """Learning rate, other draws and the count of rollbacks are part of the state."""
    from bombs import bomb
    from forks import killed

    trap = {"steps": [6], "what": "weights", "value": float("nan")}
    for name in ("whole", "parts"):
        arguments = [poison(once=str(tmp_path / f"{name}.once"), **trap), rollback()]
        if name == "parts":
            path = configuration(tmp_path / name, *arguments, bomb(9, str(tmp_path / "bombed")))
            killed("fit", "-c", path)
            path = configuration(tmp_path / name, *arguments)
            assert in_process("fit", "-c", path, "--resume", "auto").code == 0
        else:
            assert in_process("fit", "-c", configuration(tmp_path / name, *arguments)).code == 0
    assert runs.differences(*(tmp_path / name / "checkpoints/last.ckpt" for name in ("whole", "parts"))) == []


def test_rollback_without_checkpoints_is_refused(tmp_path):
    content = tiny.fit(tmp_path / "run", callbacks=[rollback()], enable_checkpointing=False)
    assert "LastCheckpoint" in in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content)).error


def test_a_loss_is_a_spike_only_beside_what_is_usual():
    assert trouble(100.0, [1.0], spike=5.0) == ""  # too early to tell
    assert trouble(4.9, [1.0] * 4, spike=5.0) == "" and trouble(5.1, [1.0] * 4, spike=5.0)
    assert trouble(float("nan"), [], spike=5.0) and trouble(float("inf"), [], spike=5.0)


def test_healthy_gradients_are_not_changed_by_skipping(tmp_path):
    for name, way in (("a", "repair"), ("b", "skip")):
        assert in_process("fit", "-c", configuration(tmp_path / name, gradients={"nonfinite": way})).code == 0
    assert tiny.same(*(last(tmp_path / name)["state_dict"] for name in "ab"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_two_processes_go_back_together(tmp_path, flowlit, strategy):
    root = tmp_path / "run"
    path = configuration(
        root, poison(steps=[6], what="weights", value=float("nan")), rollback(most=1), every=2
    )
    outcome = flowlit(
        "fit",
        "-c",
        path,
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        strategy,
        PYTHONPATH=str(runs.HELPERS),
    )
    assert (
        outcome.code == 1 and "went back 1 times" in outcome.err and outcome.err.count("going back to") == 1
    )


def test_callbacks_state_of_gradients_round_trips():
    callback = Gradients()
    callback.load_state_dict({"bad_entries": 7, "bad_steps": 2})
    assert callback.state_dict() == {"bad_entries": 7, "bad_steps": 2, "clipped": {}}


@pytest.mark.slow
def test_every_rollback_lowers_the_rate_further(tmp_path):
    """Also if no checkpoint was written in between: the second one only went back to the rate of the
    first.
    """
    root = tmp_path / "run"
    rates = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    trap = poison(steps=[6, 7, 8], what="weights", value=float("nan"), once=str(tmp_path / "once"))
    outcome = in_process("fit", "-c", configuration(root, trap, rollback(most=3), rates, every=100))
    assert outcome.code == 0, outcome.err
    assert (
        "rate × 0.5 (1 of 3)" in outcome.err
        and "rate × 0.25 (2 of 3)" in outcome.err
        and "rate × 0.125 (3 of 3)" in outcome.err
    )
    assert last(root)["optimizer_states"][0]["param_groups"][0]["lr"] == 1.25e-4


def test_schedulers_of_schedulers_and_cycles_are_lowered_too():
    network = torch.nn.Linear(2, 2)
    for make in (
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 20),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
                torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
            ],
            [4],
        ),
    ):
        rates = []
        for factor in (1.0, 0.5):
            optimizer = torch.optim.Adam(network.parameters(), 0.1)
            schedule = make(optimizer)
            for _ in range(2):
                optimizer.step()
                schedule.step()
            content = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
            scale_learning_rate(content, factor)
            again = torch.optim.Adam(network.parameters(), 0.1)
            later = make(again)
            again.load_state_dict(content["optimizer_states"][0])
            later.load_state_dict(content["lr_schedulers"][0])
            rates.append([])
            for _ in range(8):
                again.step()
                later.step()
                rates[-1].append(again.param_groups[0]["lr"])
        assert rates[1] == pytest.approx([rate / 2 for rate in rates[0]])


def test_a_run_that_diverges_without_rollback_says_so(tmp_path):
    """It was an error of the solver."""
    settings = {"limit_val_batches": 1.0, "val_check_interval": 8, "check_val_every_n_epoch": None}
    content = yaml_of(
        configuration(
            tmp_path / "run", poison(steps=[7], what="weights", value=float("nan")), every=100, **settings
        )
    )
    content["model"]["init_args"]["solvers"] = {"rk45": {"class_path": "flowlit.solvers.RK45"}}
    content["trainer"]["callbacks"] = [
        c for c in content["trainer"]["callbacks"] if "LastCheckpoint" not in c["class_path"]
    ]
    content["trainer"]["enable_checkpointing"] = False
    error = in_process("fit", "-c", tiny.write(tmp_path / "x.yaml", content)).error
    assert "step 8: training has diverged" in error and "Rollback" in error
