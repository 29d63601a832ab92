"""``flowlit reference``: statistics of real images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Any

from .. import data, networks  # noqa: F401 - short class names resolve
from .._support.locks import locked_target
from ..metrics.frechet import few_images
from ..metrics.reference import make_reference


@wraps(make_reference)
def reference(**options: Any) -> Iterator[str]:
    with locked_target(Path(options["into"])):
        result = make_reference(**options)
    protocol = result.protocol
    shape = "×".join(map(str, protocol["shape"]))
    features = f"{len(result.mean)} {protocol['features']['name']} features"
    yield f"{result.path}: {protocol['count']:,} images of {shape} in {features}"
    few = few_images(len(result.mean), real=protocol["count"])
    if few:
        yield few
    summary = options["images"].summary()
    if summary:
        yield summary
    yield f"SHA-256 of mean and covariance: {result.sha256()}"


_PARAMETERS = signature(make_reference, eval_str=True).parameters.values()
reference.__signature__ = Signature(  # type: ignore[attr-defined]
    [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in _PARAMETERS]
)
"""On the command line all of them are options."""
