"""moto's S3 on loopback, in which a new object is shown late: nobody but conditional puts knows of it at first."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

CONTENTS = re.compile(rb"<Contents><Key>([^<]*)</Key>.*?</Contents>", re.DOTALL)


class Late:
    """A WSGI application around moto's: objects that were put less than ``seconds`` ago are not there for readers."""

    def __init__(self, application: Any, seconds: float) -> None:
        self.application, self.seconds = application, seconds
        self.put: dict[str, float] = {}

    def young(self, path: str) -> bool:
        return time.monotonic() - self.put.get(path, -1e9) < self.seconds

    def __call__(self, environ: Any, start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = str(environ["PATH_INFO"]), environ["REQUEST_METHOD"]
        if method in ("GET", "HEAD") and self.young(path):
            start("404 Not Found", [("Content-Type", "application/xml")])
            return [b"<Error><Code>NoSuchKey</Code></Error>"] if method == "GET" else []
        told: list[Any] = []
        body = b"".join(self.application(environ, lambda *answer: told.extend(answer)))
        status, headers = str(told[0]), list(told[1])
        if method == "PUT" and status.startswith("200") and path not in self.put:
            self.put[path] = time.monotonic()
        if method == "DELETE":
            self.put.pop(path, None)
        if method == "GET" and b"<ListBucketResult" in body[:300]:
            bucket = path.rstrip("/")
            kept = CONTENTS.sub(lambda m: b"" if self.young(f"{bucket}/{m[1].decode()}") else m[0], body)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            body = kept
            headers.append(("Content-Length", str(len(body))))
        start(status, headers)
        return [body]


@contextlib.contextmanager
def late_s3(seconds: float) -> Iterator[str]:
    """The address of a server with a bucket ``mill``."""
    application = Late(DomainDispatcherApplication(create_backend_app), seconds)
    server = make_server("127.0.0.1", 0, application, threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()


def uri(address: str, name: str) -> str:
    return f"s3://KEY:WORD@mill/{name}?endpoint_override={address}&scheme=http&region=us-east-1"
