"""A web server on 127.0.0.1 that serves a folder by range, counts bytes, and fails in 13 ways.

Some faults strike requests by the seed's chance and pass (a request for the same range that comes
again is spared); some sit on the one shard that the seed chose and stay.
"""

import contextlib
import random
import re
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PASSING = (
    "500 once",
    "503 with Retry-After",
    "reset in the body",
    "short body",
    "wrong length",
    "no length",
    "stall",
    "HTML with 200",
)
STAYING = ("404", "403", "1 KB/s", "redirect loop")
FAULTS = (*PASSING, *STAYING, "Range ignored")
CHANCE = 0.4  # of a request to be struck by a passing fault
PAGE = b"<html><body>Log in to the wireless network</body></html>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        path = server.folder / self.path.partition("?")[0].rsplit("/", 1)[-1]
        server.seen.append((self.path, self.headers.get("Authorization")))
        if not path.is_file():
            self.answer(404, b"no")
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        fault = server.fault_of(path.name, self.headers.get("Range"))
        if not wanted or fault == "Range ignored":
            self.answer(200, data)
            return
        start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        server.ranges.append((path.name, start, end))
        if start >= len(data):
            self.answer(416, b"")
            return
        part, about = data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        with contextlib.suppress(ConnectionError):
            self.fail(fault, part, about) if fault else self.answer(206, part, about)

    def fail(self, fault, part, about):
        some = part[: self.server.draw.randrange(len(part))]
        if fault in ("404", "403"):
            self.answer(int(fault), b"no")
        elif fault == "500 once":
            self.answer(500, b"oops")
        elif fault == "503 with Retry-After":
            self.answer(503, b"busy", {"Retry-After": self.server.retry_after})
        elif fault == "redirect loop":
            self.answer(302, b"", {"Location": self.path})
        elif fault == "HTML with 200":
            self.answer(200, PAGE, {"Content-Type": "text/html"})
        elif fault == "wrong length":
            self.answer(
                206, part, about, length=max(0, len(part) + self.server.draw.choice((-7, 7)))
            )
        elif fault == "no length":
            self.answer(206, some, about, length=None)
        else:
            self.begin(206, about, len(part))
            self.trickle(part) if fault == "1 KB/s" else self.write(some)
            if fault == "stall":
                self.server.closing.wait(5)
            elif fault == "reset in the body":
                self.connection.setsockopt(*RESET)

    def trickle(self, part):
        for start in range(0, len(part), 20):
            self.write(part[start : start + 20])
            if self.server.closing.wait(0.02):
                return

    def answer(self, status, data, about=(), length=0):
        """`length` is what Content-Length says; 0 the truth, None nothing."""
        self.begin(status, about, len(data) if length == 0 else length)
        if length == 0:
            self.close_connection = False
        self.write(data)

    def begin(self, status, about, length):
        self.close_connection = True  # after a fault
        self.send_response(status)
        for name, value in dict(about).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def write(self, data):
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)
            self.wfile.flush()
            self.server.count(self.path.partition("?")[0].rsplit("/", 1)[-1], len(data))

    def log_message(self, *arguments):
        """Say nothing."""


# SO_LINGER of 0 seconds: closing sends a reset.
RESET = (1, 13, b"\x01\0\0\0\0\0\0\0")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, fault: str, seed: int, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is the handler's: who hangs up in it must not end the server.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.folder, self.fault = folder, fault
        self.chance = CHANCE
        self.retry_after = "1"
        self.draw = random.Random(f"{fault} {seed}")
        tars = sorted(path.name for path in folder.glob("*.tar"))
        self.victim = self.draw.choice(tars) if tars else ""
        self.is_armed = fault not in STAYING
        self.bytes: Counter[str] = Counter()
        self.seen: list[tuple[str, str | None]] = []  # path and Authorization
        self.ranges: list[tuple[str, int, int]] = []  # name, first byte, the one behind the last
        self.closing = threading.Event()
        self._struck: set[tuple[str, str | None]] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def fault_of(self, name: str, wanted: str | None) -> str:
        """The fault of a request, or ""."""
        if not self.is_armed or self.fault == "Range ignored":
            return self.fault if self.is_armed else ""
        if self.fault in STAYING:
            return self.fault if name == self.victim else ""
        with self._lock:
            if (name, wanted) in self._struck or self.draw.random() > self.chance:
                return ""
            self._struck.add((name, wanted))
            return self.fault

    def count(self, name: str, size: int) -> None:
        with self._lock:
            self.bytes[name] += size

    def handle_error(self, *_) -> None:
        """A client that goes away is what the tests are about."""


@contextlib.contextmanager
def serving(
    folder: Path, fault: str = "", seed: int = 0, certificate: Path | None = None
) -> Iterator[Server]:
    """A server of a folder, that ends with the block; over TLS with a certificate and its key."""
    with Server(folder, fault, seed, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
