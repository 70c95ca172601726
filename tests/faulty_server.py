"""A web server on 127.0.0.1 that breaks in the ways that a test asks for."""

import contextlib
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; a fault is a function of (handler, data) that answers instead."""

    def do_GET(self):
        server = self.server
        server.requests[self.path] += 1
        server.ranges.append(self.headers.get("Range"))
        data = server.files.get(self.path)
        fault = server.faults.get(self.path)
        if fault and fault(self, data, server.requests[self.path]):
            return
        if data is None:
            self.answer(404, b"no")
            return
        self.body(data, len(data))

    def body(self, data, kept):
        """Answer with the wanted part of a file; of that, send `kept` bytes and hang up."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range", self.version(data)) == self.version(data)
        start = int(wanted[1]) if wanted and is_same else 0
        rest = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", self.version(data))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(rest[:kept])
        self.close_connection = kept < len(rest)

    def answer(self, status, data):
        """Answer with a status and a text."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def version(self, data):
        return f'"{hashlib.sha256(data).hexdigest()}"'

    def log_message(self, *arguments):
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def serving(
    files: dict[str, bytes], faults: dict[str, Callable[[Handler, bytes, int], bool]]
) -> Iterator[tuple[str, Server]]:
    """The address of a server that ends with the block, and the server."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.faults = files, faults
        server.requests, server.ranges = Counter(), []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server
        finally:
            server.shutdown()
            thread.join()


def cut(times: int, kept: int = 500) -> Callable[[Handler, bytes, int], bool]:
    """Break off after some bytes of the body, the first `times` times."""

    def fault(handler: Handler, data: bytes, number: int) -> bool:
        if number <= times:
            handler.body(data, kept)
        return number <= times

    return fault


def status(code: int, times: int) -> Callable[[Handler, bytes, int], bool]:
    """Answer with a status, the first `times` times."""

    def fault(handler: Handler, data: bytes, number: int) -> bool:
        if number <= times:
            handler.answer(code, b"later")
        return number <= times

    return fault
