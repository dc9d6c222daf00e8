"""The Hugging Face Hub on loopback: the endpoints that huggingface_hub calls to push and to pull, and their faults.

Repositories with commits, branches and tags; files small enough are regular, the others go through LFS (in one part or
several) and are served from another address, as the real one does. Xet is not spoken: clients set HF_HUB_DISABLE_XET=1.
Run as a program (``python tests/hub_server.py --port 8800``), it keeps what it is sent in memory and logs each call.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_LoopbackTokenOfTheTests000000000000"
USER = "somebody"
_LFS = (".parquet", ".mp4", ".arrow", ".safetensors", ".jpg", ".png")
_LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "other", "unknown"}
_SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "n>1T"}


@dataclass
class Blob:
    """A file of a commit."""

    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """As git has it; of LFS, of the file and not of its pointer."""
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit_of(self, revision: str) -> str | None:
        return (
            self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)
        )

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path."""
        commit = self.commit_of(revision)
        assert commit is not None, f"no revision {revision}"
        return {path: blob.data for path, blob in self.commits[commit].items()}

    def add(self, files: dict[str, Blob], branch: str) -> str:
        oid = hashlib.sha1(uuid.uuid4().bytes).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


@dataclass
class Fault:
    """What goes wrong with the next ``times`` calls that match ``METHOD PATH``.

    Attributes:
        status: answered instead; 0 cuts the connection, after ``after`` bytes of the body were read; -1 hangs.
        skip: calls that go well before.
    """

    pattern: str
    status: int = 500
    times: int = 1
    skip: int = 0
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Hub:
    """The server's state; ``url`` is what HF_ENDPOINT is set to."""

    url: str = ""
    token: str = TOKEN
    owners: tuple[str, ...] = (USER, "lab")
    part_size: int | None = None
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[tuple[str, str, str | None]] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)
    verbose: bool = False

    @property
    def files_url(self) -> str:
        """The same server by another name: clients follow redirects to it as to another host."""
        return self.url.replace("127.0.0.1", "localhost")

    def dataset(self, repo_id: str) -> Repo:
        return self.repos["dataset", repo_id]

    def model(self, repo_id: str) -> Repo:
        return self.repos["model", repo_id]

    def called(self, pattern: str) -> list[str]:
        """Calls that match, as ``METHOD PATH``."""
        with self.lock:
            return [f"{m} {p}" for m, p, _ in self.calls if re.search(pattern, f"{m} {p}")]

    def environment(self, **more: str) -> dict[str, str]:
        """What a client process needs to talk to this Hub and to no other."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            **more,
        }


@contextmanager
def hub_server(port: int = 0, **settings: Any) -> Iterator[Hub]:
    """Serve a Hub on loopback while the block runs."""
    hub = Hub(**settings)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.hanging.set()
        server.shutdown()
        server.server_close()


class _Answered(Exception):
    """An answer other than the usual one."""

    def __init__(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        self.status, self.value, self.headers = status, value, headers or {}


def _missing(code: str, what: str) -> _Answered:
    return _Answered(404, {"error": what}, {"X-Error-Code": code, "X-Error-Message": what})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        if self.hub.verbose:
            print(f"{self.command} {self.path.split('?')[0]} {args[1] if len(args) > 1 else ''}", flush=True)

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    # A call.

    def _serve(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        with self.hub.lock:
            self.hub.calls.append((self.command, path, self.headers.get("Authorization")))
        fault = self._fault(f"{self.command} {path}")
        try:
            if fault is not None:
                self._fail(fault)
            body = self._body()
            self._answer(*self._route(path, parse_qs(address.query), body))
        except _Answered as other:
            self._answer(other.status, other.value, other.headers)
        except ConnectionError:
            self.close_connection = True

    def _fault(self, call: str) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and re.search(fault.pattern, call):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def _fail(self, fault: Fault) -> None:
        if fault.status > 0:
            self._body()
            raise _Answered(fault.status, fault.body or {"error": "a fault of the test"}, fault.headers)
        if fault.after:
            self.rfile.read(fault.after)
        if fault.status < 0:
            self.hub.hanging.wait(60)
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionError

    def _body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            out = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if len(data) < length:
            raise ConnectionError
        return data

    def _answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        given = {k.lower() for k in headers or {}}
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        if "content-type" not in given:
            self.send_header(
                "Content-Type", "application/octet-stream" if isinstance(value, bytes) else "application/json"
            )
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who calls.

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _require(self) -> None:
        if not self._allowed():
            raise _Answered(
                401,
                {"error": "Invalid credentials"},
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )

    def _repo(self, kind: str, repo_id: str) -> Repo:
        found = self.hub.repos.get((kind, repo_id))
        if found is None or (found.private and not self._allowed()):
            raise _missing("RepoNotFound", "Repository not found")
        return found

    # Where to.

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[Any, ...]:
        if path == "/api/whoami-v2":
            self._require()
            return 200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/store/(\w+)(?:/(\d+|complete|verify))?", path):
            return self._store(match[1], match[2], body)
        if match := re.fullmatch(r"/cdn/(\w+)", path):
            # On another host, to which a client must not send its token.
            if self.headers.get("Authorization"):
                raise _Answered(400, {"error": "a token was sent to another host"})
            return 200, self.hub.stored[match[1]], {"ETag": f'"{match[1]}"'}
        if match := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._batch("dataset" if match[1] else "model", match[2], json.loads(body))
        if match := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve("dataset" if match[1] else "model", match[2], match[3], match[4])
        if match := re.fullmatch(r"/api/(dataset|model)s/([\w.-]+/[\w.-]+)(?:/(\w[\w-]*)(?:/(.*))?)?", path):
            return self._api(match[1], match[2], match[3] or "", (match[4] or "").rstrip("/"), query, body)
        raise _Answered(404, {"error": f"not spoken here: {path}"})

    def _api(
        self, kind: str, repo_id: str, verb: str, rest: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[Any, ...]:
        repo = self._repo(kind, repo_id)
        if self.command in ("POST", "DELETE") and verb != "paths-info":
            self._require()
        with self.hub.lock:
            if verb in ("", "revision"):
                return self._info(repo_id, repo, rest or "main")
            if verb == "preupload":
                return self._preupload(repo, rest, json.loads(body))
            if verb == "commit":
                return self._commit(kind, repo_id, repo, rest, body)
            if verb == "refs":
                return 200, self._refs(repo)
            if verb == "tree":
                commit = self._commit_of(repo, rest)
                return 200, [_entry(p, b) for p, b in sorted(repo.commits[commit].items())]
            if verb == "branch":
                return self._branch(repo, rest, json.loads(body or b"{}"))
            if verb == "tag":
                return self._tag(repo, rest, json.loads(body or b"{}"))
        raise _Answered(404, {"error": f"not spoken here: {verb}"})

    # Repositories.

    def _create(self, asked: dict[str, Any]) -> tuple[Any, ...]:
        self._require()
        owner = asked.get("organization") or USER
        if owner not in self.hub.owners:
            message = f'You don\'t have the rights to create a {asked["type"]} under the namespace "{owner}"'
            raise _Answered(403, {"error": message}, {"X-Error-Message": message})
        repo_id, kind = f"{owner}/{asked['name']}", asked.get("type", "model")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            message = f"You already created this {kind} repo: {repo_id}"
            return 409, {"url": url, "error": message}, {"X-Error-Message": message}
        repo = self.hub.repos[kind, repo_id] = Repo(private=asked.get("visibility") == "private")
        repo.add({".gitattributes": Blob(b"*.parquet filter=lfs\n", False)}, "main")
        return 200, {"url": url, "id": uuid.uuid4().hex, "name": repo_id}

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.commit_of(revision)
        if commit is None:
            raise _missing("RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _info(self, repo_id: str, repo: Repo, revision: str) -> tuple[Any, ...]:
        commit = self._commit_of(repo, revision)
        siblings = [{"rfilename": p} for p in sorted(repo.commits[commit])]
        facts = {"_id": "0", "id": repo_id, "sha": commit, "private": repo.private, "siblings": siblings}
        return 200, {
            **facts,
            "author": repo_id.split("/")[0],
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
        }

    def _refs(self, repo: Repo) -> dict[str, Any]:
        def listed(held: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in held.items()]

        return {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": []}

    def _branch(self, repo: Repo, name: str, asked: dict[str, Any]) -> tuple[Any, ...]:
        if name in repo.branches:
            raise _Answered(409, {"error": "Reference already exists"}, {"X-Error-Message": "Reference already exists"})
        repo.branches[name] = self._commit_of(repo, asked.get("startingPoint", "main"))
        return 200, {}

    def _tag(self, repo: Repo, name: str, asked: dict[str, Any]) -> tuple[Any, ...]:
        if self.command == "DELETE":
            if repo.tags.pop(name, None) is None:
                raise _missing("RevisionNotFound", f"no tag {name}")
            return 200, {}
        if asked["tag"] in repo.tags:
            raise _Answered(409, {"error": "Tag already exists"}, {"X-Error-Message": "Tag already exists"})
        repo.tags[asked["tag"]] = self._commit_of(repo, name)
        return 200, {}

    # Pushing.

    def _validate(self, asked: dict[str, Any]) -> tuple[Any, ...]:
        errors, warnings = card_problems(asked["content"], asked["repoType"])
        listed = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        return (400 if errors else 200), listed

    def _preupload(self, repo: Repo, revision: str, asked: dict[str, Any]) -> tuple[Any, ...]:
        held = repo.commits[self._commit_of(repo, revision)]
        files = []
        for file in asked["files"]:
            lfs = file["path"].endswith(_LFS) or file["size"] >= 10 << 20
            known = {"oid": held[file["path"]].oid} if file["path"] in held else {}
            mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            files.append({"path": file["path"], **mode, **known})
        return 200, {"files": files}

    def _batch(self, kind: str, repo_id: str, asked: dict[str, Any]) -> tuple[Any, ...]:
        self._require()
        self._repo(kind, repo_id)
        objects = []
        for one in asked["objects"]:
            oid, size = one["oid"], one["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.stored:
                href = f"{self.hub.url}/store/{oid}"
                verify = {"href": f"{href}/verify"}
                most = self.hub.part_size
                if most and size > most:
                    header = {str(i + 1): f"{href}/{i + 1}?X-Signature=secret" for i in range(-(-size // most))}
                    upload = {"href": f"{href}/complete", "header": {"chunk_size": str(most), **header}}
                else:
                    upload = {"href": f"{href}?X-Signature=secret"}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}

    def _store(self, oid: str, what: str | None, body: bytes) -> tuple[Any, ...]:
        if self.command == "PUT" and self.headers.get("Authorization"):
            raise _Answered(400, {"error": "a signed address takes no token"})
        if what == "verify":
            asked = json.loads(body)
            good = asked["oid"] in self.hub.stored and len(self.hub.stored[asked["oid"]]) == asked["size"]
            return (200 if good else 422), {}
        if what == "complete":
            parts = self.hub.parts.pop(oid)
            body = b"".join(parts[n] for n in sorted(parts))
        elif what is not None:
            self.hub.parts.setdefault(oid, {})[int(what)] = body
            return 200, None, {"ETag": hashlib.md5(body).hexdigest()}
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Answered(422, {"error": "these bytes have another digest"})
        self.hub.stored[oid] = body
        return 200, {}

    def _commit(self, kind: str, repo_id: str, repo: Repo, branch: str, body: bytes) -> tuple[Any, ...]:
        if branch not in repo.branches:
            raise _missing("RevisionNotFound", f"no branch {branch}")
        files = dict(repo.commits[repo.branches[branch]])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                repo.messages.append(value["summary"])
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    raise _Answered(400, {"error": f"{value['path']}: its content never arrived"})
                files[value["path"]] = Blob(self.hub.stored[value["oid"]], True)
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Answered(400, {"error": f"unknown operation {item['key']}"})
        oid = repo.add(files, branch)
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url}

    # Pulling.

    def _resolve(self, kind: str, repo_id: str, revision: str, path: str) -> tuple[Any, ...]:
        repo = self._repo(kind, repo_id)
        commit = self._commit_of(repo, revision)
        blob = repo.commits[commit].get(path)
        if blob is None:
            raise _missing("EntryNotFound", f"{path} is not in {revision}")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if not blob.lfs:
            return 200, blob.data, headers
        linked = {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
        return 302, None, {**headers, **linked, "Location": f"{self.hub.files_url}/cdn/{blob.oid}"}


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid[:40], "size": len(blob.data), "path": path}
    return entry | ({"lfs": {"oid": blob.oid, "size": len(blob.data), "pointerSize": 130}} if blob.lfs else {})


def card_problems(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) about a card's front matter, by the rules of the Hub that concern our keys."""
    found = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    if found is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"YAML: {error}"], []
    errors = []
    if "license" in data and data["license"] not in _LICENCES:
        errors.append(f'"license" must be one of the known identifiers, got {data["license"]!r}')
    for key in ("tags", "task_categories", "datasets"):
        if key in data and not (isinstance(data[key], list) and all(isinstance(v, str) and v for v in data[key])):
            errors.append(f'"{key}" must be an array of strings')
    if "size_categories" in data and not set(_as_list(data["size_categories"])) <= _SIZES:
        errors.append('"size_categories" must be one of the known ranges')
    if repo_type == "dataset" and "robotics" not in data.get("task_categories", ["robotics"]):
        errors.append('"task_categories" is unknown')
    for config in data.get("configs", []):
        if not isinstance(config.get("config_name"), str) or "data_files" not in config:
            errors.append('"configs[0]" must have a config_name and data_files')
    if "base_model" in data and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(data["base_model"])):
        errors.append('"base_model" must be a repository')
    return errors, [] if "license" in data else ["license is missing"]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8800)
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--owner", default="me", help="who may make repositories")
    given = parser.parse_args()
    with hub_server(given.port, token=given.token, owners=(given.owner,), verbose=True) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_TOKEN={hub.token} HF_HUB_DISABLE_XET=1", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
