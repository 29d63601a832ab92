"""``flowlit report``: one page of HTML about runs, from what they have recorded. Read without torch."""

from __future__ import annotations

from pathlib import Path


def report(runs: list[str], *, into: Path = Path("report.html"), title: str = "") -> str:
    """Write one HTML page about runs: recipe, curves, samples, quality against cost, protocol, commands.

    All pictures are inside the page, which loads nothing from elsewhere. Every number is read from the files
    of the runs; what these lack, or what is damaged, stands at the end of the page.

    Args:
        runs: folders: of a fit or an evaluation, the root of a pipeline, or a folder of several; those of the
            same stage are compared
        into: the page to write; an earlier one is replaced
        title: of the page; the names of the runs by default

    Raises:
        FlowlitError: if a folder does not exist, or has no run in it; or the page cannot be written.
    """
    from ..._support.files import write_atomically
    from ..._support.formatting import size
    from ...errors import FlowlitError
    from .facts import listed
    from .find import find_groups
    from .page import render
    from .sections import sections_of

    if into.suffix not in (".html", ".htm"):
        raise FlowlitError(f"--into {into}: expected a file that ends in .html")
    if into.is_dir():
        raise FlowlitError(f"--into {into} is a folder; expected a file that ends in .html")
    groups = find_groups([Path(run) for run in runs])
    page = render(title or listed([group.name for group in groups]), sections_of(groups)).encode()
    write_atomically(into, page)
    stages = sum(len(group.stages) for group in groups)
    problems = sum(len(stage.problems) for group in groups for stage in group.stages)
    missing = f", {problems} remarks on what is missing" if problems else ""
    return f"{into}: {stages} run{'s' * (stages != 1)}, {size(len(page))}{missing}"
