"""One message to Slack, once, through slack-sdk: taken or not, never an exception, and never a word of its credentials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import SetupError

if TYPE_CHECKING:
    from pipeline.settings import Alerts

__all__ = ["Answer", "Post", "poster"]

_TIMEOUT_SECONDS = 10

# slack-sdk logs each request with its URL, which is the webhook's secret, and asks its logger for DEBUG by itself.
_SILENT = logging.getLogger("pipeline.slack_sdk")
_SILENT.setLevel(logging.CRITICAL + 1)
_SILENT.propagate = False


class Answer(NamedTuple):
    """Whether Slack took the message, else why not, and for how long it asked to be left alone."""

    is_taken: bool
    reason: str = ""
    retry_after_seconds: float | None = None


Post = Callable[[str], Answer]


def poster(settings: Alerts) -> Post | None:
    """What sends a text to the configured channel; None where no token and no webhook is configured.

    Raises SetupError where slack-sdk is not installed.
    """
    if settings.token is None and settings.webhook_url is None:
        return None
    try:
        from slack_sdk import WebClient, WebhookClient
    except ImportError as error:
        raise SetupError(
            "alerts are configured, but slack-sdk is not installed. Install it: pip install 'pipeline[alerts]'."
        ) from error
    # It could retry by itself, but would sleep through what else there is to write down and through the end.
    options: dict[str, Any] = {"timeout": _TIMEOUT_SECONDS, "logger": _SILENT, "retry_handlers": []}
    if settings.webhook_url is not None:
        webhook = WebhookClient(settings.webhook_url, **options)
        return lambda text: _answer(lambda: webhook.send(text=text))
    client, channel = WebClient(settings.token, base_url=settings.api_url, **options), settings.channel
    return lambda text: _answer(lambda: client.chat_postMessage(channel=channel, text=text))


def _answer(send: Callable[[], Any]) -> Answer:
    from slack_sdk.errors import SlackApiError

    try:
        response = send()
    except SlackApiError as error:
        response = error.response
    except Exception as error:  # noqa: BLE001  # nothing that Slack does may stop what reports to it
        # The text of an error may hold the webhook's address: its name has to do.
        inner = getattr(error, "reason", None)
        return Answer(is_taken=False, reason=type(inner if isinstance(inner, Exception) else error).__name__)
    status, headers = int(response.status_code), response.headers
    refusal = response.get("error") if hasattr(response, "get") else None
    if status == 200 and not refusal:
        return Answer(is_taken=True)
    return Answer(
        is_taken=False,
        reason=f"HTTP {status}" if status != 200 else str(refusal)[:80],
        retry_after_seconds=_retry_after(headers) if status == 429 else None,
    )


def _retry_after(headers: Mapping[str, Any]) -> float:
    named = {name.lower(): value for name, value in headers.items()}
    text = str(named.get("retry-after", ""))
    return float(text) if text.isdecimal() else 1.0
