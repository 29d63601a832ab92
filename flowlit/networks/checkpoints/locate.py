"""The file that the name of a checkpoint means: one on a disk of this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import FlowlitError

PATTERNS = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt", "*.safetensors", "*.pth", "*.pt")
"""Files of weights in a folder that is named in their place."""

MOST = 6
"""Files that a message names, at most."""


def locate(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint that is named by path or as file://.

    Raises:
        FlowlitError: if it is no file on a disk of this machine; pipes and devices are not opened, for they
            may never end.
    """
    if not isinstance(checkpoint, (str, os.PathLike)) or not os.fspath(checkpoint):
        raise FlowlitError(f"checkpoint is {checkpoint!r:.40}; expected the path of a file")
    path = _on_disk(str(checkpoint))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FlowlitError(
            f"checkpoint {checkpoint} does not exist; run the stage that writes it first (see the header of "
            "its YAML), or mend the path"
        ) from error
    except (OSError, ValueError) as error:
        raise FlowlitError(
            f"checkpoint {checkpoint!r:.200} cannot be read ({error!s:.300}); mend the path"
        ) from error
    if stat.S_ISDIR(mode):
        raise FlowlitError(f"checkpoint {checkpoint} is a folder; {_content(path)}")
    if not stat.S_ISREG(mode):
        raise FlowlitError(f"checkpoint {checkpoint} is a pipe or device; expected a file, so copy it first")
    return path


def _on_disk(name: str) -> Path:
    if "://" not in name:
        return Path(name)
    url = urlsplit(name)
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        raise FlowlitError(
            f"checkpoint {name} is not on a disk of this machine; fetch it first (flowlit compares "
            "checksums), and give the path of the file"
        )
    return Path(unquote(url.path))


def _content(folder: Path) -> str:
    """Return what to give instead of a folder."""
    if (folder / ".metadata").exists():
        return (
            "it is a sharded one, which becomes a file by python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} <file>"
        )
    names = files_in(folder)
    if not names:
        return (
            "it holds no weights; expected a file of weights, or the folder of a run, or of a diffusers "
            "pipeline, which has model_index.json; mend the path"
        )
    return f"give a file in it: {names}"


def files_in(folder: Path) -> str:
    """Return the names of the files of weights in a folder and in its runs' checkpoints; '' for none."""
    names = [str(file.relative_to(folder)) for pattern in PATTERNS for file in sorted(folder.glob(pattern))]
    more = [f"and {len(names) - MOST} more"] * (len(names) > MOST)
    return ", ".join([*names[:MOST], *more])
