"""Folders in diffusers' form, looked at as plain data: what is configured, and where the weights are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..errors import FlowlitError

INDEX = "model_index.json"
"""Of a pipeline: its class, and those of its parts, each of which is a folder."""
CONFIG = "config.json"
"""Of a part with weights."""
SCHEDULER = "scheduler_config.json"
STEM = "diffusion_pytorch_model"
"""Of files of weights."""

LARGEST = 1_000_000
"""Bytes of a configuration at most."""


def is_pipeline(folder: Path) -> bool:
    """Return whether a folder has a pipeline's table of parts."""
    return (folder / INDEX).is_file()


def is_part(folder: Path) -> bool:
    """Return whether a folder is one of diffusers' networks: a configuration, and weights."""
    return (folder / CONFIG).is_file() and any(folder.glob(f"{STEM}.*"))


def read_json(path: Path) -> dict[str, Any]:
    """Return a configuration.

    Raises:
        FlowlitError: if the file is missing, too large, or no table.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FlowlitError(
            f"{path} does not exist; expected the folder of a diffusers pipeline, with {INDEX} and a folder "
            "for each part"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise FlowlitError(f"{path} cannot be read ({error!s:.200}); fetch the folder again") from error
    if not isinstance(content, dict):
        raise FlowlitError(f"{path} holds a {type(content).__name__}; expected a table of names and values")
    return content


def parts_of(folder: Path) -> dict[str, str]:
    """Return the class of each part of a pipeline, by the name of its folder, for those that are there.

    Raises:
        FlowlitError: if the folder is no pipeline.
    """
    entries = {name: value for name, value in read_json(folder / INDEX).items() if name[0:1] != "_"}
    parts = {
        name: str(value[1])
        for name, value in entries.items()
        if isinstance(value, list) and len(value) == 2 and value[1] is not None
    }
    if "safety_checker" in parts:
        logging.getLogger("flowlit").warning(
            "%s: its safety_checker is not used; images are what the network makes", folder
        )
    return parts


def weight_files(folder: Path, stem: str = STEM) -> list[Path]:
    """Return the files of safetensors of a part: one, or those that its index lists; else those in fp16.

    Raises:
        FlowlitError: if there are none, or pickled ones alone.
    """
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            if "fp16" in name:
                logging.getLogger("flowlit").warning(
                    "%s has its weights in half precision only; they are computed with in float32", folder
                )
            return [folder / name]
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        table = read_json(index).get("weight_map")
        names = sorted({str(file) for file in table.values()}) if isinstance(table, dict) else []
        files = [folder / name for name in names if Path(name).name == name]
        absent = [file.name for file in files if not file.is_file()]
        if not files or absent:
            raise FlowlitError(f"{index} lists {absent or 'no files'} that are not there; fetch them again")
        return files
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    present = f"{pickled[0]}, whose pickle may run code" if pickled else "none"
    raise FlowlitError(
        f"{folder}: expected weights as {stem}.safetensors, found {present}; fetch those, or write them "
        "with the pipeline's save_pretrained(folder, safe_serialization=True)"
    )
