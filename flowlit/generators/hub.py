"""Generators on the Hugging Face hub: fetched by their id, and uploaded.

``huggingface_hub`` (the extra ``flowlit[hub]``) is imported by what talks to the hub, and by nothing else.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from .._version import __version__
from ..errors import FlowlitError

MODEL = "model.safetensors"
"""File of weights in a folder that has several, by the custom of model hubs."""

FILES = (MODEL, "config.json", "README.md", "samples.png")
"""Files of a folder to share."""

LICENCES = ("LICENSE*", "LICENCE*")
"""Files that are uploaded with them, if they are there."""

SCHEME = "hf://"

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

SUFFIXES = (".ckpt", ".safetensors", ".pth", ".pt", ".onnx", ".yaml")
"""Ends of names that are those of files."""


class HubModel(NamedTuple):
    """A model on the hub."""

    name: str
    revision: str | None
    certain: bool
    """Whether the text can mean nothing else."""


def as_hub_model(place: Any) -> HubModel | None:
    """Return the model that a text names, as hf://user/name, user/name or user/name@revision.

    None for what exists here, has the name of a file, or lies in a folder that exists here.

    >>> as_hub_model("anna/cats@v1")
    HubModel(name='anna/cats', revision='v1', certain=False)
    >>> as_hub_model("cats/student.ckpt"), as_hub_model("cats")
    (None, None)

    Raises:
        FlowlitError: for hf:// without a name of that form.
    """
    if not isinstance(place, str):
        return None
    certain = place.startswith(SCHEME)
    name, _, revision = place.removeprefix(SCHEME).partition("@")
    if not NAME.fullmatch(name):
        if certain:
            raise FlowlitError(f"{place!r:.200} names no model of the hub; expected hf://user/name")
        return None
    here = os.path.lexists(place) or os.path.isdir(name.partition("/")[0]) or name.lower().endswith(SUFFIXES)
    return HubModel(name, revision or None, certain) if certain or not here else None


def fetch(model: HubModel) -> str:
    """Return the file of a model's weights, downloaded unless an earlier download has it.

    Raises:
        FlowlitError: if the model does not exist or may not be read, or the hub cannot be reached.
    """
    subject = f"{model.name} does not exist on this machine; as a model of the hub it"
    with _errors(f"{SCHEME}{model.name}" if model.certain else subject, model.revision):
        from huggingface_hub import hf_hub_download

        facts: dict[str, Any] = {"library_name": "flowlit", "library_version": __version__}
        facts["local_files_only"] = not _reachable()
        file = hf_hub_download(model.name, MODEL, revision=model.revision, **facts)
    if not model.certain:
        logging.getLogger("flowlit").warning(
            f"{model.name} is no path on this machine; taking the model of that name from the hub"
        )
    return str(file)


def _reachable() -> bool:
    """Return whether the hub's address is known here: without, its library would try for half a minute."""
    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return bool(getproxies())
    return True


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder to share as a model of the hub, which is made unless it is there; return its address.

    Args:
        folder: with ``FILES``.
        name: user/name.
        private: make it so that others do not see it.

    Raises:
        FlowlitError: for another name, a folder that lacks a file, or if the hub refuses.
    """
    if not NAME.fullmatch(name):
        raise FlowlitError(f"--push {name!r:.200} is no id of the hub; expected user/name")
    lacking = [file for file in FILES[:3] if not (folder / file).is_file()]
    if lacking:
        raise FlowlitError(
            f"{folder} has no {', '.join(lacking)}; expected a folder that flowlit share CHECKPOINT --into "
            "FOLDER wrote"
        )
    with _errors(name):
        from huggingface_hub import HfApi

        api = HfApi(library_name="flowlit", library_version=__version__)
        address = api.create_repo(name, private=private or None, exist_ok=True)
        patterns = [*FILES, *LICENCES]
        message = f"flowlit {__version__}"
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=patterns, commit_message=message)
    return str(address)


@contextmanager
def _errors(subject: str, revision: str | None = None) -> Iterator[None]:
    """Turn whatever the hub's library raises into one line."""
    try:
        yield
    except ImportError as error:
        raise FlowlitError(
            f"{subject} needs huggingface_hub ({error}); install it: pip install 'flowlit[hub]'"
        ) from error
    except Exception as error:  # of HTTP, validation, caches and disks
        raise FlowlitError(f"{subject} {_reason(error, revision)}") from error


def _reason(error: Exception, revision: str | None) -> str:
    """Return in words why the hub, or the way to it, failed."""
    from huggingface_hub import errors

    sign_in = "sign in: hf auth login, or set HF_TOKEN"
    reasons: list[tuple[Any, str]] = [  # subclasses come first
        (
            errors.GatedRepoError,
            f"is open to those who accept its conditions; do so on its page, and {sign_in}",
        ),
        (errors.RepositoryNotFoundError, f"does not exist, or is private; mend the name, or {sign_in}"),
        (errors.RevisionNotFoundError, f"has no revision {revision}"),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
            "cannot be fetched: the hub cannot be reached (no network, or HF_HUB_OFFLINE), and no earlier "
            "download has it",
        ),
        (errors.EntryNotFoundError, f"has no {MODEL}; expected a model that flowlit share wrote"),
        (errors.LocalTokenNotFoundError, f"needs a token; {sign_in}"),
        (errors.HFValidationError, f"is no id that the hub takes ({_line(error)})"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"is refused by the hub ({status}): the token may not do this; {sign_in}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"is refused by the hub ({status}: {_line(error)})"
    return f"failed ({type(error).__name__}: {_line(error)}); is there a network?"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
