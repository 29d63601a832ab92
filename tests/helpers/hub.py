"""A stand-in for the Hugging Face hub, on loopback: what its library needs for uploads and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_of_the_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Models by name, each a mapping of files; ``private`` ones need the token, ``gated`` ones are closed."""

    def __init__(self):
        self.models = {}
        self.private = set()
        self.gated = set()
        self.requests = []
        self.full = False
        self.address = ""

    def answer(self, method, path, token, body):
        """Return (status, headers, content) for a request."""
        self.requests.append(f"{method} {path}")
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            errors = [] if front.get("license") else [{"message": "license is missing"}]
            return 200, {}, json.dumps({"errors": errors, "warnings": []}).encode()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(.+)", path):
            return self._api(match[1], match[2], token, body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*match.groups(), token)
        return 404, {}, b"{}"

    def _create(self, wish, token):
        if token != TOKEN:
            return 401, {}, b'{"error": "Invalid username or password."}'
        name = f"{wish['organization']}/{wish['name']}" if wish.get("organization") else wish["name"]
        if wish.get("private") or wish.get("visibility") == "private":
            self.private.add(name)
        known = name in self.models
        self.models.setdefault(name, {})
        return 409 if known else 200, {}, json.dumps({"url": f"{self.address}/{name}", "name": name}).encode()

    def _api(self, name, rest, token, body):
        if token != TOKEN:
            return 403, {}, b'{"error": "no"}'
        if rest.startswith("preupload/"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return 200, {}, json.dumps({"files": files}).encode()
        if rest.startswith("commit/"):
            if self.full:
                return 507, {}, b'{"error": "storage is full"}'
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.address}/{name}/commit/{COMMIT}"
            content = {"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": ""}
            return 200, {}, json.dumps(content).encode()
        if rest.startswith("revision/") or not rest:
            siblings = [{"rfilename": file} for file in self.models.get(name, {})]
            content = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            return 200, {}, json.dumps(content).encode()
        return 200, {}, b"[]"

    def _file(self, name, revision, file, token):
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if name not in self.models or (name in self.private and token != TOKEN):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if file not in self.models[name]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        content = self.models[name][file]
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, content


@contextmanager
def serving():
    """Serve a hub; yield it and its address."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self):
            body = self._body()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, content = hub.answer(self.command, self.path, token, body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_):
            pass

        do_GET = do_HEAD = do_POST = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub, hub.address
    finally:
        server.shutdown()
        server.server_close()
