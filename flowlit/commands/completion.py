"""``flowlit completion``: scripts that let a shell complete commands and options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Literal

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
        cases += [f'        *:{name}:{part}) words="{" ".join(options(name, part))}" ;;' for part in parts]
        cases.append(f'        *:{name}:*) words="{" ".join(parts or options(name))}" ;;')
    return BASH.format(commands=" ".join(COMMANDS), cases="\n".join(cases))


def _fish() -> str:
    from . import COMMANDS

    lines = [
        f"complete -c flowlit -n __fish_use_subcommand -f -a {name} -d {_quoted(command.help)}"
        for name, command in COMMANDS.items()
    ]
    for name in COMMANDS:
        seen = f"'__fish_seen_subcommand_from {name}'"
        parts = _parts(name)
        lines += [f"complete -c flowlit -n {seen} -f -a {part}" for part in parts]
        words = {option for part in parts or [""] for option in options(name, part) if option[:2] == "--"}
        lines += [f"complete -c flowlit -n {seen} -l {option[2:]}" for option in sorted(words)]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def _target(name: str) -> Callable[..., object] | Mapping[str, Callable[..., object]]:
    from . import COMMANDS

    module, _, attribute = COMMANDS[name].run.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), attribute)


def _parts(name: str) -> list[str]:
    """Return the commands below one, for instance of ``couplings``."""
    from . import help_file

    target = {} if help_file(name).exists() else _target(name)
    return list(target) if isinstance(target, Mapping) else []


def options(name: str, part: str = "") -> list[str]:
    """Return the options of a command, from its packaged help, or else from its signature."""
    from . import help_file

    packaged = help_file(name)
    if packaged.exists():
        words = re.findall(r"^  (?:-\w.*, )?(--[\w.+]+)", packaged.read_text(encoding="utf-8"), re.M)
        return sorted({*words, "-c"})
    target = _target(name)
    function = target[part] if isinstance(target, Mapping) else target
    parameters = inspect.signature(function).parameters.values()
    own = [f"--{each.name}" for each in parameters if each.kind is each.KEYWORD_ONLY]
    return sorted({*own, "-c", "--help"})
