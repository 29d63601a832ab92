"""A quick look at pairs that have just been made: a few are generated again, two shards are verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_warn

from ...couplings.origins import Origin
from ...couplings.parts import Part
from ...couplings.store.encoding import restored, rounded
from ...couplings.store.plan import Shard
from ...couplings.store.shard import ShardFile
from ...couplings.store.verify import glance
from ...errors import FlowlitError
from ...modules.trial import untouched

PAIRS = 4
"""Pairs that are generated again."""

ALIKE = 0.05
"""Difference of a pair from itself, at most, as root mean square, relative to the pair where that is above 1.

Half precision stays below; rows of other pairs differ by about 1.
"""


def again(
    trainer: pl.Trainer, predictor: Any, origin: Origin, folder: Path, shard: Shard
) -> tuple[int, float]:
    """Generate a few pairs of a shard again; return their number, and their difference from the stored ones.

    Args:
        trainer: whose precision they have.
        predictor: the model that made them, on its device.
        origin: where they begin.
        folder: of the store.
        shard: one that is on the disk.
    """
    places = sorted({round(k * (shard.rows - 1) / (PAIRS - 1)) for k in range(PAIRS)})
    part = Part(shard, *origin.rows([shard.first + place for place in places]))
    file = ShardFile(folder / shard.file)
    with untouched(predictor, predictor.device), trainer.precision_plugin.predict_step_context():
        solved = predictor.predict_step(move_data_to_device(part, predictor.device), 0)
    squares = [torch.zeros((), dtype=torch.float64)]
    for name, end in (("x0", solved.pair.x0), ("x1", solved.pair.x1), ("path", solved.path)):
        if name in file and end is not None:
            rows = torch.from_numpy(file.read(name)[places])
            dtype: Any = str(rows.dtype).removeprefix("torch.")
            stored = restored(rows).double()
            difference = restored(rounded(end.float().cpu(), dtype)).double() - stored
            squares.append(difference.square().mean() / stored.square().mean().clamp_min(1))
    return len(places), float(torch.stack(squares).max().sqrt())


def checked(folder: Path, manifest: dict[str, Any], pairs: int, difference: float) -> str:
    """Return a line on a store that is to be finished.

    Args:
        folder: of the store.
        manifest: that it will have.
        pairs: that were generated again.
        difference: of these from the stored ones, see ``again``.

    Raises:
        FlowlitError: if they are others, or a shard is damaged.
    """
    every = f"flowlit couplings verify {folder}"
    if not difference <= ALIKE:
        raise FlowlitError(
            f"{folder}: {pairs} pairs generated again differ by {difference:.2g} (rms) from the stored ones; "
            "expected the same: does the network or the solver draw random numbers by itself? Mend that, "
            "remove the folder, and run the same command again"
        )
    checks = glance(folder, manifest)
    bad = [check for check in checks if not check.good]
    damaged = [check.found for check in bad if check.name == "files"]
    if damaged:
        raise FlowlitError(f"{folder}: {damaged[0]}; remove it, and run the same command again")
    for check in bad:
        rank_zero_warn(
            f"{folder}: {check.name} {check.found}, expected {check.expected}; is the model trained? All: "
            f"{every}"
        )
    good = f"{len(checks) - len(bad)} of {len(checks)} checks of the first and the last shard are good"
    return f"a quick look: {pairs} pairs generated again are the same, {good}; at all of it: {every}"
