"""What opens the server: the credentials of the two files, read again when they change, and the issuers' keys."""

import asyncio
import logging
import stat
from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from contracts.access import MAXIMUM_FILE_BYTES, KeyFile, KeyFileError, decode_keys
from contracts.access_file import MAXIMUM_ACCESS_FILE_BYTES, AccessFile, AccessFileError, decode_access_file
from serving.access.certificates import CertificateClients
from serving.access.jwks import KeySet
from serving.access.keys import KeyRing
from serving.access.limits import Headers, Limit
from serving.access.nonces import NonceMemory
from serving.access.request import ACCEPT_SIGNATURE, REALM, Grant
from serving.access.tokens import TokenVerifier
from serving.access.watched_file import Content, Seen, WatchedFile

if TYPE_CHECKING:
    from serving.access.signatures import SignatureVerifier

_KEY_WANTED = "an active API key: `Authorization: Bearer pk_…` or `x-api-key: pk_…`"
logger = logging.getLogger(__name__)


class _Everybody:
    def __contains__(self, client: object) -> bool:
        return True


class InForce(NamedTuple):
    """What requests are checked against; replaced as a whole, so that none sees half of a change.

    `named` are the clients of the files, who are few enough to name a metric. `wanted` and `challenge` say what a
    request without a credential lacks.
    """

    keys: KeyRing
    certificates: CertificateClients | None
    tokens: TokenVerifier | None
    signatures: "SignatureVerifier | None"
    named: frozenset[str]
    wanted: str
    challenge: Headers

    @property
    def grants(self) -> list[Grant]:
        """What all credentials of the files open; tokens are in none."""
        parts = (self.keys, self.certificates, self.signatures)
        return [grant for part in parts if part is not None for grant in part.grants]


