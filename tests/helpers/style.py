"""Rules of style that a program can check: ``python tests/helpers/style.py flowlit/solvers`` lists what
breaks them.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

LIMITS = {"file": 250, "class": 150, "function": 50}
VOCABULARY = 350
"""Lines of ``types.py``, the one page of records and abstract classes."""

PERSONAL = re.compile(
    r"\b(tells?|told|asks?|asked|asking|knows?|knew|hears?|heard|whoever|somebody|nobody|anybody|ears?|"
    r"wishes|wants?|wanted|remembers?|remembered|forgets?|forgot)\b",
    re.IGNORECASE,
)
"""Objects have, return, store, compute and raise; they do not tell, ask, know or hear."""

VAGUE = {"what", "whether", "how", "who", "why", "where", "when", "whoever", "if", "as", "that"}
"""A docstring begins with an imperative or a noun phrase, and so with none of these."""

_OPERATION = r"(?: ?[+*/·×-] ?\w+)*"
_FIRST = rf"(?:\d*[A-Za-z]\d?|\d+|…|\.\.\.|world|num|steps|rows|batch|dim|total){_OPERATION}"
_OTHER = rf"\*?(?:\w+|…|\.\.\.){_OPERATION}"
SHAPE = re.compile(rf"\({_FIRST},(?: {_OTHER},?)*\)|(?<![\w`.])\(\)|\bscalars?\b|any shape")
"""(B,), (B, C, H, W), (N, d), (), scalar, any shape."""

WORDS = {"found", "told", "kept", "held", "made", "wild", "strange", "rest", "whole"}
"""Names of variables that do not say what the variable holds."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def findings(path: Path) -> Iterator[str]:
    """Yield ``path:line: what is wrong`` for each rule that a file breaks."""
    source = path.read_text()
    tree = ast.parse(source)
    for line, text in sorted(
        [*_lengths(path, source, tree), *_docstrings(tree), *_comments(source), *_code(source, tree)]
    ):
        yield f"{path}:{line}: {text}"


def _length(node: Definition) -> int:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.end_lineno or first) - first + 1


def _lengths(path: Path, source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    lines = len(source.splitlines())
    limit = VOCABULARY if path.name == "types.py" else LIMITS["file"]
    if lines > limit:
        yield 1, f"{lines} lines; at most {limit}"
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            if _length(node) > LIMITS[kind]:
                yield node.lineno, f"{kind} {node.name} has {_length(node)} lines; at most {LIMITS[kind]}"


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node, public in _definitions(tree, True):
        text = ast.get_docstring(node) or ""
        line = 1 if isinstance(node, ast.Module) else node.lineno
        if text and text.split()[0].lower().strip(",.:") in VAGUE:
            yield (
                line,
                f"docstring begins with {text.split()[0]!r}; an imperative or a noun phrase is expected",
            )
        for word in sorted({match.group().lower() for match in PERSONAL.finditer(text)}):
            yield line, f"docstring personifies: {word!r}"
        if isinstance(node, ast.FunctionDef) and public and _has_tensors(node) and not SHAPE.search(text):
            yield line, f"{node.name} takes or returns tensors; its docstring states no shape"


def _definitions(node: ast.AST, public: bool) -> Iterator[tuple[Definition | ast.Module, bool]]:
    if isinstance(node, (ast.Module, *Definition.__args__)):
        yield node, public
        inside = not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and public
        for child in node.body:
            if isinstance(child, Definition):
                yield from _definitions(child, inside and not child.name.startswith("_"))


def _has_tensors(node: ast.FunctionDef) -> bool:
    """Return whether a parameter or the result is a tensor; overriding methods and properties inherit their
    text.
    """
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "staticmethod"} and not ast.get_docstring(node):
        return False
    annotations = [*(a.annotation for a in [*node.args.args, *node.args.kwonlyargs]), node.returns]
    return any(re.search(r"\bTensor\b", ast.unparse(a)) for a in annotations if a is not None)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (match := PERSONAL.search(token.string)):
            yield token.start[0], f"comment personifies: {match.group()!r}"


def _code(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    tests = {id(node.test) for node in ast.walk(tree) if isinstance(node, (ast.If, ast.While))}
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr) and id(node) not in tests:
            yield node.lineno, "walrus inside a larger expression"
        elif isinstance(node, ast.Assign):
            yield from _assignment(node)
        elif isinstance(node, ast.IfExp):
            segment = ast.get_source_segment(source, node) or ""
            nested = any(isinstance(child, ast.IfExp) for child in ast.walk(node) if child is not node)
            if nested or "\n" in segment:
                yield node.lineno, "long or nested conditional expression"


def _assignment(node: ast.Assign) -> Iterator[tuple[int, str]]:
    target = node.targets[0]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        yield node.lineno, "several assignments on one line"
    for name in ast.walk(target):
        if isinstance(name, ast.Name) and name.id in WORDS:
            yield node.lineno, f"variable {name.id!r} does not say what it holds"


if __name__ == "__main__":
    for place in map(Path, sys.argv[1:]):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            print(*findings(file), sep="\n", end="\n" if list(findings(file)) else "")
