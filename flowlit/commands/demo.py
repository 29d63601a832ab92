"""``flowlit demo``: a generator in the browser of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import FlowlitError
from ..ranges import PositiveInt

HOST = "127.0.0.1"


def demo(
    checkpoint: str,
    *,
    weights: str = "ema",
    solver: str | None = None,
    nfe: PositiveInt | None = None,
    runtime: Path | None = None,
    port: int = 0,
    browser: bool = True,
) -> Iterator[str]:
    """Export a generator to a temporary folder, serve its page to this machine alone, and open it.

    Ctrl-C ends it, and removes the folder.

    Args:
        checkpoint: a run's folder, or a file of weights
        weights: ema, raw, or the name of another average
        solver: as Heun or Adams(order=2); that of the checkpoint by default
        nfe: evaluations of the network for an image, from which steps follow
        runtime: folder dist of the npm package onnxruntime-web; otherwise the page fetches it from a CDN
        port: to serve at; a free one by default
        browser: open the page

    Raises:
        FlowlitError: as ``export``, and for a port that is not free.
    """
    from .export import export

    with TemporaryDirectory(prefix="flowlit_demo_") as folder:
        site = Path(folder) / "site"
        options: dict[str, Any] = {"weights": weights, "solver": solver, "nfe": nfe, "runtime": runtime}
        yield from list(export(checkpoint, to="web", into=site, **options))[:-2]
        with served(site, port) as server:
            address = f"http://{HOST}:{server.server_address[1]}/"
            yield f"{address} (Ctrl-C ends it)"
            if browser:
                import webbrowser

                webbrowser.open(address)
            server.serve_forever()


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each request."""

    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def served(site: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder for this machine alone.

    Raises:
        FlowlitError: if the port is not free, or none.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(site)))
    except (OSError, OverflowError) as error:
        raise FlowlitError(
            f"--port {port} cannot be served ({error}); leave it out for a free one"
        ) from error
