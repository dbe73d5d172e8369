"""Mutual TLS: the verified certificate of a connection, and whom its names stand for."""

import asyncio
import hashlib
import math
import ssl
from collections.abc import Container, Mapping

from contracts.access_file import CERTIFICATE_NAME_KINDS, AccessFile
from serving.access.limits import Limit
from serving.access.request import ClientCertificate, Grant

_COMMON_NAME = "commonName"


class CertificateClients:
    """The clients in force by a name in their certificates."""

    def __init__(self, grants: Mapping[str, Grant]) -> None:
        self._grants = grants

    @classmethod
    def of(cls, file: AccessFile, project: str, usual: Limit | None, must_sign: Container[str]) -> "CertificateClients":
        """A client for other projects only is known here, and has no scope."""
        return cls(
            {
                each.name: Grant(
                    id=each.name,
                    client=each.client,
                    scopes=frozenset(each.scopes) if not each.projects or project in each.projects else frozenset(),
                    expires_s=math.inf,
                    limit=usual if each.rate_per_s is None else Limit.of(each.rate_per_s, each.burst),
                    must_sign=each.client in must_sign,
                )
                for each in file.certificates
            }
        )

    def find(self, certificate: ClientCertificate, now_s: float) -> Grant | None:
        """The grant of the first name that has one; none once the certificate has run out on an open connection."""
        if now_s >= certificate.not_after_s:
            return None
        for name in certificate.names:
            found = self._grants.get(name)
            if found is not None:
                return found
        return None

    @property
    def grants(self) -> list[Grant]:
        """What all names open."""
        return list(self._grants.values())


def certificate_of(transport: asyncio.BaseTransport) -> ClientCertificate | None:
    """The peer's certificate that the handshake of this connection has verified, if any; once a connection."""
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    # a peer that was not verified has an empty one here
    found = connection.getpeercert()
    encoded = connection.getpeercert(binary_form=True)
    if not found or not encoded:
        return None
    return ClientCertificate(
        names=_names(found),
        thumbprint=hashlib.sha256(encoded).digest(),
        not_after_s=float(ssl.cert_time_to_seconds(found["notAfter"])),
    )


def _names(found: Mapping[str, object]) -> tuple[str, ...]:
    alternative = found.get("subjectAltName", ())
    subject = found.get("subject", ())
    assert isinstance(alternative, tuple)
    assert isinstance(subject, tuple)
    names = [(kind, value) for kind, value in alternative if kind in CERTIFICATE_NAME_KINDS]
    names += [("CN", value) for part in subject for kind, value in part if kind == _COMMON_NAME]
    names.sort(key=lambda name: CERTIFICATE_NAME_KINDS.index(name[0]))
    return tuple(f"{kind}:{value}" for kind, value in names)