class Credentials:
    """The file of the API keys (`keys`) and the access file (`rules`), either of them or both.

    A file that cannot be used does not open the server and does not close it: what was in force stays, and its expiry
    still counts.
    """

    def __init__(
        self,
        keys: Path | None,
        rules: Path | None,
        *,
        project: str,
        usual: Limit | None,
        workers: int = 1,
        wall_clock: Callable[[], float],
    ) -> None:
        self._project = project
        self._workers = workers
        self._usual = usual
        self._wall_clock = wall_clock
        self._nonces = NonceMemory()
        self._sets: dict[str, KeySet] = {}
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._reloads = {"ok": 0, "failed": 0}
        self._key_file = None if keys is None else WatchedFile(keys, _decode_keys, MAXIMUM_FILE_BYTES)
        self._rule_file = None if rules is None else WatchedFile(rules, _decode_rules, MAXIMUM_ACCESS_FILE_BYTES)
        self._keys = KeyFile() if self._key_file is None else _first(self._key_file, KeyFileError)
        self.rules = AccessFile() if self._rule_file is None else _first(self._rule_file, AccessFileError)
        try:
            self.in_force = self._build(self._keys, self.rules)
        except ValueError as error:
            raise AccessFileError(f"{rules}: {error}") from error
        logger.info("%s: %s", ", ".join(str(path) for path in (keys, rules) if path is not None), self._told())

    @property
    def has_keys(self) -> bool:
        """Whether API keys are configured."""
        return self._key_file is not None

    def reload(self) -> bool:
        """Reads the files where they have changed; whether something else is in force now."""
        return self._install(*self._look())

    async def refresh(self) -> None:
        """The same, off the event loop; and begins to fetch the issuers' key sets that are due."""
        self._install(*await asyncio.to_thread(self._look))
        for name, key_set in self._sets.items():
            if name not in self._fetches and key_set.is_due():
                task = asyncio.create_task(self._fetch(key_set))
                self._fetches[name] = task
                task.add_done_callback(lambda _, name=name: self._fetches.pop(name, None))  # type: ignore[misc]

    async def stop(self) -> None:
        """Waits for fetches that are on their way; each ends by its own limit of time."""
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)

    def collect(self) -> Iterator[Metric]:
        """The metric families of credentials."""
        reloads = CounterMetricFamily("paceline_key_reloads", "New files of credentials", labels=("result",))
        for result, count in self._reloads.items():
            reloads.add_metric((result,), count)
        yield reloads
        now_s = self._wall_clock()
        active = [grant for grant in self.in_force.keys.grants if now_s < grant.expires_s and grant.scopes]
        yield GaugeMetricFamily("paceline_keys_active", "API keys in force", value=len(active))
        if self._sets:
            known = GaugeMetricFamily("paceline_token_keys", "Keys that verify an issuer's tokens", labels=("issuer",))
            failures = CounterMetricFamily(
                "paceline_token_key_failures", "Key sets that could not be had", labels=("issuer",)
            )
            for issuer, key_set in self._sets.items():
                known.add_metric((issuer,), len(key_set))
                failures.add_metric((issuer,), key_set.failures)
            yield from (known, failures)
        if self.in_force.signatures is not None:
            yield GaugeMetricFamily("paceline_nonces", "Signed requests that are remembered", value=len(self._nonces))

    async def _fetch(self, key_set: KeySet) -> None:
        if key_set.install(await asyncio.to_thread(key_set.fetch)) and self.in_force.tokens is not None:
            self.in_force.tokens.forget()

    def _look(self) -> tuple[Seen[KeyFile] | None, Seen[AccessFile] | None]:
        return (
            None if self._key_file is None else self._key_file.look(),
            None if self._rule_file is None else self._rule_file.look(),
        )

    def _install(self, keys: Seen[KeyFile] | None, rules: Seen[AccessFile] | None) -> bool:
        if keys is None and rules is None:
            return False
        new_keys, new_rules = self._keys, self.rules
        if keys is not None and self._key_file is not None:
            new_keys = self._key_file.accept(keys) or new_keys
        if rules is not None and self._rule_file is not None:
            new_rules = self._rule_file.accept(rules) or new_rules
        errors = [seen.error for seen in (keys, rules) if seen is not None and seen.content is None]
        is_changed = False
        if new_keys is not self._keys or new_rules is not self.rules:
            try:
                self.in_force = self._build(new_keys, new_rules)
                self._keys, self.rules = new_keys, new_rules
                is_changed = True
            except ValueError as error:
                errors.append(str(error))
        for text in errors:
            self._reloads["failed"] += 1
            logger.error("the credentials in force stay, since their new file cannot be used: %s", text)
        if is_changed:
            self._reloads["ok"] += 1
            logger.info("the credentials have changed: %s", self._told())
        return is_changed

    def _build(self, keys: KeyFile, rules: AccessFile) -> InForce:
        """Raises ValueError where a public key is none, or workers would accept replays; nothing has changed then."""
        if rules.signing_keys and self._workers > 1:
            raise ValueError(
                f"it has signing_keys, and there are {self._workers} workers: each remembers by itself which signed "
                "requests came in, so a replay could come in at another; serve signed requests by one process"
            )
        must_sign: Container[str] = (
            _Everybody()
            if rules.require_signature
            else {client for client, each in rules.clients.items() if each.require_signature}
        )
        signatures = None
        if rules.signing_keys:
            # where there are any only: what reads structured fields costs start-up time
            from serving.access.signatures import SignatureVerifier

            signatures = SignatureVerifier.of(rules, self._project, self._usual, self._nonces)
        folder = Path() if self._rule_file is None else self._rule_file.path.parent
        self._sets = {
            issuer.issuer: known
            if (known := self._sets.get(issuer.issuer)) is not None and known.issuer == issuer
            else KeySet(issuer, folder)
            for issuer in rules.issuers
        }
        in_force = InForce(
            keys=KeyRing.of(keys, self._project, self._usual, must_sign),
            certificates=CertificateClients.of(rules, self._project, self._usual, must_sign)
            if rules.certificates
            else None,
            tokens=TokenVerifier(self._sets, usual=self._usual, must_sign=must_sign) if rules.issuers else None,
            signatures=signatures,
            named=frozenset(),
            wanted=self._wanted(rules),
            challenge=((b"www-authenticate", REALM), *((ACCEPT_SIGNATURE,) if rules.signing_keys else ())),
        )
        self._nonces.keep_only({key.id for key in rules.signing_keys})
        return in_force._replace(named=frozenset(grant.client for grant in in_force.grants))

    def _wanted(self, rules: AccessFile) -> str:
        kinds = [_KEY_WANTED] if self.has_keys else []
        kinds += ["a bearer token (JWT)"] if rules.issuers else []
        kinds += ["a client certificate"] if rules.certificates else []
        kinds += ["a signature (RFC 9421)"] if rules.signing_keys else []
        return f"this route needs {', or '.join(kinds) or 'a credential, and this server knows none'}"

    def _told(self) -> str:
        now_s = self._wall_clock()
        found = self.in_force
        active = [grant for grant in found.grants if now_s < grant.expires_s and grant.scopes]
        now = datetime.fromtimestamp(now_s, UTC)
        is_closed = not active and found.tokens is None
        return (
            f"{len(active)} credentials of {len({grant.client for grant in active})} clients, and "
            f"{len(self.rules.issuers)} issuers of tokens, are active at {now:%Y-%m-%d %H:%M:%S} UTC"
            + ("; every request for a guarded route is refused" if is_closed else "")
        )


def _decode_keys(content: bytes, mode: int) -> KeyFile:
    return decode_keys(content)


def _decode_rules(content: bytes, mode: int) -> AccessFile:
    found = decode_access_file(content)
    if found.has_secrets and stat.S_IMODE(mode) & 0o077:
        raise AccessFileError(
            f"it has secrets, and its mode is {stat.S_IMODE(mode):04o}, so that others can read it, expected 0600: "
            "`chmod 600` it, and replace the secrets if somebody may have read them"
        )
    return found


def _first(file: WatchedFile[Content], kind: type[ValueError]) -> Content:
    seen = file.look()
    content = None if seen is None else file.accept(seen)
    if content is None:
        raise kind(seen.error if seen else f"{file.path} has not been read")
    return content
