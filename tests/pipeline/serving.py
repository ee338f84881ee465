"""A web site on this machine that serves one file, as badly as a test asks."""

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """How one request is answered; without arguments, as it should be.

    Args:
        cut: Break off after so many bytes of the body.
        ranges: Whether a Range is honoured.
        status: Answer with this error instead.
        length: Told instead of the body's length; None tells none.
        chunked: Send the body in chunks.
        to: Redirect there.
        shift: Begin a part so many bytes too late.
        hold: Wait for this event where the body is cut, or before it.
        reset: Break off as a crashed machine does, not as one that has no more to say.
    """

    cut: int | None = None
    ranges: bool = True
    status: int = 0
    length: int | None = -1
    chunked: bool = False
    to: str = ""
    shift: int = 0
    hold: threading.Event | None = None
    reset: bool = False


@dataclass
class Site:
    """What is served, how the next requests are answered, and what has been asked: one Range, or "", a request."""

    address: str
    content: bytes = b""
    answers: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    held: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving() -> Iterator[Site]:
    """Serve on a free port of 127.0.0.1 for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            site.asked.append(wanted)
            site.agents.add(self.headers["User-Agent"])
            self.give(site.answers.pop(0) if site.answers else Answer(), wanted)

        def give(self, answer: Answer, wanted: str) -> None:
            start, size = 0, len(site.content)
            if answer.to:
                self.send_response(302)
                self.send_header("Location", answer.to)
                self.end_headers()
                return
            if answer.status:
                self.send_error(answer.status)
                return
            if answer.chunked:
                self.protocol_version = "HTTP/1.1"
            if answer.ranges and (found := re.fullmatch(r"bytes=(\d+)-", wanted)):
                start = int(found[1]) + answer.shift
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            body = site.content[start:]
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif answer.length is not None:
                self.send_header("Content-Length", str(len(body) if answer.length == -1 else answer.length))
            self.end_headers()
            sent = body if answer.cut is None else body[: answer.cut]
            if answer.chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if sent else b"")
                self.wfile.write(b"0\r\n\r\n" if answer.cut is None else b"")
            else:
                self.wfile.write(sent)
            self.wfile.flush()
            if answer.hold:
                site.held.set()
                answer.hold.wait(20)
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that is gone is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


class Listener:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pieces: list[tuple[str, int, str]] = []
        self.done: list[int] = []

    def note(self, text: str) -> None:
        """Remember it."""
        self.notes.append(text)

    @contextmanager
    def steps(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Remember it, and what is done."""
        self.pieces.append((label, total, unit))
        yield self.done.append
