"""A Slack on loopback that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """How one request is answered; `hangs` until the server stops, without an answer."""

    status: int = 200
    body: str = '{"ok": true}'
    headers: dict[str, str] = field(default_factory=dict)
    after_seconds: float = 0
    hangs: bool = False


class Slack:
    """`replies` are given in turn, the last one again and again; `texts` are those it took, `times` of all requests."""

    def __init__(self, url: str, replies: Sequence[Reply]) -> None:
        self.url = url
        self.replies = list(replies)
        self.texts: list[str] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.times: list[float] = []
        self.stopping = threading.Event()

    @property
    def webhook(self) -> str:
        return f"{self.url}services/T000/B000/very-secret-hook"

    def reply(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def wait_for(self, requests: int, seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while len(self.times) < requests:
            assert time.monotonic() < until, f"{len(self.times)} of {requests} requests"
            time.sleep(0.01)


@contextmanager
def slack(*replies: Reply) -> Iterator[Slack]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            here.times.append(time.monotonic())
            here.requests.append((self.path, dict(self.headers), sent))
            reply = here.reply()
            if reply.hangs:
                here.stopping.wait()
                return
            here.stopping.wait(reply.after_seconds)
            if reply.status == 200 and "false" not in reply.body:
                here.texts.append(sent["text"])
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Slack(f"http://127.0.0.1:{server.server_port}/", replies or [Reply()])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield here
    finally:
        here.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
