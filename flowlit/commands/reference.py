"""The door to reference statistics: ``flowlit reference``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonargparse

from .. import data, networks  # noqa: F401 - short class names resolve
from ..metrics.reference import make_reference


def main(argv: Sequence[str]) -> int:
    """Make statistics as a YAML and options say; return the exit code."""
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = jsonargparse.ArgumentParser(
        prog="flowlit reference",
        description=(
            "Take the mean and covariance of the features of real images, and keep them with their "
            "protocol as npz."
        ),
        parser_mode="omegaconf+",
    )
    parser.add_argument("-c", "--config", action="config", help="a YAML with these options")
    parser.add_argument(
        "--vars", type=dict[str, Any], default={}, help="Free variables for ${vars.name} in the YAML."
    )
    parser.add_function_arguments(make_reference, as_positional=False)
    given = parser.instantiate_classes(parser.parse_args(list(argv))).as_dict()
    arguments = {key: value for key, value in given.items() if key not in ("config", "vars")}
    reference = make_reference(**arguments)
    told = reference.protocol
    shape = "×".join(map(str, told["shape"]))
    print(
        f"{reference.path}: {told['count']:,} images of {shape} in {len(reference.mean)} "
        f"{told['features']['name']} features"
    )
    print(f"SHA-256 of mean and covariance: {reference.sha256()}")
    return 0
