"""``flowlit completion``: scripts that let a shell complete commands and options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal

HELP = ("--help", "-h")
ALONE = (*HELP, "--version")
"""Options of flowlit itself, without a command."""

BASH = """\
_flowlit() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    case "$COMP_CWORD:${{COMP_WORDS[1]}}:${{COMP_WORDS[2]}}" in
        1:*) words="{commands}" ;;
{cases}
    esac
    if [[ $COMP_CWORD -eq 1 || $word == -* || -n $words && $words != -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _flowlit flowlit
"""

ZSH = """\
#compdef flowlit
autoload -U +X bashcompinit && bashcompinit
{bash}"""

FISH = """\
function __flowlit_is
    set -l words (commandline -opc)
    test "$words[2..-1]" = "$argv"
    or string match -q -- "$argv *" "$words[2..-1]"
end
complete -c flowlit -n 'test (count (commandline -opc)) -eq 1' -f
"""
"""A condition: the words after ``flowlit`` begin with these; and no file stands for a command."""


def completion(shell: Literal["bash", "zsh", "fish"]) -> str:
    """Print a script for a shell; source it, or put it where the shell looks.

    bash: source <(flowlit completion bash), in ~/.bashrc
    zsh:  source <(flowlit completion zsh), in ~/.zshrc, after compinit
    fish: flowlit completion fish | source, in ~/.config/fish/config.fish

    Args:
        shell: bash, zsh or fish
    """
    if shell == "fish":
        return _fish()
    bash = _bash()
    return ZSH.format(bash=bash) if shell == "zsh" else bash


def _bash() -> str:
    from . import COMMANDS

    cases = []
    for name in COMMANDS:
        parts = _parts(name)
        if parts:
            cases.append(f'        2:{name}:*) words="{" ".join([*parts, *HELP])}" ;;')
        cases += [f'        *:{name}:{part}) words="{" ".join(options(name, part))}" ;;' for part in parts]
        if not parts:
            cases.append(f'        *:{name}:*) words="{" ".join(options(name))}" ;;')
    return BASH.format(commands=" ".join([*COMMANDS, *ALONE]), cases="\n".join(cases))


def _fish() -> str:
    from . import COMMANDS

    first = "complete -c flowlit -n 'test (count (commandline -opc)) -eq 1'"
    lines = [f"{first} -f -a {name} -d {_quoted(command.help)}" for name, command in COMMANDS.items()]
    lines += [f"{first}{_fish_option(word)}" for word in ALONE]
    for name in COMMANDS:
        parts = _parts(name)
        second = f"complete -c flowlit -n '__flowlit_is {name}; and test (count (commandline -opc)) -eq 2'"
        lines += [f"{second} -f -a {part}" for part in parts]
        lines += [f"{second}{_fish_option(word)}" for word in HELP if parts]
        for part in parts or [""]:
            begin = f"complete -c flowlit -n '__flowlit_is {f'{name} {part}'.strip()}'"
            lines += [f"{begin}{_fish_option(word)}" for word in options(name, part)]
    return FISH + "\n".join(lines)


def _fish_option(word: str) -> str:
    return f" -l {word[2:]}" if word.startswith("--") else f" -s {word[1:]}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def _target(name: str) -> Callable[..., Any] | Mapping[str, Callable[..., Any]]:
    from . import COMMANDS

    module, _, attribute = COMMANDS[name].run.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), attribute)


def _parts(name: str) -> list[str]:
    """Return the commands below one, for instance of ``couplings``."""
    from . import help_file

    target = {} if help_file(name).exists() else _target(name)
    return list(target) if isinstance(target, Mapping) else []


def options(name: str, part: str = "") -> list[str]:
    """Return the options of a command: of its packaged help, or else of its parser."""
    from . import help_file
    from ._function import make_parser

    packaged = help_file(name)
    if packaged.exists():
        rows = re.findall(r"^  (-[\w-].*?)(?:  |$)", packaged.read_text(encoding="utf-8"), re.M)
        return sorted({word for row in rows for word in re.findall(r"(?:^|, )(--?[\w.+]+)", row)})
    target = _target(name)
    function = target[part] if isinstance(target, Mapping) else target
    parameters = inspect.signature(function, eval_str=True).parameters
    return sorted(make_parser(function, parameters, name, "yaml")._option_string_actions)
