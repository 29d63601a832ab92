"""The command line of a plain function: its parser comes from the signature and the docstring.

Parameters before ``*`` in the signature are positional on the command line, those after it are options. A
list takes one value or more, a tuple as many as it has. A flag that is false by default needs no value, and
``-`` and ``_`` are the same in the name of an option. ``*words`` takes what is none of these. ``-c`` reads
options from a YAML with ``${vars.name}``, unless the function has an option ``config`` of its own.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

import jsonargparse
from docstring_parser import parse

from .._support.suggestions import closest, did_you_mean
from ..errors import FlowlitError
from ._line.hollow import unread
from ._line.items import with_vars
from ._line.parsing import usage_error
from ._line.references import with_values
from ._line.words import Variables, check_numbers, check_words, configs, with_text_root
from ._yaml.older import MODE, renew_names
from ._yaml.trust import only_packages

Function = Callable[..., str | Iterable[str]]
Parameters = Mapping[str, inspect.Parameter]
HELP = ("-h", "--help")


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors take one line or two: what is wrong, and where the options are described."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print what is wrong, with options as they are typed, and exit with code 2."""
        if not self.exit_on_error:  # of a class that is an option
            raise jsonargparse.ArgumentError(None, message) from ex
        before, required, names = message.partition("required: ")
        options = self._option_string_actions
        typed = [f"--{name}" if f"--{name}" in options else name for name in names.split(", ")]
        text = usage_error(self.prog, f"{before}{required}{', '.join(typed)}", options)
        self.exit(2, re.sub(r"(?<=: error: )(\w+)(?=: )", _as_typed(options), text, count=1))


def _as_typed(options: Mapping[str, Any]) -> Callable[[re.Match[str]], str]:
    return lambda name: f"argument --{name[1]}" if f"--{name[1]}" in options else name[1]


def run(target: Function | Mapping[str, Function], words: Sequence[str], prog: str) -> int:
    """Call a function, or one of several by its name, with the words of a command line; return the exit code.

    The lines that it returns or yields are printed, each as soon as it is there.
    """
    if not isinstance(target, Mapping):
        with only_packages(restricted=False):
            arguments, options = parsed(target, words, prog)
            result = target(*arguments, **options)
            for line in [result] if isinstance(result, str) else result:
                print(line, flush=True)
        return 0
    if words and words[0] in target:
        return run(target[words[0]], words[1:], f"{prog} {words[0]}")
    if words and words[0] in HELP:
        print(f"usage: {prog} <command> [options]\n\ncommands:")
        for name, function in target.items():
            print(f"    {name:<8}  {_described(function)[0].splitlines()[0]}")
        return 0
    meant = did_you_mean(words[0], target) if words else ""
    print(f"{prog}: error: expected one of {', '.join(target)}{meant} (see {prog} --help)", file=sys.stderr)
    return 2


def parsed(function: Function, words: Sequence[str], prog: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional arguments and the options that the words of a command line give a function."""
    parameters = inspect.signature(function, eval_str=True).parameters
    own, others = _sorted_words(words, parameters)
    for name, parameter in parameters.items():
        if get_origin(parameter.annotation) is list and own.count(f"--{name}") > 1:
            raise FlowlitError(f"--{name} is given twice, and the last one would win; give all values to one")
    # a configuration may have ${…}; omegaconf is imported for it alone
    configured = any(word.startswith(("-c", "--config")) for word in own) and "config" not in parameters
    mode = MODE if configured else "yaml"
    contents: list[dict[str, Any]] = []
    if configured:
        renew_names()
        check_words(own)
        contents = configs(own)
        own = with_values(own, contents)
    parser = make_parser(function, parameters, prog, mode)
    config = parser.parse_args(with_text_root(with_vars(own, contents)))
    if problem := unread(contents, config.as_dict()):
        parser.error(problem)
    values = parser.instantiate(config).as_dict()
    check_numbers(own, values)
    positional = [
        values[name] for name, value in parameters.items() if value.kind is value.POSITIONAL_OR_KEYWORD
    ]
    options = {name: values[name] for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    return [*positional, *others], options


def make_parser(function: Function, parameters: Parameters, prog: str, mode: str) -> Parser:
    """Build the parser of a function."""
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    description, texts = _described(function)
    parser = Parser(prog=prog, description=description, parser_mode=mode, allow_abbrev=False)
    kinds = {parameter.kind for parameter in parameters.values()}
    if "config" not in parameters and inspect.Parameter.KEYWORD_ONLY in kinds:
        parser.add_argument("-c", "--config", action="config", help="a YAML with these options")
        parser.add_argument(
            "--vars", type=Variables, default={}, help="free variables for ${vars.name} in the YAML"
        )
    for name, parameter in parameters.items():
        settings = {"help": texts.get(name), **_type(parameter.annotation)}
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            parser.add_argument(name, **settings)
        elif parameter.kind is parameter.VAR_POSITIONAL:  # here for the help; they do not reach the parser
            shown = name.upper().removesuffix("S")
            parser.add_argument(name, nargs="*", metavar=shown, help=texts.get(name)).required = False
        elif parameter.kind is parameter.KEYWORD_ONLY:
            names = ["-c"] * (name == "config") + [f"--{name}"]
            required = parameter.default is parameter.empty
            default = {} if required else {"default": _plain(parameter.default)}
            parser.add_argument(*names, required=required, **settings, **default)
    return parser


def _described(function: Function) -> tuple[str, dict[str, str]]:
    """Return a docstring's text above ``Args:``, and the text of each parameter."""
    docstring = inspect.getdoc(function) or ""
    texts = {entry.arg_name: entry.description or "" for entry in parse(docstring).params}
    return docstring.partition("\n\nArgs:")[0], texts


def _type(annotation: Any) -> dict[str, Any]:
    """Return type and number of values as ``add_argument`` has them."""
    if get_origin(annotation) is list:
        return {"type": get_args(annotation)[0], "nargs": "+"}
    if get_origin(annotation) is tuple:
        return {"type": get_args(annotation)[0], "nargs": len(get_args(annotation))}
    return {"type": annotation}


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _sorted_words(words: Sequence[str], parameters: Parameters) -> tuple[list[str], list[str]]:
    """Divide words into those for the parser, in its spelling, and those for the function's ``*words``."""
    takes_others = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
    own: list[str] = []
    others: list[str] = []
    remaining = deque(words)
    while remaining:
        word = remaining.popleft()
        option, equals, value = word.partition("=")
        name = "config" if option == "-c" else option.removeprefix("--").replace("-", "_")
        parameter = parameters.get(name) if option.startswith("-") else None
        if parameter is None:
            other = takes_others and word not in HELP and not _is_misspelt(option, parameters)
            (others if other else own).append(word)
        elif parameter.default is False:
            explicit = remaining and remaining[0] in ("true", "false") and not equals
            own.append(f"--{name}={remaining.popleft() if explicit else value or 'true'}")
        else:
            own.append(f"--{name}{equals}{value}")
            if takes_others and not equals and remaining:
                own.append(remaining.popleft())
    return own, others


def _is_misspelt(option: str, parameters: Parameters) -> bool:
    """Return whether a word is almost an option, for the parser to refuse."""
    names = (f"--{name}" for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY)
    return option.startswith("--") and "." not in option and closest(option, names) is not None
