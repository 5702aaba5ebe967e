"""`pipeline serve`: the views over HTTP, without Spark, and a live page of the report's pictures. It only reads."""

from __future__ import annotations

import socket

from pipeline.errors import SetupError, UsageError
from pipeline.loopback import is_loopback
from pipeline.reading import lake_here
from pipeline.settings import Settings

__all__ = ["run"]


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises UsageError where the address cannot be taken, or is not loopback and there is no token; RefusedToStart where there is
    no lake; SetupError where the extra `serve` is not installed.
    """
    lake_here(settings.lake.root, what="pipeline serve")
    if settings.serve.token is None and not is_loopback(settings.serve.host):
        raise UsageError(
            f"serve.host is {settings.serve.host}, which other machines can reach, and there is no serve.token.\n"
            "Set one (serve.token: ${env:PIPELINE_SERVE_TOKEN}), or serve on 127.0.0.1, which is the default."
        )
    try:
        from pipeline.service import server
    except ModuleNotFoundError as error:
        raise SetupError(
            f"pipeline serve needs {error.name}, which is not installed. Install it: pip install 'pipeline[serve]'."
        ) from error
    server.serve(settings, _listening(settings.serve.host, settings.serve.port))


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.\n"
            "Is something else there? Name another port: --set serve.port=0 takes any that is free."
        ) from error
