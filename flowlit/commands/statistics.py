"""``flowlit statistics``: what DPM-Solver-v3 has to measure on a network before it can generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlowlitError
from ..ranges import Float, PositiveFloat, PositiveInt, Seed
from .convert import check_target

if TYPE_CHECKING:
    from ..generators import Generator


FEWEST = 32
"""Images at least: from 4 of our digits the solver went astray, from 32 on its ends hardly changed."""


def statistics(
    model: str,
    *,
    into: Path,
    num: PositiveInt = 512,
    nodes: PositiveInt = 120,
    margin: PositiveFloat = 0.02,
    guidance: Float | None = None,
    seed: Seed = 0,
    batch: PositiveInt = 128,
    weights: str = "ema",
    device: str | None = None,
) -> list[str]:
    """Estimate a teacher's statistics for DPMSolverV3, from images that it generates by itself.

    They are those of this network and this guidance alone. The cost is 5 · num · nodes evaluations, and 17
    for each image. The same noise serves all nodes, without which their roughness would limit the solver.

    Args:
        model: a run's folder, or a checkpoint
        into: the file to write, .safetensors
        num: images (K), at least 32: the line through fewer is noise, and the solver diverges
        nodes: of the grid in the log-SNR (n), at least 8
        margin: distance of the grid's ends to t = 0 and 1
        guidance: scale of classifier-free guidance; without it by default
        seed: of the noise
        batch: images at a time
        weights: ema, raw, or the name of another average
        device: as cuda; the CPU by default

    Raises:
        FlowlitError: if the model has no weights or shape, or ``into`` exists or is being made.
    """
    from .._support.locks import locked_target

    check_target(into, "safetensors")
    if num < FEWEST:
        raise FlowlitError(
            f"--num is {num}; expected {FEWEST} images at least, since statistics of fewer are noise"
        )
    if nodes < 8 or margin >= 0.5:
        raise FlowlitError(f"expected --nodes >= 8 and --margin < 0.5, found {nodes} and {margin}")
    with locked_target(into):
        return _statistics(model, into, num, nodes, margin, guidance, seed, batch, weights, device)


def _statistics(
    model: str,
    into: Path,
    num: int,
    nodes: int,
    margin: float,
    guidance: float | None,
    seed: int,
    batch: int,
    weights: str,
    device: str | None,
) -> list[str]:
    import torch

    from .._support.progress import Bar
    from ..generators import load
    from ..generators.inputs import check_reads_noise
    from ..networks import ClassifierFreeGuidance
    from ..networks.statistics import owner, write
    from ..solvers.model_statistics import estimate

    generator = load(model, weights, device=device)
    check_reads_noise(generator.network, "statistics")
    network = generator.network if guidance is None else ClassifierFreeGuidance(generator.network, guidance)
    network.eval()
    fingerprint, scale = owner(network)
    with torch.no_grad():
        samples = _samples(generator, network, num, seed, batch)
        coefficients = estimate(
            network,
            lambda: iter(samples),
            nodes,
            margin,
            lambda times: Bar(times, desc="Statistics", unit=" nodes", leave=False),  # type: ignore[arg-type,return-value]
        )
    facts = {"network": fingerprint, "guidance": scale, "nodes": nodes, "num": num, "seed": seed}
    write(into, coefficients, facts)
    size = into.stat().st_size / 1e6
    return [
        f"{into}: {size:.1f} MB, {num:,} images at {nodes} nodes",
        f"solver: {{class_path: DPMSolverV3, init_args: {{steps: 8, statistics: {{class_path: "
        f"flowlit.networks.StoredStatistics, init_args: {{path: {into}}}}}}}}}",
    ]


def _samples(generator: Generator, network: Any, num: int, seed: int, batch: int) -> list[Any]:
    """Return noise, images that it becomes, signs, and conditions, each (B, …), in batches."""
    return list(_batches(generator, network, num, seed, batch))


def _batches(generator: Generator, network: Any, num: int, seed: int, batch: int) -> Iterator[Any]:
    import torch

    from ..couplings.noise import seeded_normals
    from ..generators.sampling import noise_shape
    from ..solvers import Adams

    shape = noise_shape(generator)
    solver = Adams(16)
    for first in range(0, num, batch):
        rows = range(first, min(first + batch, num))
        z = seeded_normals([seed] * len(rows), rows, shape).to(generator.device)
        fresh = seeded_normals([seed + 1 if seed < 2**64 - 1 else 0] * len(rows), rows, shape).to(z.device)
        label = torch.tensor([i % max(generator.num_classes or 1, 1) for i in rows], device=z.device)
        cond = {"label": label} if generator.num_classes else {}
        # the path needs noise that is independent of the image, and so another than the image is made from
        yield fresh, solver(network, z, cond).x1, torch.sign(seeded_normals_like(fresh, seed, rows)), cond


def seeded_normals_like(like: Any, seed: int, rows: range) -> Any:
    """Return further draws of N(0, 1) like a tensor (B, C, H, W), of a seed's rows."""
    from ..couplings.noise import seeded_normals

    other = seed + 2 if seed < 2**64 - 2 else 1
    return seeded_normals([other] * len(rows), rows, tuple(like.shape[1:])).to(like.device)
