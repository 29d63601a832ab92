"""The door to stores: ``flowlit couplings info | verify | merge | import | export | show``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..couplings.store.manifest import describe, read_manifest
from ..errors import FlowlitError

Arguments = argparse.Namespace


def main(argv: Sequence[str]) -> int:
    """Run one command on stores; return its exit code."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def info(arguments: Arguments) -> int:
    """Print what stores say of themselves; reads manifests only."""
    for store in arguments.store:
        manifest = read_manifest(store)
        print(json.dumps(manifest, indent=1) if arguments.json else describe(store, manifest))
    return 0


def verify(arguments: Arguments) -> int:
    """Check every byte and the statistics; 1 if something is wrong."""
    from ..couplings.store.verify import verify

    good = True
    for store in arguments.store:
        checks = verify(store)
        widths = [max(len(str(check[i])) for check in checks) for i in (0, 2)]
        print(store)
        for check in checks:
            mark = "ok   " if check.good else "WRONG"
            print(
                f"  {mark}  {check.name.ljust(widths[0])}  {check.expected.ljust(widths[1])}  found: "
                f"{check.found}"
            )
        good &= all(check.good for check in checks)
    return 0 if good else 1


def merge(arguments: Arguments) -> int:
    """Put several stores into a new one."""
    from ..couplings.store.merge import merge

    manifest = merge(arguments.store, arguments.into, flowlit=__version__)
    print(f"{manifest['count']:,} pairs of {len(arguments.store)} stores in {arguments.into}")
    return 0


def import_(arguments: Arguments) -> int:
    """Take pairs from another project, and check what came of them."""
    from ..couplings.store.importing import import_pairs
    from ..couplings.store.verify import verify

    manifest = import_pairs(
        _sources(arguments),
        arguments.into,
        arguments.teacher,
        arguments.x0,
        arguments.x1,
        arguments.shard_size,
        arguments.num_classes,
        imported=[str(path) for path in arguments.path],
        flowlit=__version__,
    )
    if wrong := [check for check in verify(arguments.into) if not check.good]:
        found = "; ".join(f"{check.name}: {check.found}, expected {check.expected}" for check in wrong)
        raise FlowlitError(
            f"{arguments.into} was imported, but does not look like pairs ({found}). Swapped ends: --swap; "
            "seeds of a zip: --seeds, and --device cuda if the images were made on a GPU. Remove the store "
            "before importing again"
        )
    print(f"{manifest['count']:,} pairs in {arguments.into}")
    return 0


def _sources(arguments: Arguments) -> list:
    from ..couplings.store.foreign import PairFolder, SeededZip
    from ..couplings.store.importing import find_folders

    paths = [Path(path) for path in arguments.path]
    zipped = paths[0].suffix == ".zip"
    if zipped and len(paths) > 1:
        raise FlowlitError(f"import one zip at a time, found {len(paths)}; merge the stores afterwards")
    foreign = [
        flag
        for flag, (default, for_zip) in OPTIONS.items()
        if for_zip != zipped and getattr(arguments, flag) != default
    ]
    if foreign:
        raise FlowlitError(
            f"--{foreign[0]} is for {'folders' if zipped else 'zips'}, {paths[0]} is none; drop it"
        )
    if zipped:
        return [SeededZip(paths[0], _seeds(arguments.seeds), arguments.device, arguments.labels)]
    folders = [folder for path in paths for folder in find_folders(path)]
    low, high = arguments.data_range
    return [PairFolder(folder, arguments.swap, (low, high)) for folder in folders]


OPTIONS = {
    "swap": (False, False),
    "data_range": ((-1.0, 1.0), False),
    "seeds": (None, True),
    "device": ("cpu", True),
    "labels": (False, True),
}
"""Default of an option of import, and whether it is for zips."""


def _seeds(text: str | None) -> Sequence[int] | None:
    """Read 0-9 as range(10), anything else as a file."""
    from ..couplings.origins import read_labels

    if text is None:
        return None
    first, dash, last = text.partition("-")
    return (
        range(int(first), int(last) + 1)
        if dash and first.isdigit() and last.isdigit()
        else read_labels(text, "seeds")
    )


def export(arguments: Arguments) -> int:
    """Give pairs back in the layouts of other projects."""
    from ..couplings.store.exporting import export_folder, export_zip

    (export_zip if arguments.into.endswith(".zip") else export_folder)(arguments.store, arguments.into)
    print(arguments.into)
    return 0


def show(arguments: Arguments) -> int:
    """Draw pairs and histograms."""
    from ..couplings.store.picture import show

    into = arguments.into or f"{arguments.store.rstrip('/')}.png"
    show(arguments.store, into, arguments.seed)
    print(into)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowlit couplings", description="Look at stores of pairs, join and exchange them."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable, text: str, *options: tuple[str, dict], **first: Any) -> None:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("path" if name == "import" else "store", **{"help": "folder of couplings", **first})
        for flag, settings in options:
            sub.add_argument(flag, **settings)

    folder: tuple[str, dict] = ("--into", {"required": True, "help": "a new folder"})
    as_json: tuple[str, dict] = ("--json", {"action": "store_true", "help": "the whole manifest"})
    command("info", info, "what a store says of itself", as_json, nargs="+")
    command(
        "verify", verify, "check files, counts, indices, noise, correlation, range and direction", nargs="+"
    )
    command("merge", merge, "several stores of one teacher as one", folder, nargs="+")
    command("import", import_, "pairs of other projects", *IMPORT, nargs="+", help=SOURCES)
    command(
        "export",
        export,
        "z0.npy, z1.npy, label.npy; or the data as PNG files, if --into ends in .zip",
        folder,
    )
    command("show", show, "a PNG of pairs and histograms of their lengths", *SHOW)
    return parser


SOURCES = "folders with z0.npy and z1.npy, or folders of such (one a seed); or one zip of images"


IMPORT: list[tuple[str, dict]] = [
    (
        "--into",
        {
            "required": True,
            "help": "the store to write; the same folders, and then more with higher seeds, add to it",
        },
    ),
    ("--teacher", {"default": "unknown", "help": "who made them, in words"}),
    ("--x0", {"choices": ("float32", "float16"), "default": "float16", "help": "how noise is stored"}),
    (
        "--x1",
        {"choices": ("float32", "float16", "uint8"), "default": "float16", "help": "how data is stored"},
    ),
    ("--shard_size", {"type": int, "default": 1000, "help": "pairs per file"}),
    ("--num_classes", {"type": int, "help": "if not all classes occur in the labels"}),
    ("--swap", {"action": "store_true", "help": "folders: z0 is the data, z1 the noise"}),
    (
        "--data_range",
        {"type": float, "nargs": 2, "default": (-1.0, 1.0), "help": "folders: values of black and white"},
    ),
    (
        "--seeds",
        {
            "help": (
                "zip: A-B, or a file with one a line, in the order of names; by default the numbers in "
                "their names"
            )
        },
    ),
    ("--device", {"default": "cpu", "help": "zip: where the noise was drawn (cpu or cuda)"}),
    ("--labels", {"action": "store_true", "help": "zip: read classes from its dataset.json"}),
]


SHOW: list[tuple[str, dict]] = [
    ("--into", {"help": "the PNG; beside the store by default"}),
    ("--seed", {"type": int, "default": 0, "help": "which pairs are drawn"}),
]
