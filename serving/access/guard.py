"""The guard: one decision for each request, from its head alone, at once and without waiting for anything.

Everything that is not open by name needs a credential, also a path that does not exist.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from contracts.access import KEY_PREFIX, KeyFileError, KeyScope
from contracts.access_file import AccessFileError
from serving.access.audit import RefusalAudit
from serving.access.credentials import Credentials, InForce
from serving.access.limits import Allowance, DividedRateLimiter, Headers, Limit, RateLimiter
from serving.access.nonces import NoncesFullError
from serving.access.request import (
    ACCEPT_SIGNATURE,
    REALM,
    AccessRefusedError,
    Admission,
    CredentialRefusedError,
    Grant,
    RequestHead,
)
from serving.access.shared_limits import SharedRateLimiter
from serving.access.tokens import TokenVerifier
from serving.settings import PREFIX, Settings, SettingsError

if TYPE_CHECKING:
    from serving.access.signatures import Signed

CHECK_EVERY_S = 0.5
# livez, readyz, and the same questions in the words of other protocols: probes have no key. The page at /docs is one
# constant text for all servers; what it draws, /openapi.json, needs the scope metadata
OPEN_PATHS = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/ping", "/docs"})
CONTROL_PREFIX = "/control/"
_METRICS = "/metrics"
_CARRIERS = frozenset({b"x-api-key", b"authorization"})
_KEY_PREFIX = KEY_PREFIX.encode()
_CHALLENGE = (b"www-authenticate", REALM)
logger = logging.getLogger(__name__)


class Known(NamedTuple):
    """The grant of a head's API key, by the credentials that were in force."""

    in_force: InForce
    grant: Grant


def scope_of(path: str) -> KeyScope | None:
    """The scope that a route other than a prediction needs; None where no credential is asked for."""
    if path in OPEN_PATHS or path.startswith(CONTROL_PREFIX):
        return None
    return "metrics" if path == _METRICS else "metadata"


def open_access(settings: Settings) -> "Access | None":
    """The guard by `settings`; None where no credentials are configured: on loopback, or behind a gateway that asks.

    Raises:
        SettingsError: others can reach the server and no credentials are configured, or a file cannot be used.
    """
    if settings.keys is None and settings.access is None:
        if not settings.is_loopback and not settings.authenticated_in_front:
            raise SettingsError(
                f"{PREFIX}HOST is {settings.host}, which others can reach, and no API keys are configured: make a "
                f"file with `paceline keys create` and name it by {PREFIX}KEYS, or name an access file (bearer tokens, "
                f"client certificates, signed requests) by {PREFIX}ACCESS, or listen on 127.0.0.1; "
                f"{PREFIX}AUTHENTICATED_IN_FRONT=yes says that a gateway in front lets nobody through unknown"
            )
        return None
    usual = None if settings.rate_per_s is None else Limit.of(settings.rate_per_s, settings.burst)
    try:
        access = Access(
            settings.keys,
            project=settings.project,
            rules=settings.access,
            usual=usual,
            limiter=_limiter(settings),
            workers=settings.workers,
        )
    except KeyFileError as error:
        raise SettingsError(f"{PREFIX}KEYS is {settings.keys}, which cannot be used: {error}") from error
    except AccessFileError as error:
        raise SettingsError(f"{PREFIX}ACCESS is {settings.access}, which cannot be used: {error}") from error
    if access.credentials.rules.certificates and settings.tls_client_ca is None:
        raise SettingsError(
            f"{PREFIX}ACCESS has certificates, which nobody can show without {PREFIX}TLS_CLIENT_CA: set it, and "
            f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY"
        )
    return access


def _limiter(settings: Settings) -> RateLimiter:
    if settings.redis_url is not None:
        try:
            return SharedRateLimiter(settings.redis_url)
        except ValueError as error:
            # without the URL, which may have a password
            raise SettingsError(
                f"{PREFIX}REDIS_URL cannot be used: expected redis://[user:password@]host:port/0"
            ) from error
    return RateLimiter() if settings.workers == 1 else DividedRateLimiter(settings.workers)


