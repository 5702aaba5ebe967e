"""The loopback ports that embedded services listen on."""

from __future__ import annotations

import socket

from pipeline.errors import SetupError

__all__ = ["HOST", "claim_port"]

HOST = "127.0.0.1"


def claim_port(port: int, *, service: str) -> int:
    """The port, or a free one for 0; SetupError where something listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SetupError(
                f"The embedded {service} cannot listen on {HOST}:{port}: {error.strerror}. Stop what uses the port "
                f"(another `pipeline up`?), or choose another: --set devservices.{service.lower()}_port=…"
            ) from error
        return int(probe.getsockname()[1])
