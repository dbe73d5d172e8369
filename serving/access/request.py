"""What the guard decides on, and what it answers: plain values, without a framework or a socket."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from contracts.access import KeyScope
from serving.access.limits import Headers, Limit
from serving.admission import RequestRefusedError

REALM = b'Bearer realm="paceline"'
# the words that ask a client for a signature (RFC 9421, section 5)
ACCEPT_SIGNATURE = (b"accept-signature", b'sig1=("@method" "@authority" "@path" "@query" "content-digest");created')


class ClientCertificate(NamedTuple):
    """The peer's certificate, which the handshake has verified.

    `names` are those of its owner, the most exact kind first, as the access file writes them (`URI:…`, `DNS:…`,
    `email:…`, `CN:…`); `thumbprint` is the SHA-256 of the whole certificate, `not_after_s` (Unix time) its end.
    """

    names: tuple[str, ...]
    thumbprint: bytes
    not_after_s: float


class RequestHead(NamedTuple):
    """A request before its body. A tuple and no dataclass, since one is made for each request.

    `path` is as it stands in the request line, before percent-decoding and without the query; the names of `headers`
    are in lower case. `certificate` is that of the connection, `peer` the address at its other end.
    """

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    scheme: str = "http"
    certificate: ClientCertificate | None = None
    peer: str | None = None


class Admission(NamedTuple):
    """A request that may come in. `headers` belong on its answer.

    `check_body`, of a signed request, takes the whole body, and raises AccessRefusedError where another was signed.
    """

    client: str | None
    key_id: str | None
    headers: Headers
    check_body: Callable[[bytes], None] | None


class AccessRefusedError(RequestRefusedError):
    """401, 403 or 429, with the headers that tell a client what to do about it."""

    def __init__(self, status: int, detail: str, headers: Headers) -> None:
        super().__init__(status, detail, headers=headers)


class Grant(NamedTuple):
    """Who a credential stands for, and what it opens, as the hot path needs it.

    `expires_s` is Unix time. `id` names the credential, and is no secret. `must_sign`: good only for signed requests.
    """

    id: str
    client: str
    scopes: frozenset[KeyScope]
    expires_s: float
    limit: Limit | None
    must_sign: bool = False


class CredentialRefusedError(Exception):
    """A credential of some kind that is not taken: the words for the client, and whether to come back."""

    def __init__(self, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
