"""A server on loopback that speaks S3 (moto's), counts what is asked of it, and fails when it is told to."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

_BUCKETS = itertools.count()


@dataclass(frozen=True)
class Request:
    """One request: what was asked of which object, and the bytes that went to and fro."""

    method: str
    key: str
    query: str
    range: str | None
    copied: bool
    sent: int
    got: int
    status: int


#: Told of every request before it is done; gives the status to answer instead, or None.
Fault = Callable[[str, str], int | None]


@dataclass
class S3Server:
    """The server and one bucket in it. ``endpoint`` is its URL."""

    endpoint: str = ""
    bucket: str = ""
    requests: list[Request] = field(default_factory=list)
    fault: Fault | None = None
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What the tests put there and find there, past the server.

    def new_bucket(self) -> str:
        self.bucket = f"bucket-{next(_BUCKETS)}"
        self._backend.create_bucket(self.bucket, "us-east-1")
        self.requests.clear()
        self.fault = None
        return self.bucket

    @property
    def _backend(self) -> Any:
        from moto.s3.models import s3_backends

        return s3_backends["123456789012"]["aws"]

    def put(self, key: str, content: bytes) -> None:
        self._backend.put_object(self.bucket, key, content)

    def upload(self, folder: Path, prefix: str) -> str:
        """Every file of a folder; returns its URL."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{self.bucket}/{prefix}"

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Content by key below ``prefix``."""
        keys = self._backend.buckets[self.bucket].keys
        return {k: keys[k].value for k in sorted(keys) if k.startswith(prefix)}

    def digest(self, prefix: str) -> dict[str, str]:
        """SHA-256 of every object by its name below ``prefix/``."""
        found = self.objects(f"{prefix}/")
        return {k.removeprefix(f"{prefix}/"): hashlib.sha256(v).hexdigest() for k, v in found.items()}

    def remove(self, key: str) -> None:
        self._backend.delete_object(self.bucket, key)

    # What was asked.

    def asked(self, method: str, ending: str = "") -> list[Request]:
        return [r for r in self.requests if r.method == method and r.key.endswith(ending)]

    def received(self, ending: str = "") -> int:
        """Bytes that were read from objects whose key has this ending."""
        return sum(r.got for r in self.asked("GET", ending) if r.status < 300)

    # Serving.

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        key = unquote(environ["PATH_INFO"]).lstrip("/").partition("/")[2]
        query = environ.get("QUERY_STRING", "")
        status = self.fault(method, key or parse_qs(query).get("prefix", [""])[0]) if self.fault is not None else None
        said: list[str] = []

        def told(line: str, headers: Any, exc_info: Any = None) -> Any:
            said.append(line)
            return start(line, headers)

        if status is not None:
            # What was sent is read, or the client sees a broken connection and no answer.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            code = {403: "AccessDenied", 404: "NoSuchKey", 503: "SlowDown"}.get(status, "InternalError")
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            told(f"{status} no", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            content = [b"" if method == "HEAD" else body]
        else:
            content = list(self._app(environ, told))
        request = Request(
            method,
            key,
            query,
            environ.get("HTTP_RANGE"),
            "HTTP_X_AMZ_COPY_SOURCE" in environ,
            int(environ.get("CONTENT_LENGTH") or 0),
            sum(map(len, content)),
            int(said[0].split()[0]),
        )
        with self._lock:
            self.requests.append(request)
        return content


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server for the block."""
    server = S3Server()
    try:
        yield server
    finally:
        server.close()


def refusing(status: int, method: str, ending: str, after: int = 0) -> Fault:
    """Answers ``status`` to a method on keys with an ending, once ``after`` of them went well."""
    left = itertools.count(after, -1)

    def fault(asked: str, key: str) -> int | None:
        return status if asked == method and key.endswith(ending) and next(left) <= 0 else None

    return fault
