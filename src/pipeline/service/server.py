"""The server process."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from pipeline import console
from pipeline.service.app import app_of
from pipeline.settings import Settings

__all__ = ["serve"]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the server, and that is all they do; uvicorn would raise them once more afterwards."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def serve(settings: Settings, listening: socket.socket) -> None:
    """Answer on the socket until SIGTERM or Ctrl-C."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    console.note(
        f"http://{shown}:{port}/ shows the lake {settings.lake.root}; rows at /views. Ctrl-C ends it."
    )
    config = uvicorn.Config(
        app_of(settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    _Server(config).run(sockets=[listening])
