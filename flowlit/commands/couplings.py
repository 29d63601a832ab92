"""``flowlit couplings``: look at stores of pairs, join and exchange them."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from .._version import __version__
from ..couplings.store.manifest import describe, read_manifest
from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveInt, Seed


def info(store: list[str], *, json: bool = False) -> Iterator[str]:
    """Print what stores contain and who made them; only manifests are read.

    Args:
        store: folders of couplings
        json: the whole manifest
    """
    for folder in store:
        manifest = read_manifest(folder)
        yield json_.dumps(manifest, indent=1) if json else describe(folder, manifest)


def verify(store: list[str]) -> Iterator[str]:
    """Check files, counts, indices, noise, correlation, range and direction; exit code 1 if one is wrong.

    Args:
        store: folders of couplings
    """
    from ..couplings.store.verify import verify as checks_of

    good = True
    for folder in store:
        checks = checks_of(folder)
        widths = [max(len(str(check[i])) for check in checks) for i in (0, 2)]
        yield folder
        for check in checks:
            mark = "ok   " if check.good else "WRONG"
            expected = check.expected.ljust(widths[1])
            yield f"  {mark}  {check.name.ljust(widths[0])}  {expected}  found: {check.found}"
        good &= all(check.good for check in checks)
    if not good:
        raise SystemExit(1)


def merge(store: list[str], *, into: str) -> str:
    """Put several stores of one teacher into a new one.

    Args:
        store: folders of couplings
        into: a new folder
    """
    from ..couplings.store.merge import merge as merge_stores

    manifest = merge_stores(store, into, flowlit=__version__)
    return f"{manifest['count']:,} pairs of {len(store)} stores in {into}"


def import_pairs(
    path: list[str],
    *,
    into: str,
    teacher: str = "unknown",
    x0: Literal["float32", "float16"] = "float16",
    x1: Literal["float32", "float16", "uint8"] = "float16",
    shard_size: PositiveInt = 1000,
    num_classes: NonNegativeInt | None = None,
    swap: bool = False,
    data_range: tuple[float, float] = (-1.0, 1.0),
    seeds: str | None = None,
    device: str = "cpu",
    labels: bool = False,
) -> str:
    """Take pairs from another project, and check the store that they make.

    Args:
        path: folders with z0.npy and z1.npy, or folders of such (one a seed); or one zip of images
        into: the store to write; the same folders, and then more with higher seeds, add to it
        teacher: who made them, in words
        x0: how noise is stored
        x1: how data is stored
        shard_size: pairs per file
        num_classes: if not all classes occur in the labels
        swap: folders: z0 is the data, z1 the noise
        data_range: folders: values of black and white
        seeds: zip: A-B, or a file with one a line, in the order of names; by default the numbers in
            their names
        device: zip: where the noise was drawn (cpu or cuda)
        labels: zip: read classes from its dataset.json
    """
    from ..couplings.store import foreign, importing

    low, high = data_range
    if _is_zip(path):
        _refuse("folders", path[0], swap=swap, data_range=(low, high) != (-1.0, 1.0))
        sources: list[Any] = [foreign.SeededZip(Path(path[0]), _seeds(seeds), device, labels)]
    else:
        _refuse("zips", path[0], seeds=seeds is not None, device=device != "cpu", labels=labels)
        folders = [folder for given in path for folder in importing.find_folders(Path(given))]
        sources = [foreign.PairFolder(folder, swap, (low, high)) for folder in folders]
    origin = {"imported": [str(given) for given in path], "flowlit": __version__}
    manifest = importing.import_pairs(sources, into, teacher, x0, x1, shard_size, num_classes, **origin)
    _check_imported(into)
    return f"{manifest['count']:,} pairs in {into}"


def _check_imported(store: str) -> None:
    """Refuse a new store whose noise or data do not look like that.

    Raises:
        FlowlitError: naming what differs, and the options that usually mend it.
    """
    from ..couplings.store.verify import verify as checks_of

    wrong = [check for check in checks_of(store) if not check.good]
    if wrong:
        differences = "; ".join(f"{check.name}: {check.found}, expected {check.expected}" for check in wrong)
        raise FlowlitError(
            f"{store} was imported, but does not look like pairs ({differences}). Swapped ends: --swap; "
            "seeds of a zip: --seeds, and --device cuda if the images were made on a GPU. Remove the store "
            "before importing again"
        )


def _is_zip(paths: list[str]) -> bool:
    zipped = Path(paths[0]).suffix == ".zip"
    if zipped and len(paths) > 1:
        raise FlowlitError(f"import one zip at a time, found {len(paths)}; merge the stores afterwards")
    return zipped


def _refuse(kind: str, path: str, **given: bool) -> None:
    """Refuse options that are for the other kind of source.

    Raises:
        FlowlitError: naming the first of them.
    """
    for option in (option for option, is_given in given.items() if is_given):
        raise FlowlitError(f"--{option} is for {kind}, {path} is none; drop it")


def _seeds(text: str | None) -> Sequence[int] | None:
    """Read 0-9 as range(10), anything else as a file."""
    from ..couplings.labels import read_labels

    if text is None:
        return None
    first, dash, last = text.partition("-")
    if dash and first.isdecimal() and last.isdecimal() and max(len(first), len(last)) < 19:
        return range(int(first), int(last) + 1)
    return read_labels(text, "seeds")


def export(store: str, *, into: str) -> str:
    """Write pairs as z0.npy, z1.npy, label.npy; or only the data, as PNG files, if --into ends in .zip.

    Args:
        store: folder of couplings
        into: a new folder, or a new zip
    """
    from ..couplings.store.exporting import export_folder, export_zip

    write = export_zip if into.endswith(".zip") else export_folder
    write(store, into)
    return into


def show(store: str, *, into: str | None = None, seed: Seed = 0) -> str:
    """Draw pairs, and histograms of their lengths, as a PNG.

    Args:
        store: folder of couplings
        into: the PNG; beside the store by default
        seed: which pairs are drawn
    """
    from ..couplings.store.picture import show as draw

    picture = into or f"{store.rstrip('/')}.png"
    draw(store, picture, seed)
    return picture


COMMANDS = {
    "info": info,
    "verify": verify,
    "merge": merge,
    "import": import_pairs,
    "export": export,
    "show": show,
}
