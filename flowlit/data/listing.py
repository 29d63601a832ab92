"""Listing of the images in a folder or a zip."""

from __future__ import annotations

import zipfile
from pathlib import Path

from .decode import SUFFIXES


def folder_images(root: Path) -> list[Path]:
    """Return the images below a folder, in alphabetical order."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)


def zip_images(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the images in a zip, in alphabetical order."""
    return sorted(name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES)
