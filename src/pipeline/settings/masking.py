"""What is secret among the settings: how it is masked wherever it is shown, and where it must not stand as itself."""

from __future__ import annotations

import re

from pipeline.errors import ConfigurationError
from pipeline.settings.schema import KeyPath

__all__ = [
    "MASK",
    "REFERENCE",
    "SECRET_NAME",
    "URL_LOGIN",
    "Secret",
    "is_secret",
    "masked",
    "refuse_secret",
    "values_inside",
]

MASK = "********"
REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")
SECRET_NAME = re.compile(
    r"password|passwd|secret|token|webhook|credential|jaas|(access|api|private|account|encryption|keystore)[._-]?key",
    re.I,
)
ABOUT_A_SECRET = re.compile(
    r"\.(enabled|provider|path|mechanism|url|class|type|location|file|ms|seconds|service|name)$|(File|BitLength)$|^spark\.kubernetes\."
)
"""Names of keys that have a word of SECRET_NAME in them and no secret behind them."""
NAMED_SECRET = re.compile(
    r"(?:password|passwd|secret|token|api_?key)[\w.]*\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|'?(?P<value>[^\s\"'&;]+))",
    re.I,
)
LOGIN = re.compile(r"://[^/@\s:]*:(?P<value>\S+)@|//hooks\.slack\.com/services/(?P<webhook>\S+)", re.I)
# The first form also where a password has signs in it that a URL should spell as %40 or %2F.
URL_LOGIN = re.compile(r"(?<=://)[^/@\s:]+:\S+(?=@)|(?<=://)[^/@\s]+(?=@)|(?<=password=)[^&;\s]+", re.I)


class Secret(str):
    """A text that is itself in use and `shown` wherever it is displayed through repr or `flattened`."""

    shown: str

    def __new__(cls, value: str, shown: str = MASK) -> Secret:
        secret = super().__new__(cls, value)
        secret.shown = shown
        return secret

    def __repr__(self) -> str:
        return repr(self.shown)


def is_secret(path: KeyPath) -> bool:
    """Whether the key's name says that its value is one."""
    return bool(SECRET_NAME.search(path[-1])) and not ABOUT_A_SECRET.search(path[-1])


def masked(path: KeyPath, text: str) -> str:
    """Also what should have come through ${env:…}: a value whose key says that it is secret, and the login in a URL."""
    shown = text.shown if isinstance(text, Secret) else text
    if is_secret(path):
        return Secret(text)
    shown = URL_LOGIN.sub(MASK, shown)
    return Secret(text, shown) if shown != text else text


def refuse_secret(path: KeyPath, text: str, source: str) -> None:
    """Everybody may read a file of the project, and the command line of a process: no secret stands there as itself."""
    is_written = is_secret(path) and not REFERENCE.search(text)
    is_written = is_written or any(REFERENCE.sub("", value) for value in values_inside(text))
    dotted = ".".join(path)
    if is_written and text not in ("true", "false"):
        raise ConfigurationError(
            f"{source}: {dotted} holds a secret as itself. Write ${{env:NAME}} or ${{file:/absolute/path}} in its place, or "
            "set the key by its PIPELINE_ variable.",
            source=source,
            key=dotted,
        )
    if path[-1].endswith("JavaOptions") and NAMED_SECRET.search(text):
        raise ConfigurationError(
            f"{source}: {dotted} holds a secret, and Java's options stand in the list of processes. Let the option name a file.",
            source=source,
            key=dotted,
        )


def values_inside(text: str) -> list[str]:
    """What stands in the text as a password, a token or the like: of a URL, of a login of Kafka's, of an option."""
    found = [one.groupdict().values() for pattern in (NAMED_SECRET, LOGIN) for one in pattern.finditer(text)]
    return [value for values in found for value in values if value]
