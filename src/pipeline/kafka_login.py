"""How Kafka lets us in: the options of the Java client that Spark brings, and what they are for librdkafka.

The configuration has them once, as Spark takes them (`kafka.security.protocol`, `kafka.sasl.jaas.config`, …). Every other
client of ours gets them through `client_options`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError, SetupError
from pipeline.java import require_java
from pipeline.loopback import is_loopback

__all__ = ["client_options", "has_login", "is_translatable", "protocol_of", "require_encryption"]

_JAAS = re.compile(
    r'\s*(?P<module>[\w.$]+)\s+(?:required|requisite|sufficient|optional)(?P<options>(?:\s+[\w.]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";]+))*)\s*;\s*',
)
_JAAS_OPTION = re.compile(r'([\w.]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";]+))')
_BY_PASSWORD = ("ScramLoginModule", "PlainLoginModule")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def require_encryption(
    bootstrap_servers: str, options: Mapping[str, Any], *, is_plaintext_allowed: bool
) -> None:
    """Raise ConfigurationError where records, and logins, would cross a network as plain text that nobody has allowed."""
    if is_plaintext_allowed or protocol_of(options) in {"SSL", "SASL_SSL"}:
        return
    away = [one for one in bootstrap_servers.split(",") if not is_loopback(one.rpartition(":")[0])]
    if away:
        raise ConfigurationError(
            f"Kafka at {', '.join(away)} would be spoken to in plain text ({protocol_of(options)}): whoever is on the way could "
            "read and change every event.\nEncrypt it: kafka.options: {kafka.security.protocol: SASL_SSL, …}, as docs/security.md "
            "shows. Where the network itself is safe, say so: kafka.allow_plaintext: true.",
            key="kafka.allow_plaintext",
        )


def protocol_of(options: Mapping[str, Any]) -> str:
    """Also where it is written as librdkafka takes it."""
    given = options.get("kafka.security.protocol", options.get("security.protocol", "PLAINTEXT"))
    return str(given).upper()


def has_login(options: Mapping[str, Any]) -> bool:
    return protocol_of(options) != "PLAINTEXT"


def is_translatable(options: Mapping[str, Any]) -> bool:
    """Whether other clients than Java's can have this login. Kerberos and OAuth are the Java client's alone."""
    is_sasl = str(options.get("kafka.security.protocol", "")).upper().startswith("SASL")
    return not is_sasl or _mechanism(options) in _MECHANISMS


def client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of librdkafka: those named `kafka.…` are Java's and are translated as far as they are about the login, others stay.

    Raises ConfigurationError where a login is not written as Java would take it, or librdkafka cannot have it.
    """
    java = {name: str(value) for name, value in options.items() if name.startswith("kafka.")}
    own = {name: value for name, value in options.items() if name not in java}
    return {**(_protocol(java) if has_login(java) else {}), **own}


def _protocol(java: Mapping[str, str]) -> dict[str, Any]:
    protocol = protocol_of(java)
    found: dict[str, Any] = {"security.protocol": protocol}
    if protocol.startswith("SASL"):
        found |= _sasl(java)
    if protocol.endswith("SSL"):
        found |= {**_checked_name(java), **_authorities(java), **_own_certificate(java)}
    return found


# --- SASL: who we say we are


def _mechanism(java: Mapping[str, str]) -> str:
    return java.get("kafka.sasl.mechanism", "GSSAPI")


def _sasl(java: Mapping[str, str]) -> dict[str, str]:
    if not is_translatable(java):
        raise _wrong(
            "kafka.sasl.mechanism",
            f"one of {', '.join(_MECHANISMS)}; {_mechanism(java)} is the Java client's alone",
        )
    user, password = _credentials(java.get("kafka.sasl.jaas.config", ""))
    return {"sasl.mechanism": _mechanism(java), "sasl.username": user, "sasl.password": password}


