"""A look at the configuration of every stage before the first one begins: a misspelt option costs no night.

The parsers need torch, so that they run in a process of its own, which ends before the first stage begins.
What was parsed once is recorded in the user's cache, until the configuration or the code changes.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path

from ..._support.files import short_hash, write_atomically
from ..._version import __version__
from ...errors import FlowlitError
from .. import COMMANDS
from .children import PARENT, answer, answer_of, leave_with_parent, reason_of
from .plan import Plan


def check_configurations(plans: Sequence[Plan], root: Path, trust: bool) -> None:
    """Parse the configuration of every stage that is to run, as its command will, and build nothing.

    Args:
        plans: of all stages.
        root: of the recipe.
        trust: classes of any package may be named.

    Raises:
        FlowlitError: with what is wrong with each of the stages.
    """
    to_run = [plan for plan in plans if plan.action != "done"]
    parsers = _parsers() if to_run else []
    records = {plan.stage.name: _record_path(plan, trust, parsers) for plan in to_run}
    waiting = [plan for plan in to_run if not records[plan.stage.name].exists()]
    if not waiting:
        return
    print(f"checking {', '.join(plan.stage.name for plan in waiting)} …", file=sys.stderr, flush=True)
    words = {plan.stage.name: _words(plan, root, trust) for plan in waiting}
    errors = answer_of(__name__, [], trust, "configurations cannot be checked", json.dumps(words))
    for name in words.keys() - errors.keys():
        with suppress(FlowlitError, OSError):  # a place that cannot be written only costs time
            write_atomically(records[name], b"")
    if errors:
        raise FlowlitError("; ".join(f"stage {name}: {error}" for name, error in errors.items()))


def _record_path(plan: Plan, trust: bool, parsers: list[str]) -> Path:
    """Return the record's place, which another configuration has not, nor other code that would parse it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    code = {name: stamp for name, stamp in plan.inputs.items() if name.endswith(".py")}
    known = json.dumps([plan.content, trust, code, parsers], default=str)
    return Path(cache, "flowlit", "parsed", short_hash(known))


def _parsers() -> list[str]:
    """Return what differs between versions of what parses, after an edit of flowlit's code as well."""
    package = Path(__file__).parents[2]
    sources = ((path, path.stat()) for path in sorted(package.rglob("*.py")))
    facts = [(str(path), status.st_size, status.st_mtime_ns) for path, status in sources]
    others = [f"{name} {version(name)}" for name in ("jsonargparse", "lightning", "torch")]
    return [__version__, short_hash(facts), *others]


def _words(plan: Plan, root: Path, trust: bool) -> list[str]:
    parsed_by_lightning = COMMANDS[plan.stage.command].run.startswith("lightning:")
    trusted = ["--trust"] * (trust and parsed_by_lightning)
    return [*plan.stage.arguments(root), "--print_config", *trusted]


def parse(words: Sequence[str]) -> str:
    """Return what is wrong with the words of a command; nothing is built."""
    from .. import main

    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    return (reason_of(errors.getvalue()) or f"exit code {code}") if code else ""


def parse_all() -> None:
    """Parse the words that arrive for each stage, and answer with what is wrong, by the name of the stage."""
    leave_with_parent()
    os.environ.pop(PARENT, None)
    errors = {name: parse(words) for name, words in json.load(sys.stdin).items()}
    answer({name: error for name, error in errors.items() if error})


if __name__ == "__main__":
    parse_all()
