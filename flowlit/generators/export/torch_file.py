"""Programs of ``torch.export`` in files, as graphs, or compiled by AOTInductor."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ...errors import FlowlitError
from ..core import NoiseToImages
from .program import quiet, traced

ENTRY = "flowlit.json"
"""Of the archive, beside the program."""

KEY = "flowlit"
"""Of a package's metadata."""

SOURCE = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
"""Of a node, where its operation stands in Python: a third of a small program's file, and not run."""


def torch_bytes(generator: NoiseToImages, facts: dict[str, Any]) -> bytes:
    """Return a generator as a file of ``torch.export.save``.

    Raises:
        FlowlitError: if it cannot be followed, naming the layer.
    """
    return program_bytes(traced(generator), facts)


def program_bytes(program: Any, facts: dict[str, Any]) -> bytes:
    """Return a program as a file of ``torch.export.save``, with facts in it.

    What its nodes say of the source, with the names of files on this machine, is removed first.
    """
    for node in program.graph.nodes:
        for key in SOURCE:
            node.meta.pop(key, None)
    file = io.BytesIO()
    with quiet():
        torch.export.save(program, file, extra_files={ENTRY: json.dumps(facts, sort_keys=True)})
    return file.getvalue()


def open_program(path: Path) -> tuple[Any, str]:
    """Return the program of a file as a module, and the text of flowlit's facts in it, '' without.

    Raises:
        FlowlitError: if the file is torn, or none of ``torch.export``.
    """
    extra = {ENTRY: ""}
    try:
        with quiet():
            module = torch.export.load(str(path), extra_files=extra).module()
    except Exception as error:  # whatever a parser makes of bytes that are no program
        why = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise FlowlitError(
            f"{path} is torn, or no program of torch.export ({why}); export or fetch it again"
        ) from error
    return module, extra[ENTRY] or ""


def check_compiler() -> None:
    """Refuse to compile where there is no compiler, before any work.

    Raises:
        FlowlitError: naming the one that is looked for.
    """
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise FlowlitError(
            f"--to compiled needs a C++ compiler, and there is no {compiler} (apt install g++, or CXX=…); "
            "use --to torch, which needs none"
        )


def compile_into(file: Path, generator: NoiseToImages, facts: dict[str, Any]) -> None:
    """Write a generator as a package of AOTInductor: a library for processors like this one.

    Args:
        file: ends in .pt2.
        generator: on the CPU.
        facts: for the package's metadata.

    Raises:
        FlowlitError: if it cannot be followed, naming the layer, or not be compiled.
    """
    program = traced(generator)
    settings = {"aot_inductor.metadata": {KEY: json.dumps(facts, sort_keys=True)}}
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(file), inductor_configs=settings
            )
    except OSError:
        raise
    except Exception as error:  # of a compiler of anyone's
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise FlowlitError(f"the program cannot be compiled ({why}); export --to torch") from error


def open_package(file: Path) -> tuple[Any, str]:
    """Return the library of a package as a function, and the text of flowlit's facts in it, '' without.

    Raises:
        FlowlitError: if the file is torn, no package, or one for another kind of machine.
    """
    try:
        with quiet():
            package: Any = torch._inductor.aoti_load_package(str(file))
            facts = package.get_metadata().get(KEY, "")
    except Exception as error:  # whatever a loader makes of bytes that are no library
        why = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise FlowlitError(
            f"{file} is torn, or no package of AOTInductor for this machine ({why}); export it again"
        ) from error
    return package, facts
