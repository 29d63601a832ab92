"""The door: ``flowlit <command>``. Commands import what they need, so that help is instant."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence

from .._version import __version__
from ..errors import FlowlitError, Stopped
from .pipeline.children import leave_with_parent

USAGE = """\
usage: flowlit <command> [options]

small, one-step image generators: teacher → couplings → annealing reflow → flow-guided distillation

commands
  fit        train what a YAML describes             flowlit fit -c experiments/slimflow_cifar.yaml
  doctor     look at a YAML before a long fit        flowlit doctor -c experiments/slimflow_cifar.yaml
  couple     make couplings (noise, image)           flowlit couple -c experiments/couple_cifar.yaml --num 100000
  validate   generate, and measure what was made     flowlit validate -c experiments/evaluate_digits.yaml
  test       the same on 50,000 images, to publish   flowlit test -c experiments/evaluate_digits.yaml
  sweep      quality against cost of many solvers    flowlit sweep -c experiments/sweep_digits.yaml
  cost       what networks cost, as table and plot   flowlit cost experiments/parts/networks/unet_7m_32.yaml --into cost.png
  reference  statistics of real images               flowlit reference -c experiments/reference_digits.yaml
  convert    other people's weights, and back        flowlit convert slimflow.pth --into student.safetensors
  average    averages of any width, after training   flowlit average runs/teacher/snapshots --std 0.08 --into ema.safetensors
  predict    generate, and write the images          flowlit predict -c experiments/generate_digits.yaml
  couplings  info, verify, merge, import, export, show   flowlit couplings info runs/slimflow_digits/couplings
  pipeline   run a recipe of stages, resumable       flowlit pipeline -c experiments/recipes/slimflow_digits.yaml --dry-run

options of a command: flowlit <command> --help
any value of a YAML can be overridden: --model.network.width 64 --trainer.max_steps 1000 --trainer.devices 4
"""  # noqa: E501


LIGHTNING = ("fit", "validate", "test", "predict", "couple", "doctor", "sweep")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 fine, 1 it failed, 2 it was called wrongly."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(f"flowlit {__version__}")
        return 0
    try:
        leave_with_parent()
        if command == "pipeline":
            from .pipeline import main as pipeline

            return pipeline(argv[1:])
        if command == "couplings":
            from .couplings import main as couplings

            return couplings(argv[1:])
        if command == "convert":
            from .convert import main as convert

            return convert(argv[1:])
        if command == "average":
            from .average import main as average

            return average(argv[1:])
        if command == "reference":
            from .reference import main as reference

            return reference(argv[1:])
        if command == "cost":
            from .cost import main as cost

            return cost(argv[1:])
        if command in LIGHTNING and argv[1:] in (["--help"], ["-h"]):
            from .help_text import remembered

            print(remembered(command, lambda: run_lightning([command, "--help"])), end="")
            return 0
        if command in LIGHTNING:
            return run_lightning(argv)
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        return stopped.code
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning makes 1 of it
            return 130
        raise
    except Exception as error:
        if (known := _told(error)) is None:
            raise
        print(f"flowlit: error: {known}", file=sys.stderr)
        return 1
    print(f"flowlit: error: unknown command {command!r}; see flowlit --help", file=sys.stderr)
    return 2


def _told(error: BaseException | None) -> BaseException | None:
    """Find the error meant for the user (ours, or Lightning's about its options) among what was raised
    because of it.
    """
    while (
        error is not None
        and not isinstance(error, FlowlitError)
        and type(error).__name__ != "MisconfigurationException"
    ):
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return FlowlitError(
                f"the disk is full ({error}); free some space and run it again (fit: with --resume auto)"
            )
        if isinstance(error, RuntimeError) and re.search(
            r"gloo|NCCL|Connection (closed|reset) by peer", str(error)
        ):
            return FlowlitError(
                "another process of this run was lost; start it again (fit: with --resume auto)"
            )
        error = error.__cause__ or error.__context__
    return error


def run_lightning(argv: list[str]) -> int:
    """Parse and run a command of ``LIGHTNING`` with LightningCLI."""
    import jsonargparse
    from omegaconf.errors import OmegaConfBaseException

    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    from .lightning import FlowCLI

    try:
        FlowCLI.run(argv)
    except OmegaConfBaseException as error:
        print(
            f"flowlit: error: interpolation in the configuration: {str(error).splitlines()[0]}",
            file=sys.stderr,
        )
        return 2
    finally:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0
