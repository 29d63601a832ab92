"""Solvers in one word: ``Heun(steps=4)``, as they are printed, or ``Heun(4)``."""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, Any

from ..._support.suggestions import did_you_mean
from ...errors import FlowlitError

if TYPE_CHECKING:
    from ...generators import Generator
    from ...types import Solver


def parsed(text: str) -> tuple[str, list[float], dict[str, Any]]:
    """Return the class, the numbers without a name and the settings that a text names.

    >>> parsed("RK45(rtol=1e-3)"), parsed("Heun(4)")
    (('RK45', [], {'rtol': 0.001}), ('Heun', [4], {}))

    Raises:
        FlowlitError: for other texts.
    """
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call):
            call = ast.Call(call, [], [])
        name = ast.unparse(call.func)
        settings = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords if each.arg}
        numbers = [ast.literal_eval(each) for each in call.args]
        plain = all(part.isidentifier() for part in name.split("."))
        if (
            not plain
            or len(settings) < len(call.keywords)
            or any(type(n) not in (int, float) for n in numbers)
        ):
            raise ValueError
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise FlowlitError(
            f"--solver {text!r:.80}: expected a class, as Heun or RK45(rtol=1e-3); flowlit list solvers"
        ) from None
    return name, numbers, settings


def solver_of(text: str, nfe: int | None) -> Solver:
    """Return the solver that a text or a YAML names; its steps may be left out where ``nfe`` is given.

    Raises:
        FlowlitError: if there is no such class or file, or it takes other settings.
    """
    if text.endswith((".yaml", ".yml")):
        return _of_yaml(text)
    from ... import solvers
    from ...networks.checkpoints.spec import build
    from ...types import Solver

    name, numbers, settings = parsed(text)
    kinds = {each: getattr(solvers, each) for each in solvers.__all__}
    known = {
        each.lower(): each
        for each, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Solver)
    }
    if "." not in name and name.lower() not in known:
        raise FlowlitError(
            f"--solver {name}: there is none of that name{did_you_mean(name, known.values())} (flowlit list "
            "solvers)"
        )
    ours = known.get(name.lower())
    try:
        if ours is not None:
            return _ours(kinds[ours], _named(kinds[ours], numbers, settings), nfe)
        if numbers:
            raise FlowlitError(f"{numbers[0]} has no name; write which setting it is, as steps={numbers[0]}")
        return build({"class_path": name, "init_args": settings}, Solver)
    except FlowlitError as error:
        raise FlowlitError(f"--solver {text}: {error}") from error


def _of_yaml(path: str) -> Solver:
    """Return the solver that is described in a file by class_path and init_args."""
    from ...networks.checkpoints.spec import build
    from ...types import Solver
    from .._yaml import read_yaml

    content = read_yaml(path, "--solver {}: there is no such file")
    if not isinstance(content.get("class_path"), str):
        raise FlowlitError(
            f"--solver {path}: expected class_path and init_args of a solver, as flowlit search writes them "
            "in solver.yaml"
        )
    try:
        return build(content, Solver)
    except FlowlitError as error:
        raise FlowlitError(f"--solver {path}: {error}") from error


def _named(kind: Any, numbers: list[float], settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those numbers that had no name, by their order in the class."""
    parameters = inspect.signature(kind).parameters.values()
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD][: len(numbers)]
    if len(names) < len(numbers) or settings.keys() & set(names):
        raise FlowlitError(f"{len(numbers)} numbers without a name do not fit; write them as steps=4")
    return {**dict(zip(names, numbers, strict=True)), **settings}


def _ours(kind: Any, settings: dict[str, Any], nfe: int | None) -> Solver:
    """Return a solver of a class, which is a dataclass."""
    from ...solvers.evaluations import BUDGETS

    known = [field.name for field in fields(kind)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise FlowlitError(f"{kind.__name__} has no {unknown[0]}; expected {', '.join(known)}")
    budget = next((name for name in BUDGETS if name in known), None)
    if budget is not None and nfe is not None:
        settings = {budget: 1, **settings}
    required = [field.name for field in fields(kind) if field.default is MISSING]
    missing = [name for name in required if name not in settings]
    if missing:
        other = ", or --nfe" if missing == [budget] else ""
        example = "4" if missing[0] == budget else "…"
        raise FlowlitError(f"it needs {missing[0]}; expected {kind.__name__}({missing[0]}={example}){other}")
    return kind(**settings)


def load_with(
    checkpoint: str, weights: str, solver: str | None, nfe: int | None, device: str | None = None
) -> Generator:
    """Return the generator of a checkpoint, with the solver that a text names and ``nfe`` evaluations.

    Raises:
        FlowlitError: as ``flowlit.load`` and ``solver_of``; for evaluations that the solver cannot have.
    """
    from ...generators import load
    from ...solvers.evaluations import with_evaluations
    from ...types import evaluations_of

    chosen = None if solver is None else solver_of(solver, nfe)
    generator = load(checkpoint, weights, chosen, device=device)
    if nfe is None:
        return generator
    each = evaluations_of(generator.network)
    shape = generator.shape or (1, 1, 1)
    return replace(generator, solver=with_evaluations(generator.solver, nfe, each, shape))
