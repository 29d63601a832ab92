"""Every ``flowlit <command>`` in one table. Nothing here imports torch, so that help is instant."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from .._version import __version__
from ..errors import WINDOWS, Stopped
from ._line.terminal import read_as_utf8, steady_output


class Command(NamedTuple):
    """A row of the table.

    ``help`` is what the command does, ``example`` what is typed after its name, and ``run`` a
    ``module:function`` of this package, imported when the command runs. A function ``main`` parses all words
    by itself; for any other one ``_function`` makes the parser.
    """

    help: str
    example: str
    run: str = "lightning:main"


COMMANDS = {
    "fit": Command("train what a YAML describes", "-c experiments/slimflow_cifar.yaml"),
    "doctor": Command(
        "look at a YAML, or a recipe, before a long fit",
        "-c experiments/slimflow_cifar.yaml --for a10g,4090",
        "doctor.line:main",
    ),
    "couple": Command("make couplings (noise, image)", "-c experiments/couple_cifar.yaml --num 100000"),
    "validate": Command("generate images, and measure them", "-c experiments/evaluate_digits.yaml"),
    "test": Command("the same on 50,000 images, to publish", "-c experiments/evaluate_digits.yaml"),
    "sweep": Command("quality against cost of many solvers", "-c experiments/sweep_digits.yaml"),
    "init": Command("a folder of your own with a recipe", "my_project", "init:init"),
    "list": Command("what a YAML can name", "solvers", "listing:listing"),
    "completion": Command("commands and options for a shell to complete", "bash", "completion:completion"),
    "cost": Command(
        "what networks cost, as table and plot",
        "experiments/parts/networks/unet_7m_32.yaml --into cost.png",
        "cost:cost",
    ),
    "images": Command(
        "crop and resize a folder into a zip",
        "my_photos --resolution 32 --into my_images.zip",
        "images:images",
    ),
    "reference": Command(
        "statistics of real images", "-c experiments/reference_digits.yaml", "reference:reference"
    ),
    "statistics": Command(
        "a network's statistics for DPM-Solver-v3",
        "runs/slimflow_digits/teacher --into teacher_statistics.safetensors",
        "statistics:statistics",
    ),
    "search": Command(
        "a schedule of few steps for one network",
        "runs/slimflow_digits/teacher --nfe 6 --into runs/search6",
        "search:search",
    ),
    "convert": Command(
        "weights of other projects, and back", "slimflow.pth --into student.safetensors", "convert:convert"
    ),
    "average": Command(
        "averages of any width, after training",
        "runs/teacher/snapshots --std 0.08 --into ema.safetensors",
        "average:average",
    ),
    "sample": Command(
        "generate images of seeds",
        "runs/slimflow_digits/distill --num 64 --into digits.png",
        "sample:sample",
    ),
    "predict": Command("generate, and write the images", "-c experiments/generate_digits.yaml"),
    "upscale": Command(
        "enlarge images by super-resolution",
        "my_photos --model runs/sr/student --t 0.7 --into large",
        "upscale:upscale",
    ),
    "export": Command(
        "a generator as ONNX, web page, PyTorch …",
        "runs/slimflow_digits/distill --to web --into site",
        "export:export",
    ),
    "quantise": Command(
        "a generator in 8 or 4 bits, by a size",
        "runs/slimflow_digits/distill --budget 150kB --into digits.onnx",
        "quantise:quantise",
    ),
    "demo": Command("a generator in your browser", "runs/slimflow_digits/distill", "demo:demo"),
    "couplings": Command(
        "info, verify, merge, import, export, show",
        "info runs/slimflow_digits/couplings",
        "couplings:COMMANDS",
    ),
    "pipeline": Command(
        "run a recipe of stages, resumable",
        "-c experiments/recipes/slimflow_digits.yaml --dry-run",
        "pipeline:pipeline",
    ),
    "share": Command(
        "a folder for the Hugging Face hub, and upload",
        "runs/slimflow_digits/distill --into my_digits",
        "share:share",
    ),
    "report": Command("one page about runs, to read and send", "runs/slimflow_digits", "report:report"),
    "arena": Command("recorded runs of many methods, compared", "runs/arena", "arena:arena"),
}

USAGE = """\
usage: flowlit <command> [options]

small, one-step image generators: teacher → couplings → annealing reflow → flow-guided distillation

commands
{commands}

options of a command: flowlit <command> --help
any value of a YAML can be overridden: --model.network.width 64 --trainer.max_steps 1000 --trainer.devices 4
exit codes: 0 fine, 1 it failed, 2 it was called wrongly; FLOWLIT_TRACEBACK=1 shows where an error came from
"""


def usage() -> str:
    """Return the help of flowlit: a line for each command."""
    names = max(map(len, COMMANDS))
    width = max(len(command.help) for command in COMMANDS.values())
    rows = [
        f"  {name:<{names}}  {command.help:<{width}}  flowlit {name} {command.example}"
        for name, command in COMMANDS.items()
    ]
    return USAGE.format(commands="\n".join(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 fine, 1 it failed, 2 it was called wrongly, 128 + n signal n.

    What is printed never changes it: a closed pipe or a full disk behind it loses the rest of the output.
    """
    if argv is None:
        read_as_utf8()
    if sys.platform == "win32":
        print(f"flowlit: error: {WINDOWS}", file=sys.stderr)
        return 1
    with steady_output():
        try:
            return dispatch(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            return 130
        except Stopped as stopped:
            return stopped.code
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # Lightning makes 1 of it
                return 130
            raise
        except Exception as error:
            from ._line.errors import TRACEBACK, described

            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            print(f"flowlit: error: {described(error)}", file=sys.stderr)
            return 1


def dispatch(words: list[str]) -> int:
    """Run the command that the words of a command line name; return its exit code."""
    name = words[0] if words else "--help"
    if name == "help" and words[1:2] and words[1] in COMMANDS:
        return dispatch([*words[1:], "--help"])
    if name in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if name == "--version":
        print(f"flowlit {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"flowlit: error: unknown command {name!r}{meant(name)} (see flowlit --help)", file=sys.stderr)
        return 2
    help_text = help_file(name)
    if words[1:] in (["--help"], ["-h"]) and help_text.exists():
        print(help_text.read_text(encoding="utf-8"), end="")
        return 0
    return run(name, words[1:])


def meant(name: str) -> str:
    """Return the end of an error: the commands that are spelt almost like a name, or that do what it says."""
    from .._support.suggestions import did_you_mean

    described = [each for each, command in COMMANDS.items() if name in re.findall(r"\w{4,}", command.help)]
    spelt = did_you_mean(name, [*COMMANDS, "--help", "--version"])
    return f"; did you mean {' or '.join(described)}?" if described and not spelt else spelt


def help_file(name: str) -> Path:
    """Return the packaged help of a command whose parser takes seconds of imports (``make help-texts``)."""
    return Path(__file__).parent / "help" / f"{name}.txt"


def run(name: str, words: Sequence[str]) -> int:
    """Import the function of a command, and call it with the words after the name; return the exit code."""
    from .pipeline.children import leave_with_parent

    leave_with_parent()
    module, _, attribute = COMMANDS[name].run.partition(":")
    target = getattr(import_module(f"{__name__}.{module}"), attribute)
    if attribute == "main":
        return target([name, *words])
    from ._function import run as run_function

    return run_function(target, words, f"flowlit {name}")
