"""The paths of the service. Every answer is from published versions; every error is JSON that says what to do."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from importlib.resources import files
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline import catalog, rendering, serving
from pipeline.errors import PipelineError, RefusedToStart, UsageError
from pipeline.report import page
from pipeline.served import columns_of
from pipeline.service.answers import Answer, Answers, Expired, TooLong
from pipeline.service.measures import Measures
from pipeline.service.questions import Question, asked, types_of
from pipeline.settings import Settings
from pipeline.tables import local_path

__all__ = ["app_of"]

_STATUS: dict[type[PipelineError], int] = {UsageError: 400, RefusedToStart: 404, Expired: 410, TooLong: 504}
_OPEN = ("/healthz",)
_LOOPBACK = ["127.0.0.1", "localhost", "[::1]", "::1"]
_UTC_FIELDS = ("horizon", "watermark", "batch_committed_at", "speed_committed_at")


def app_of(settings: Settings) -> FastAPI:
    # Its pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="pipeline", version="1", docs_url=None, redoc_url=None, description=__doc__ or "")
    answers, measures, pictures = Answers(settings), Measures(settings), _Pictures(settings)
    views = catalog.views(settings)

    @app.get("/views", summary="The views, their columns and how far they reach")
    def list_views() -> Any:
        return [_described(settings, name) for name in views]

    @app.get("/views/{view}", summary="Rows of a view", openapi_extra=_parameters(settings))
    def rows(view: str, request: Request) -> Response:
        if view not in views:
            raise RefusedToStart(f"there is no view {view[:80]!r}. There are: {', '.join(views)}.")
        question = asked(views[view], request.query_params.multi_items(), max_rows=settings.serve.max_rows)
        return _written(question, answers.answer(question), request)

    @app.get("/healthz", summary="Whether the lake can be read")
    def health() -> Response:
        lake = local_path(settings.lake.root)
        is_well = lake is not None and lake.is_dir() and any(lake.iterdir())
        told = "ok" if is_well else f"there is no lake at {settings.lake.root}"
        return JSONResponse({"status": told}, 200 if is_well else 503)

    @app.get("/metrics", summary="For Prometheus")
    def metrics() -> Response:
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    def live() -> Response:
        return Response(pictures.html(), media_type="text/html", headers={"Cache-Control": "no-store"})

    @app.get("/live.js", include_in_schema=False)
    def script() -> Response:
        return Response(
            files("pipeline.service").joinpath("live.js").read_bytes(), media_type="text/javascript"
        )

    @app.exception_handler(PipelineError)
    def refused(_: Request, error: PipelineError) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 503)
        return JSONResponse({"error": type(error).__name__, "message": error.message}, status)

    @app.exception_handler(Exception)
    def broken(_: Request, error: Exception) -> Response:
        told = f"This is a fault of the service itself: {type(error).__name__}. Its log has the stack trace."
        return JSONResponse({"error": "Fault", "message": told}, 500)

    @app.middleware("http")
    async def guard(request: Request, next_one: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        token = settings.serve.token
        if token is not None and request.url.path not in _OPEN and not _brings(request, token):
            told = {"error": "Unauthorized", "message": "Bring the token: Authorization: Bearer TOKEN."}
            answer: Response = JSONResponse(told, 401, headers={"WWW-Authenticate": 'Basic realm="pipeline"'})
        else:
            answer = await next_one(request)
        route = request.scope.get("route")
        measures.note(getattr(route, "path", "other"), answer.status_code, time.perf_counter() - began)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    if settings.serve.token is None:
        # Else a page from elsewhere could ask through the reader's browser, under a name that leads here.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK)
    return app


class _Pictures:
    """The page, made anew when somebody asks and it is older than serve.refresh_seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lock = settings, Lock()
        self._html, self._made_at = b"", float("-inf")

    def html(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._made_at > self._settings.serve.refresh_seconds:
                self._html = page.make(self._settings, script="/live.js").html.encode("utf-8")
                self._made_at = time.monotonic()
            return self._html


def _described(settings: Settings, name: str) -> dict[str, Any]:
    view = catalog.views(settings)[name]
    state = serving.states(None, settings, view)[name]
    return {
        "view": name,
        "keys": view.keys,
        "columns": {column: of.simpleString() for column, of in types_of(view, "served").items()},
        "layers": [layer for layer, table in (("speed", state.speed), ("batch", state.batch)) if table],
        "horizon": _instant(state.horizon),
        "rows": f"/views/{name}",
    }


def _written(question: Question, answer: Answer, request: Request) -> Response:
    """The answer as one JSON object, or as CSV for who accepts that."""
    pages = {}
    if answer.next_page:
        url = request.url.include_query_params(cursor=str(answer.next_page))
        pages["next"] = f"{url.path}?{url.query}"
    if request.headers.get("accept", "").startswith("text/csv"):
        lines = "\n".join(rendering.csv_lines(answer.columns, answer.rows))
        links = {"Link": f'<{pages["next"]}>; rel="next"'} if pages else {}
        return Response(lines + "\n", media_type="text/csv", headers=links)
    now = datetime.now(timezone.utc)
    told = {
        "view": question.view.name,
        "layer": question.layer,
        "as_of": _instant(question.as_of),
        "horizon": _instant(answer.freshness[0].horizon),
        "freshness": [
            {name: _instant(value) if name in _UTC_FIELDS else value for name, value in vars(one).items()}
            | {"age_seconds": _age(now, one.batch_committed_at, one.speed_committed_at)}
            for one in answer.freshness
        ],
        **pages,
        "columns": columns_of(question.view, question.layer),
    }
    rows = ",\n".join(rendering.json_lines(answer.columns, answer.rows))
    text = f'{json.dumps(told, ensure_ascii=False)[:-1]}, "rows": [{rows}]}}'
    return Response(text, media_type="application/json")


def _age(now: datetime, *times: datetime | None) -> float | None:
    """Seconds since one of its tables was committed."""
    known = [time for time in times if time]
    return round((now - max(known)).total_seconds(), 3) if known else None


def _instant(time: datetime | None) -> str | None:
    return None if time is None else json.loads(next(rendering.json_lines(["at"], [(time,)])))["at"]


def _brings(request: Request, token: str) -> bool:
    """By `Authorization: Bearer`, or as the password that a browser asks for."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    return scheme.lower() in ("bearer", "basic") and hmac.compare_digest(given.encode(), str(token).encode())


def _parameters(settings: Settings) -> dict[str, Any]:
    """What OpenAPI says of the parameters: the known ones, and that each column is one."""

    def parameter(name: str, text: str) -> dict[str, Any]:
        return {
            "name": name,
            "in": "query",
            "required": False,
            "description": text,
            "schema": {"type": "string"},
        }

    of_columns = {
        "name": "filters",
        "in": "query",
        "required": False,
        "style": "form",
        "explode": True,
        "description": "A column and its value, several for any of them; column.ne, .lt, .lte, .gt, .gte compare.",
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        "example": {"customer_id": "c-00000", "window_start.gte": "2026-01-01T12:00:00Z"},
    }
    return {
        "parameters": [
            parameter("layer", "served (default), speed or batch"),
            parameter(
                "order_by", "columns, separated by commas; -column for the largest first; then by the keys"
            ),
            parameter("limit", f"rows in this answer: 1 to {settings.serve.max_rows}, 100 by default"),
            parameter("as_of", "all tables and the horizon as they were then: 2026-03-01T12:00:00Z"),
            parameter("cursor", "the next page of the same versions, as `next` of the answer before has it"),
            of_columns,
        ],
    }