class Access:
    """The credentials in force and the clients' buckets.

    `keys` is the file of the API keys, `rules` the access file. `usual` is the limit of credentials that have none of
    their own; None leaves them without. `workers` is how many processes there are like this one.
    """

    def __init__(
        self,
        keys: Path | None,
        *,
        project: str,
        rules: Path | None = None,
        usual: Limit | None = None,
        limiter: RateLimiter | None = None,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._project = project
        self._clock = clock
        self._wall_clock = wall_clock
        self._limiter = RateLimiter() if limiter is None else limiter
        self._audit = RefusalAudit(clock)
        self.credentials = Credentials(
            keys, rules, project=project, usual=usual, workers=workers, wall_clock=wall_clock
        )

    def admit(self, head: RequestHead, needed: KeyScope) -> Admission:
        """Lets a request in, or refuses it, by its head; `needed` is the scope of its route.

        Raises:
            AccessRefusedError: 401 without an active credential (one text for whatever is wrong with an API key), 403
                without the scope, 429 when the client's bucket is empty.
        """
        in_force = self.credentials.in_force
        signed = None if in_force.signatures is None else self._signed(head, needed, in_force)
        grant = self._grant_of(head, needed, in_force) if signed is None else signed.grant
        if needed not in grant.scopes:
            raise self._out_of_scope(head, needed, grant)
        if grant.must_sign and signed is None:
            detail = f"requests of {grant.client} must be signed (RFC 9421)"
            raise self._unsigned(head, needed, "unsigned", detail, grant)
        limit = grant.limit
        headers = () if limit is None else self._take(head, needed, grant, limit)
        check_body = None if signed is None else self._once(head, needed, signed, headers)
        return Admission(grant.client, grant.id, headers, check_body)

    def known(self, head: RequestHead, needed: KeyScope) -> Known | None:
        """What lets `head` in again and again without a look at it; None where each request has to be looked at.

        That is so for an API key alone, as long as the same credentials are in force. `head` has been let in before.
        """
        in_force = self.credentials.in_force
        if head.certificate is not None or in_force.tokens is not None or in_force.signatures is not None:
            return None
        grant = in_force.keys.find(_given(head)[0])
        if grant is None or needed not in grant.scopes or grant.must_sign:
            return None
        return Known(in_force, grant)

    def admit_known(self, known: Known) -> Headers | None:
        """The headers for the answer to a request with a `known` head; None where `admit` has to look at it."""
        grant = known.grant
        if known.in_force is not self.credentials.in_force or self._wall_clock() >= grant.expires_s:
            return None
        if grant.limit is None:
            return ()
        found = self._limiter.take(grant.client, grant.limit, self._clock())
        return _headers_of(grant.limit, found) if found.is_allowed else None

    def reload(self) -> bool:
        """Reads the files where they have changed; whether something else is in force now."""
        is_changed = self.credentials.reload()
        if is_changed:
            self._audit.keep_only(self.credentials.in_force.named)
        return is_changed

    async def watch(self) -> None:
        """Keeps files, issuers' keys and shared limits up to date for ever; no request waits for any of it."""
        tasks = [asyncio.create_task(self._limiter.run())] if isinstance(self._limiter, SharedRateLimiter) else []
        try:
            while True:
                try:
                    await self._check()
                except Exception:  # nobody would notice that credentials are no longer revoked
                    logger.exception("the credentials could not be looked at; the next look is in %g s", CHECK_EVERY_S)
                await asyncio.sleep(CHECK_EVERY_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.credentials.stop()

    async def _check(self) -> None:
        before = self.credentials.in_force
        await self.credentials.refresh()
        if self.credentials.in_force is not before:
            self._audit.keep_only(self.credentials.in_force.named)
        self._audit.flush()

    def collect(self) -> Iterator[Metric]:
        """The metric families of the guard."""
        yield from self._audit.collect()
        yield from self.credentials.collect()
        if isinstance(self._limiter, SharedRateLimiter):
            yield GaugeMetricFamily(
                "paceline_rate_limits_shared", "1 while Redis answers", value=float(not self._limiter.is_away)
            )
            yield CounterMetricFamily(
                "paceline_rate_limit_failures", "Exchanges that Redis did not answer", value=self._limiter.failures
            )

    def _signed(self, head: RequestHead, needed: KeyScope, in_force: InForce) -> "Signed | None":
        assert in_force.signatures is not None
        try:
            return in_force.signatures.verify(head, self._wall_clock())
        except CredentialRefusedError as refused:
            raise self._unsigned(head, needed, "signature", refused.detail) from None

    def _grant_of(self, head: RequestHead, needed: KeyScope, in_force: InForce) -> Grant:
        """By the header that carries a credential, or else the certificate; a wrong one in the header is refused.

        Raises:
            AccessRefusedError: there is none that is active.
        """
        given, is_bearer = _given(head)
        if is_bearer and in_force.tokens is not None and given and not given.startswith(_KEY_PREFIX):
            return self._by_token(head, given, needed, in_force.tokens)
        if not given and head.certificate is not None and in_force.certificates is not None:
            found = in_force.certificates.find(head.certificate, self._wall_clock())
        else:
            found = in_force.keys.find(given)
        if found is None or self._wall_clock() >= found.expires_s:
            raise self._refusal(head, needed, 401, in_force.wanted, in_force.challenge, "credential")
        return found

    def _by_token(self, head: RequestHead, token: bytes, needed: KeyScope, tokens: TokenVerifier) -> Grant:
        try:
            return tokens.find(token, head.certificate, self._wall_clock())
        except CredentialRefusedError as refused:
            headers: Headers = ((b"www-authenticate", REALM + b', error="invalid_token"'),)
            if refused.retry_after_s is not None:
                headers = (*headers, (b"retry-after", b"%d" % refused.retry_after_s))
            raise self._refusal(head, needed, 401, refused.detail, headers, "token") from None

    def _once(self, head: RequestHead, needed: KeyScope, signed: "Signed", headers: Headers) -> Callable[[bytes], None]:
        """Remembers a signed request that comes in, so that it does not come in again; what checks its body."""
        try:
            signed.remember(self._wall_clock())
        except NoncesFullError as full:
            retry = (b"retry-after", b"%d" % full.retry_after_s)
            raise self._refusal(head, needed, 429, str(full), (*headers, retry), "nonces", signed.grant) from None
        return partial(self._check_body, head, needed, signed)

    def _check_body(self, head: RequestHead, needed: KeyScope, signed: "Signed", body: bytes) -> None:
        try:
            signed.check_body(body)
        except CredentialRefusedError as refused:
            raise self._unsigned(head, needed, "signature", refused.detail, signed.grant) from None

    def _take(self, head: RequestHead, needed: KeyScope, grant: Grant, limit: Limit) -> Headers:
        found = self._limiter.take(grant.client, limit, self._clock())
        headers = _headers_of(limit, found)
        if not found.is_allowed:
            wait_s = max(1, math.ceil(found.retry_after_s))
            detail = (
                f"{grant.client} has used its {limit.burst} requests, which {limit.rate_per_s:g} a second refill: "
                f"try again in {wait_s} s"
            )
            retry = (b"retry-after", b"%d" % wait_s)
            raise self._refusal(head, needed, 429, detail, (*headers, retry), "rate", grant)
        return headers

    def _out_of_scope(self, head: RequestHead, needed: KeyScope, grant: Grant) -> AccessRefusedError:
        detail = f"this credential has not the scope {needed!r} on the server of {self._project!r}"
        told = REALM + b', error="insufficient_scope", scope="%s"' % needed.encode()
        return self._refusal(head, needed, 403, detail, ((b"www-authenticate", told),), "scope", grant)

    def _unsigned(
        self, head: RequestHead, needed: KeyScope, reason: str, detail: str, grant: Grant | None = None
    ) -> AccessRefusedError:
        return self._refusal(head, needed, 401, detail, (_CHALLENGE, ACCEPT_SIGNATURE), reason, grant)

    def _refusal(
        self,
        head: RequestHead,
        needed: KeyScope,
        status: int,
        detail: str,
        headers: Headers,
        reason: str,
        grant: Grant | None = None,
    ) -> AccessRefusedError:
        client, key_id = (grant.client, grant.id) if grant else ("", "")
        label = client if client in self.credentials.in_force.named else ""
        self._audit.refused(
            head, status=status, reason=reason, needed=needed, client=client, key_id=key_id, label=label
        )
        return AccessRefusedError(status, detail, headers)


def _given(head: RequestHead) -> tuple[bytes, bool]:
    """The credential in the headers, empty where there is none; and whether it is one of `Authorization`."""
    bearer = b""
    for name, value in head.headers:
        if name in _CARRIERS:
            if name == b"x-api-key":  # comes first, since a gateway may use `Authorization` for itself
                return value.strip(), False
            if not bearer and value[:7].lower() == b"bearer ":
                bearer = value[7:].strip()
    return bearer, True


def _headers_of(limit: Limit, found: Allowance) -> Headers:
    return (
        *limit.headers,
        (b"ratelimit-remaining", b"%d" % found.remaining),
        (b"ratelimit-reset", b"%d" % math.ceil(found.full_after_s)),
    )
