"""A broker as one is secured: TLS, SCRAM-SHA-512, client certificates, ACLs; and who it knows.

All listeners are on loopback. The plain one is for the tests themselves: they are the super user there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import load_pem_x509_certificate

from pipeline.devservices import kafka
from pipeline.devservices.ports import claim_port

_SECURED = {"SCRAM": "SASL_SSL", "CERTIFICATE": "SSL", "OTHERNAME": "SASL_SSL", "EXPIRED": "SASL_SSL"}
_LOGIN = 'org.apache.kafka.common.security.scram.ScramLoginModule required username="{}" password="{}";'


@dataclass(frozen=True)
class Secured:
    """`ports` by listener: SCRAM, CERTIFICATE, and OTHERNAME and EXPIRED, whose certificates are what they are called."""

    plain: str
    home: Path
    ports: Mapping[str, int]

    def at(self, listener: str = "SCRAM") -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def as_user(
        self, name: str, password: str | None = None, *, authority: str = "authority"
    ) -> dict[str, str]:
        """The options of Spark's Kafka client for a user."""
        return {
            "kafka.security.protocol": "SASL_SSL",
            "kafka.sasl.mechanism": "SCRAM-SHA-512",
            "kafka.sasl.jaas.config": _LOGIN.format(name, password or password_of(name)),
            "kafka.ssl.truststore.type": "PEM",
            "kafka.ssl.truststore.location": str(self.home / f"{authority}.pem"),
        }

    def by_certificate(self, name: str, *, kind: str = "PEM") -> dict[str, str]:
        """As `as_user`, for who shows a certificate: `client`, or a `stranger`, whose authority the broker does not know."""
        own = {
            "PEM": {"kafka.ssl.keystore.location": str(self.home / f"{name}.pem")},
            "PKCS12": {
                "kafka.ssl.keystore.location": str(self.home / f"{name}.p12"),
                "kafka.ssl.keystore.password": password_of(name),
            },
        }
        return {
            "kafka.security.protocol": "SSL",
            "kafka.ssl.truststore.type": "PEM",
            "kafka.ssl.truststore.location": str(self.home / "authority.pem"),
            "kafka.ssl.keystore.type": kind,
            **own[kind],
        }

    def know(self, user: str) -> None:
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        added = UserScramCredentialUpsertion(user, how, password_of(user).encode())
        admin = self._admin()  # it takes its answers with it when it goes
        for done in admin.alter_user_scram_credentials([added]).values():
            done.result(10)

    def grant(self, user: str, rights: Iterable[tuple[str, str]]) -> None:
        """`rights`: operation and topic, or operation and `group:` with its name."""
        bindings = [_binding(user, operation, of) for operation, of in rights]
        admin = self._admin()
        for done in admin.create_acls(bindings).values():
            done.result(10)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.plain, "log_level": 0})


def password_of(name: str) -> str:
    return f"pass-of-{name}"


@contextmanager
def secured_broker(home: Path) -> Iterator[Secured]:
    _issue(home)
    ports = {name: claim_port(0, service="Kafka") for name in ("PLAINTEXT", "CONTROLLER", *_SECURED)}
    found = Secured(f"127.0.0.1:{ports['PLAINTEXT']}", home, ports)
    with kafka.broker(home / "broker", ports["PLAINTEXT"], properties=_properties(home, ports)):
        yield found


def _properties(home: Path, ports: Mapping[str, int]) -> dict[str, str]:
    at = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **_SECURED}
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        "listeners": ",".join(at.values()),
        "advertised.listeners": ",".join(one for name, one in at.items() if name != "CONTROLLER"),
        "listener.security.protocol.map": ",".join(f"{name}:{of}" for name, of in protocols.items()),
        "inter.broker.listener.name": "PLAINTEXT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        **{
            f"listener.name.{name.lower()}.scram-sha-512.sasl.jaas.config": scram
            for name, protocol in _SECURED.items()
            if protocol == "SASL_SSL"
        },
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(home / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(home / "authority.pem"),
        "listener.name.certificate.ssl.client.auth": "required",
        "listener.name.othername.ssl.keystore.location": str(home / "othername.pem"),
        "listener.name.expired.ssl.keystore.location": str(home / "expired.pem"),
    }


def _issue(home: Path) -> None:
    day, now = timedelta(days=1), datetime.now(timezone.utc)
    known, unknown = trustme.CA(), trustme.CA()
    known.cert_pem.write_to_path(home / "authority.pem")
    unknown.cert_pem.write_to_path(home / "unknown.pem")
    _keep(home / "server", known.issue_cert("127.0.0.1"))
    _keep(home / "othername", known.issue_cert("elsewhere.example"))
    _keep(home / "expired", known.issue_cert("127.0.0.1", not_before=now - 9 * day, not_after=now - day))
    _keep(home / "client", known.issue_cert("client.example", common_name="client"))
    _keep(home / "stranger", unknown.issue_cert("stranger.example", common_name="stranger"))


def _keep(file: Path, issued: trustme.LeafCert) -> None:
    """Key and certificates as PEM, which Kafka reads in PKCS #8 only, and as PKCS #12."""
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = [one.bytes() for one in issued.cert_chain_pems]
    file.with_suffix(".pem").write_bytes(plain + b"".join(chain))
    first, *others = map(load_pem_x509_certificate, chain)
    password = serialization.BestAvailableEncryption(password_of(file.name).encode())
    file.with_suffix(".p12").write_bytes(
        pkcs12.serialize_key_and_certificates(b"own", key, first, others, password)  # type: ignore[arg-type]
    )


def _binding(user: str, operation: str, of: str) -> AclBinding:
    kind, _, name = of.rpartition(":")
    return AclBinding(
        ResourceType.GROUP if kind == "group" else ResourceType.TOPIC,
        name,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[operation],
        AclPermissionType.ALLOW,
    )
