"""All that was logged is there once after a kill: faults that were found in the hands of others."""

import signal

import pytest
import tiny
from commandline import in_process
from forks import killed
from interrupted import assert_equal, configuration

pytestmark = [pytest.mark.journey, pytest.mark.slow]

RECORD = "tensorboard.summary.writer.record_writer.RecordWriter.write"


def interrupted(root, inside=None, **how):
    """A run with a dashboard, that is killed when a function is called for the n-th time."""
    path = configuration(root, coupling=tiny.digits(limit=48), **how)  # validations at the ends of passes
    more = "  - class_path: flowlit.callbacks.Dashboard\n"
    if inside:
        target, count = inside
        arguments = f"{{target: {target}, count: {count}, once: {root}.struck}}"
        more += f"  - {{class_path: interrupted.StrikeInside, init_args: {arguments}}}\n"
    path.write_text(path.read_text().replace("  callbacks:\n", f"  callbacks:\n{more}", 1))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    done = in_process("fit", "-c", interrupted(root))
    assert done.code == 0, done.err
    return root


VALIDATED = "on_validation_batch_end"
WHERE = {
    **{f"record {count}": {"inside": (RECORD, count)} for count in (12, 24, 36, 48)},
    **{f"batch {count}": {"strike": (VALIDATED, count, signal.SIGKILL)} for count in (2, 4, 6)},
    "end": {"strike": ("on_fit_end", 1, signal.SIGKILL)},
}


@pytest.mark.parametrize("where", WHERE)
def test_scalars_of_a_validation_are_there_once_after_a_kill(tmp_path, undisturbed, where):
    path = interrupted(tmp_path / "run", **WHERE[where])
    killed("fit", "-c", path, "--resume", "auto")
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert_equal(undisturbed, tmp_path / "run")
