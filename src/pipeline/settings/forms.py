"""What a value must look like: each form takes it and gives it in its one spelling, or raises ValueError(expected)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

__all__ = [
    "COUNT",
    "between",
    "brokers",
    "consumer_option",
    "day",
    "filled",
    "http_address",
    "interval",
    "location",
    "modules",
    "one_of",
    "path",
    "postgres_url",
    "slack_address",
    "spark_option",
    "topic",
]


def brokers(value: str) -> str:
    addresses = [address.strip() for address in value.split(",") if address.strip()]
    if not addresses or not all(_is_address(address) for address in addresses):
        raise ValueError("host:port, several separated by commas")
    return ",".join(addresses)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return (
        re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.%]+\]", host) is not None
        and port.isdecimal()
        and 0 < int(port) < 65536
    )


def postgres_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_one_server = parts.hostname is not None and "," not in parts.hostname and parts.port != 0
        is_complete = bool(parts.scheme in {"postgresql", "postgres"} and is_one_server and parts.path[1:])
    except ValueError:  # a port that is no number
        is_complete = False
    if not is_complete:
        raise ValueError("a URL of one server such as postgresql://user:${env:PASSWORD}@host:5432/database")
    return value.replace("passfile=~/", f"passfile={Path.home()}/")


def topic(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value) or value in {".", ".."}:
        raise ValueError("a topic name: 1 to 249 of A-Z a-z 0-9 . _ -")
    return value


def modules(value: str) -> str:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names or not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError("names of Python modules, several separated by commas")
    return ",".join(dict.fromkeys(names))


def interval(value: str) -> str:
    if not re.fullmatch(r"\d+ +(millisecond|second|minute|hour)s?", value.strip()):
        raise ValueError('an interval such as "1 second" or "500 milliseconds"')
    return value.strip()


def location(value: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value):
        return value.rstrip("/") if re.search(r"[^:/]/*$", value) else value
    if not value.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
        raise ValueError("a path, or a URL such as file:///data/lake, hdfs:///lake or s3a://bucket/lake")
    return path(value)


def path(value: str) -> str:
    if not value.strip():
        raise ValueError("a path")
    return str(Path(value).expanduser().absolute())


def day(value: str) -> str:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("another form")
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("a day such as 2024-01-01") from None
    return value


def one_of(*names: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(" or ".join(names))
        return value

    return check


def between(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def filled(value: str) -> str:
    if not value.strip():
        raise ValueError("a text that is not empty")
    return value


def slack_address(value: str) -> str:
    """Plain HTTP would show the credentials to everybody on the way; on this machine nobody is on it."""
    if not re.match(r"https://[^/\s]+/|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/", value):
        raise ValueError("an https:// address")
    return value


def http_address(value: str) -> str:
    if not re.match(r"https?://[^/\s]+", value):
        raise ValueError("an http:// or https:// address")
    return value


def consumer_option(name: str) -> str:
    if not name.startswith("kafka.") or name == "kafka.bootstrap.servers":
        raise ValueError(
            "named `kafka.…`, as Spark takes consumer options (the brokers are kafka.bootstrap_servers)"
        )
    return name


def spark_option(name: str) -> str:
    if not name.startswith("spark."):
        raise ValueError("named `spark.…`, as Spark's options are")
    return name


COUNT = between(1, 2**63 - 1)
