"""``flowlit arena``: all recorded runs of a benchmark in one table, one plot and one sheet of samples."""

from __future__ import annotations

from collections.abc import Iterator

from ...ranges import PositiveInt


def arena(
    folder: str,
    *,
    into: str = "",
    records: str = "",
    features: str = "",
    nfe: PositiveInt | None = None,
    markdown: bool = False,
) -> Iterator[str]:
    """Gather the runs of several methods and seeds into one table, one plot and one sheet of samples.

    Each run is the root of a pipeline: FOLDER/<method>/<seed>. What a method took is counted where its
    trainings have the callback TrainingCost; pairs that it made are evaluations without gradient. A run that
    is not finished is named below the table. Written are arena.json, arena.png and samples.png.

    Args:
        folder: of the runs, <method>/<seed> in it
        into: folder for the results; that of the runs by default
        records: folder that gets what the table is made of, JSON and samples, to make it again
        features: whose distance counts, where reports have several
        nfe: evaluations for an image of the rows that are printed; all by default
        markdown: print the table for a document
    """
    from pathlib import Path

    from ..._support.files import write_atomically, write_figure
    from ..pipeline.summary import draw_sheet
    from .plot import plot
    from .record import encode
    from .records import keep_records
    from .rows import compare
    from .runs import find_runs
    from .table import format_table

    target = Path(into or folder)
    runs = find_runs(Path(folder))
    arena = compare(runs, features)
    if records:
        keep_records(runs, arena.samples.values(), Path(records))
    yield format_table(arena, markdown, nfe)
    yield from arena.notes
    write_atomically(target / "arena.json", encode(arena))
    write_figure(target / "arena.png", plot(arena))
    written = [target / "arena.json", target / "arena.png"]
    if arena.samples:
        sheet = draw_sheet([(name, Path(file)) for name, file in arena.samples.items()])
        written.append(target / "samples.png")
        write_atomically(written[-1], lambda file: sheet.save(file, "PNG"))
    yield "\n" + "  ".join(map(str, written))
