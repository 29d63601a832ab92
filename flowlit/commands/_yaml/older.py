"""YAMLs of versions before, as the parsers of the command line read them."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonargparse
import yaml

from ..._support.names import in_current_names

MODE = "omegaconf+"


@cache
def renew_names() -> None:
    """Put names and arguments of today for those of versions before, wherever jsonargparse reads a YAML."""
    probe = jsonargparse.ArgumentParser(parser_mode=MODE)
    probe.add_argument("--any", type=int)
    probe.parse_string("any: 1")  # its own loader is there after the first use
    load = jsonargparse.get_loader(MODE)

    def load_renewed(text: str) -> Any:
        value = load(text)
        return in_current_names(value) if isinstance(value, (dict, list)) else value

    jsonargparse.set_loader(MODE, load_renewed, (yaml.YAMLError,))
