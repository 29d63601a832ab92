"""``flowlit share``: a folder for the Hugging Face hub, with a model card of what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FlowlitError
from ...ranges import PositiveInt, Seed

if TYPE_CHECKING:
    from ...generators import Generator


def share(
    checkpoint: str,
    *,
    into: Path | None = None,
    push: str = "",
    private: bool = False,
    name: str = "",
    licence: str = "",
    weights: str = "ema",
    num: PositiveInt = 64,
    seed: Seed = 0,
) -> Iterator[str]:
    """Write a folder for the Hugging Face hub, or upload one: weights, configuration, samples, model card.

    The card has what the run and those beside it have recorded: data, recipe, and the measurements of these
    very weights with their protocol. flowlit.load reads the folder, and the model by its id.

    Args:
        checkpoint: a run's folder or a checkpoint; to upload alone, a folder that this command wrote
        into: folder to write, which must not exist
        push: upload it as this model of the hub, user/name; needs flowlit[hub] and a token
        private: make the model private, if it is new
        name: of the model in its card; that of the folder by default
        licence: of the weights, as the hub spells it, e.g. apache-2.0; the card says unknown by default
        weights: ema, raw, or the name of another average
        num: samples in the card
        seed: of the samples

    Raises:
        FlowlitError: if there is nothing to do, the folder exists, or the hub cannot be reached or refuses.
    """
    from ...generators.hub import upload

    if into is None and not push:
        raise FlowlitError("share needs --into FOLDER to write one, or --push user/name to upload it")
    folder = Path(checkpoint) if into is None else into
    if into is not None:
        yield from _written(checkpoint, into, push, name or into.resolve().name, licence, weights, num, seed)
    if push:
        _check_loads(folder)
        yield f"{upload(folder, push, private)}  flowlit.load({push!r})"


def _written(
    checkpoint: str, into: Path, push: str, name: str, licence: str, weights: str, num: int, seed: int
) -> Iterator[str]:
    from ..._support.files import building
    from ..._support.formatting import size
    from ...generators import load
    from .card import card
    from .configuration import configuration, encoded
    from .recorded import recorded

    generator = load(checkpoint, weights)
    records = recorded(generator.network, checkpoint)
    with building(into) as folder:
        generator.save(folder / "model.safetensors")
        again = load(folder / "model.safetensors")  # what is shown is what others will load
        sampled = _draw(again, folder / "samples.png", num, seed)
        (folder / "config.json").write_bytes(encoded(configuration(again)))
        text = card(again, records, name=name, model=push or "user/name", licence=licence, samples=sampled)
        (folder / "README.md").write_text(text, encoding="utf-8")
    files = sorted(into.iterdir())
    total = size(sum(file.stat().st_size for file in files))
    count = len(records.reports)
    measured = f"{count} report{'s' * (count != 1)} of these weights"
    yield f"{into}: {', '.join(file.name for file in files)}, {total}; {measured}"


def _draw(generator: Generator, path: Path, num: int, seed: int) -> str:
    """Write a grid of samples; return in words what it shows, or why there is none."""
    try:
        generator.grid(num, seed=seed).save(path)
    except FlowlitError as error:  # of what needs an image to begin with, or has many channels
        return f"No samples: {error}"
    return f"Samples 0 to {num - 1} of seed {seed}"


def _check_loads(folder: Path) -> None:
    """Refuse to upload what others could not load."""
    from ...generators import load

    if folder.is_dir() and (folder / "model.safetensors").is_file():
        load(folder / "model.safetensors")
