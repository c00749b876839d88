"""A model hub on loopback: the endpoints that the real client speaks to pull and push, without its storage service.

Its answers follow what huggingface_hub 2.4 asks for and reads; the hub itself is not reachable from a test.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_ofTheTests"


@dataclass
class Repository:
    """commits: commit -> path -> content, oldest first; the last one is `main`."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add or replace files; returns the commit."""
        whole = {**self.files(), **files}
        name = hashlib.sha1(f"{len(self.commits)}{sorted(whole)}".encode()).hexdigest()
        self.commits[name] = whole
        return name

    def head(self) -> str:
        return next(reversed(self.commits)) if self.commits else hashlib.sha1(b"empty").hexdigest()

    def files(self) -> dict[str, bytes]:
        return self.commits.get(self.head(), {})


@dataclass
class Hub:
    """What the server holds, and what was asked of it."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut_after: int | None = None  # bytes of a file, after which the connection breaks


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Refused(Exception):  # noqa: N818
    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    def do_GET(self) -> None:
        self._answered(self._get)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._answered(self._post)

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.uploads[hashlib.sha256(body).hexdigest()] = body
        self._send(200, {})

    def _answered(self, answer: Any) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        body = self._body()
        try:
            answer([step for step in path.split("/") if step], body)
        except _Refused as refused:
            self._send(refused.status, {"error": str(refused)}, {"X-Error-Code": refused.code} if refused.code else {})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _get(self, path: list[str], _: bytes) -> None:
        if path[:2] == ["api", "models"]:
            repository = self._repository("/".join(path[2:4]))
            self._send(200, {"id": "/".join(path[2:4]), "private": repository.private, "sha": repository.head()})
            return
        repository, (revision, *file) = self._repository("/".join(path[:2])), path[3:]
        if repository.gated and not self._known():
            raise _Refused(403, "GatedRepo", "Access to this model is restricted")
        commit = repository.head() if revision == "main" else repository.tags.get(revision, revision)
        if commit not in repository.commits and commit != repository.head():
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.commits.get(commit, {}).get("/".join(file))
        if content is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self._send(200, content, headers)

    def _post(self, path: list[str], body: bytes) -> None:
        if path == ["api", "validate-yaml"]:
            about = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            wrong = about.get("license") == "other" and not {"license_name", "license_link"} <= about.keys()
            self._send(400 if wrong else 200, {"errors": [{"message": "no licence"}] if wrong else [], "warnings": []})
            return
        if not self._known():
            raise _Refused(401, None, "Invalid username or password.")
        if path == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.hub.repositories:
                self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"})
                return
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.hub.repositories[name] = Repository(private=private)
            self._send(200, {"url": f"{self.hub.address}/{name}"})
        elif path[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {"oid": one["oid"], "size": one["size"], "actions": {"upload": {"href": f"{self.hub.address}/{i}"}}}
                for i, one in enumerate(json.loads(body)["objects"])
            ]
            self._send(200, {"transfer": "basic", "objects": objects})
        elif path[4:5] == ["preupload"]:
            files = [
                {"path": one["path"], "uploadMode": self._mode(one["path"]), "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif path[4:5] == ["commit"]:
            files = dict(self._committed(json.loads(line)) for line in body.splitlines()[1:])
            name = "/".join(path[2:4])
            oid = self._repository(name).commit(files)
            self._send(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})
        else:
            raise _Refused(404, None, f"no such endpoint: {self.path}")

    def _mode(self, path: str) -> str:
        return "lfs" if path.endswith(".onnx") else "regular"

    def _committed(self, line: dict[str, Any]) -> tuple[str, bytes]:
        value = line["value"]
        if line["key"] == "lfsFile":
            return value["path"], self.hub.uploads[value["oid"]]
        return value["path"], base64.b64decode(value["content"])

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._known()):
            raise _Refused(404 if self._known() else 401, "RepoNotFound", "Repository not found")
        return found

    def _known(self) -> bool:
        return bool(self.headers.get("Authorization") == f"Bearer {TOKEN}")

    def _send(self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut_after is not None and isinstance(content, bytes):
            body = body[: self.hub.cut_after]
            self.close_connection = True
        self.wfile.write(body)
