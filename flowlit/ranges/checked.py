"""Classes and functions whose arguments are compared with their annotations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

from .checks import Check, check_of
from .reprs import one_line


def _checks(annotations: Mapping[str, Any], namespace: dict[str, Any]) -> dict[str, Check]:
    """Return the checks of arguments by name; what cannot be resolved (yet) has none."""
    checks = {}
    for name, annotation in annotations.items():
        with suppress(NameError, AttributeError, TypeError, SyntaxError):
            text = isinstance(annotation, str)
            check = check_of(eval(annotation, namespace) if text else annotation)
            if check is not None:
                checks[name] = check
    return checks


Function = TypeVar("Function", bound=Callable[..., Any])


def checked(function: Function) -> Function:
    """Check each call of a function or method against the annotations of its arguments.

    In an ``__init__`` the message names the class of the object, otherwise the function.
    """
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature(function).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind in positional]
    makes = function.__name__ == "__init__"

    @cache
    def checks() -> dict[str, Check]:
        return _checks(function.__annotations__, function.__globals__)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        owner = type(args[0]).__name__ if makes else function.__name__
        given = list(args)
        for place, name in enumerate(names[: len(args)]):
            if name in checks():
                given[place] = checks()[name](f"{owner}: {name}", given[place])
        for name in kwargs.keys() & checks().keys():
            kwargs[name] = checks()[name](f"{owner}: {name}", kwargs[name])
        return function(*given, **kwargs)

    return cast(Function, call)


class Checked:
    """A base class whose subclasses, also other people's, check their arguments against the annotations.

    The arguments of ``__init__`` are checked before it runs, the fields of a dataclass before its
    ``__post_init__``. What is assigned later is not. Their text is one line, unless another base has one.
    """

    def __repr__(self) -> str:
        inherited = super().__repr__
        return inherited() if hasattr(inherited, "__func__") else one_line(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, wrap in (("__init__", checked), ("__post_init__", _checking_fields)):
            if name in vars(cls):
                setattr(cls, name, wrap(vars(cls)[name]))

    def __post_init__(self, *_: Any) -> None:
        """Check the fields of a dataclass."""
        check_fields(self)


def check_fields(thing: Any) -> None:
    """Check the fields of a dataclass against their annotations, and put Python's numbers in place.

    Raises:
        FlowlitError: naming class, field and value.
    """
    for name, check in _field_checks(cast(Hashable, type(thing))).items():
        value = getattr(thing, name)
        converted = check(f"{type(thing).__name__}: {name}", value)
        if converted is not value:
            object.__setattr__(thing, name, converted)


@cache
def _field_checks(kind: type) -> dict[str, Check]:
    names = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    checks: dict[str, Check] = {}
    for base in reversed(kind.__mro__):
        own = vars(base).get("__annotations__", {})
        checks |= _checks(
            {name: own[name] for name in own if name in names}, vars(sys.modules[base.__module__])
        )
    return checks


def _checking_fields(function: Function) -> Function:
    @wraps(function)
    def call(self: Any, *args: Any) -> None:
        check_fields(self)
        function(self, *args)

    return cast(Function, call)
