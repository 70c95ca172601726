"""A web server on 127.0.0.1 that breaks in the ways that a test asks for."""

import contextlib
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
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(data):
            self.answer(416, b"")
        else:
            self.answer(206 if wanted else 200, data[start:], start, len(data))

    def answer(self, status, data, start=0, total=0, said=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if said is None else said))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)
        if said is not None:
            self.close_connection = True

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


def cut(times: int, keep: float = 0.5) -> Callable[[Handler, bytes, int], bool]:
    """Break off inside the body, the first `times` times."""

    def fault(handler: Handler, data: bytes, number: int) -> bool:
        if number > times:
            return False
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        rest = data[start:]
        status = 206 if wanted else 200
        handler.answer(status, rest[: int(len(rest) * keep)], start, len(data), len(rest))
        return True

    return fault


def status(code: int, times: int) -> Callable[[Handler, bytes, int], bool]:
    """Answer with a status, the first `times` times."""

    def fault(handler: Handler, data: bytes, number: int) -> bool:
        if number <= times:
            handler.answer(code, b"later")
        return number <= times

    return fault