def _credentials(jaas: str) -> tuple[str, str]:
    """User and password as Java's configuration of a login has them: `MODULE required username="…" password="…";`."""
    found = _JAAS.fullmatch(jaas)
    options = {
        name: re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
        for name, quoted, bare in _JAAS_OPTION.findall(found["options"] if found else "")
    }
    is_by_password = found is not None and found["module"].rpartition(".")[2] in _BY_PASSWORD
    if not is_by_password or not {"username", "password"} <= {*options}:
        raise _wrong(
            "kafka.sasl.jaas.config",
            'org.apache.kafka.common.security.scram.ScramLoginModule required username="…" password="${env:NAME}"; with the '
            "semicolon at its end (or plain.PlainLoginModule)",
        )
    return options["username"], options["password"]


# --- TLS: whom we believe, and what we show


def _checked_name(java: Mapping[str, str]) -> dict[str, str]:
    given = java.get("kafka.ssl.endpoint.identification.algorithm", "https")
    return {"ssl.endpoint.identification.algorithm": given.lower() or "none"}


def _authorities(java: Mapping[str, str]) -> dict[str, str]:
    """Whose signature a broker's certificate must have; without any, those that the system believes."""
    if "kafka.ssl.truststore.certificates" in java:
        return {"ssl.ca.pem": java["kafka.ssl.truststore.certificates"]}
    location = java.get("kafka.ssl.truststore.location")
    if location is None:
        return {}
    _require_file("kafka.ssl.truststore.location", location)
    if java.get("kafka.ssl.truststore.type", "JKS").upper() == "PEM":
        return {"ssl.ca.location": location}
    return {"ssl.ca.pem": _as_pem(location, java.get("kafka.ssl.truststore.password", ""))}


def _own_certificate(java: Mapping[str, str]) -> dict[str, str]:
    found = {}
    if "kafka.ssl.key.password" in java:
        found["ssl.key.password"] = java["kafka.ssl.key.password"]
    if "kafka.ssl.keystore.key" in java:
        chain = java.get("kafka.ssl.keystore.certificate.chain", "")
        return {**found, "ssl.certificate.pem": chain, "ssl.key.pem": java["kafka.ssl.keystore.key"]}
    location = java.get("kafka.ssl.keystore.location")
    if location is None:
        return {}
    _require_file("kafka.ssl.keystore.location", location)
    kind = java.get("kafka.ssl.keystore.type", "JKS").upper()
    if kind == "PEM":
        return {**found, "ssl.certificate.location": location, "ssl.key.location": location}
    if kind == "PKCS12":
        password = java.get("kafka.ssl.keystore.password", "")
        return {"ssl.keystore.location": location, "ssl.keystore.password": password}
    raise _wrong(
        "kafka.ssl.keystore.type",
        f"PEM or PKCS12; {kind} only Java can read (keytool -importkeystore makes a PKCS12 of it)",
    )


@lru_cache
def _as_pem(location: str, password: str) -> str:
    """The certificates of a Java truststore, written by Java's own keytool; the password goes by the environment."""
    keytool = require_java().with_name("keytool")
    command = [str(keytool), "-list", "-rfc", "-keystore", location, "-storepass:env", "STORE_PASSWORD"]
    try:
        told = subprocess.run(
            command, env={**os.environ, "STORE_PASSWORD": password}, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{keytool} does not run, which is to read {location}: {error}.") from error
    found = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", told.stdout, re.DOTALL)
    if told.returncode or not found:
        raise _wrong(
            "kafka.ssl.truststore.location",
            f"a truststore that kafka.ssl.truststore.password opens; {location} is not ({(told.stdout + told.stderr).strip()[:200]})",
        )
    return "\n".join(found) + "\n"


def _require_file(key: str, location: str) -> None:
    if not os.access(location, os.R_OK) or not Path(location).is_file():
        raise _wrong(key, f"a file that this user can read; {location} is none")


def _wrong(key: str, expected: str) -> ConfigurationError:
    """What came is not told: it may be secret."""
    return ConfigurationError(f"kafka.options.{key} must be {expected}.", key=f"kafka.options.{key}")
