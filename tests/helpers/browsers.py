"""Pages in headless Chromium, and their modules in Node."""

import json
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from flowlit.commands import demo
from flowlit.generators.export import web

PAGE = Path(web.__file__).parent / "page"
NODE = shutil.which("node")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FETCHED = Path(__file__).parents[2] / "build/onnxruntime-web"
RUNTIME = os.environ.get("ONNXRUNTIME_WEB") or (str(FETCHED) if (FETCHED / ".ready").is_file() else "")
"""Folder of the npm package onnxruntime-web, for the test in a browser: `make runtime` fetches it."""


def answers(code, names="backends, first, missing", module="generator.js"):
    """Return what code prints as JSON that imports names from a module of the page."""
    head = f"import {{ {names} }} from {json.dumps(str(PAGE / module))};"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", head + code], capture_output=True, check=True, text=True
    )
    return json.loads(done.stdout)


class Listening(demo.Handler):
    """Files, and what the page posts."""

    answer = None
    arrived = None

    def do_POST(self):
        type(self).answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.arrived.set()


SWIFTSHADER = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
"""Words for Chromium that have a graphics processor imitated, slowly."""

IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        not RUNTIME, reason="onnxruntime-web is not there: make runtime, or ONNXRUNTIME_WEB=…"
    ),
]


def browsed(site, page, tmp_path, *words):
    """Return what a page posts that is put into a site and opened in headless Chromium."""
    (site / "probe.html").write_text(page)
    handler = type("Once", (Listening,), {"arrived": threading.Event()})
    with ThreadingHTTPServer((demo.HOST, 0), partial(handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://{demo.HOST}:{server.server_address[1]}/probe.html"
        words = ("--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", *words)
        browser = subprocess.Popen([BROWSER, *words, address], stderr=subprocess.DEVNULL)
        try:
            assert handler.arrived.wait(200)
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    assert "error" not in handler.answer, handler.answer
    return handler.answer


def in_a_browser(test):
    for mark in IN_A_BROWSER:
        test = mark(test)
    return test
