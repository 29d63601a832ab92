"""Places of files as others get to see them: without the folders of this machine."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any


def without_folders(name: str) -> str:
    """Return the name of a set of images to share: of its places only the last parts.

    >>> without_folders("ImageZip /home/ada lovelace/cats.zip")
    'ImageZip cats.zip'
    >>> without_folders("ImageZip data/train-0.zip data/train-1.zip")
    'ImageZip train-0.zip train-1.zip'
    """
    first, *absolute = re.split(r" (?=[/~])", name)
    lasts = [PurePosixPath(place).name for place in absolute]
    return " ".join([re.sub(r"[^ /]*/+(?=[^ ])", "", first), *filter(None, lasts)])


def to_share(facts: Any) -> Any:
    """Return plain data for files that others get: sets of images and files without their folders here.

    >>> to_share({"file": "/home/ada/a.npz", "of": [{"name": "ImageFolder /home/a/b", "fingerprint": "3f"}]})
    {'file': 'a.npz', 'of': [{'name': 'ImageFolder b', 'fingerprint': '3f'}]}
    """
    if isinstance(facts, list):
        return [to_share(each) for each in facts]
    if not isinstance(facts, dict):
        return facts
    given = {key: to_share(value) for key, value in facts.items()}
    if isinstance(given.get("file"), str):
        given["file"] = PurePosixPath(given["file"]).name
    if "fingerprint" in given and isinstance(given.get("name"), str):
        given["name"] = without_folders(given["name"])
    return given
