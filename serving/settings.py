"""The model server's settings, from environment variables named `PACELINE_SERVING_…`; read once, at the start."""

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contracts.access import MAXIMUM_BURST, MAXIMUM_RATE_PER_S, MINIMUM_RATE_PER_S
from serving.execution import AS_BUNDLED, Execution, read_execution

PREFIX = "PACELINE_SERVING_"
MAXIMUM_WORKERS = 64
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_YES, _NO = frozenset({"1", "yes", "true", "on"}), frozenset({"", "0", "no", "false", "off"})
SETTINGS = (
    *("PROJECT", "HOST", "PORT", "STATE", "PREDICTIONS", "CONTROL_TOKEN", "MASK_KEY", "ALLOW_FAULTS"),
    *("TIMEOUT_MS", "BATCH_WAIT_MS", "CACHE_MS", "CACHE_ROWS"),
    *("LOG_POLICY", "FEATURES_SHARE", "WORKERS"),
    *("KEYS", "ACCESS", "RATE_PER_S", "BURST", "REDIS_URL"),
    *("TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA", "TLS_CLIENT_REQUIRED"),
    *("PROVIDERS", "REQUIRE_PROVIDER"),
    *("BUNDLE", "VERSION", "TRUSTED_KEYS", "AUTHENTICATED_IN_FRONT"),
)


class SettingsError(ValueError):
    """A setting that cannot be used: its name, what was found and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one server process runs.

    `state` is the folder that remembers the champion, `predictions` the root of the prediction log. `control_token` is
    the bearer token that the control routes ask for (None: no token, on loopback only). `mask_key` keys the hash that
    stands for personal values in the log (None: a key of its own is kept in `state`). `allow_faults` opens
    `POST /control/fault`, for demonstrations and tests. `keys` is the file of the API keys' hashes (None: no keys, on
    loopback only), `access` the file of issuers of tokens, client certificates and signing keys; `rate_per_s` and
    `burst` limit the clients who have no limit of their own (None: without), and `redis_url` is where replicas share
    what is left of the limits (None: each has its own). `tls_certificate` and `tls_key` make the server speak TLS,
    `tls_client_ca` has the authorities of clients' certificates, which every connection needs where
    `tls_client_required`.
    `timeout_s` is how long a request is worked on at most, `batch_wait_s` how long a first row waits for others.
    `cache_s` is how long a score is given again for the same row (0: never), `cache_rows` how many are kept.
    `log_policy` says what happens when the disk does not take the prediction log: `drop` rows, or `fail` the answer.
    `features_share` is the share of the requests whose encoded rows are logged too, for the comparison with training.
    `workers` is how many processes share the port.
    `execution` is on what graphs run here, where that is not left to their bundles. `bundle` is the folder of the
    bundle that leads until another is promoted, `version` its name. `trusted_keys` has the public keys of those who may
    sign bundles (None: no signature is asked for). `authenticated_in_front` says that whatever stands in front lets
    nobody through whom it does not know, so that others may reach a server that asks for no credentials.
    """

    project: str
    state: Path
    predictions: Path
    host: str = "127.0.0.1"
    port: int = 8500
    control_token: str | None = field(default=None, repr=False)
    mask_key: str | None = field(default=None, repr=False)
    allow_faults: bool = False
    keys: Path | None = None
    access: Path | None = None
    rate_per_s: float | None = None
    burst: int | None = None
    redis_url: str | None = field(default=None, repr=False)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_required: bool = False
    timeout_s: float = 10.0
    batch_wait_s: float = 0.0
    cache_s: float = 0.0
    cache_rows: int = 10_000
    log_policy: Literal["drop", "fail"] = "drop"
    features_share: float = 0.05
    execution: Execution = AS_BUNDLED
    workers: int = 1
    bundle: Path | None = None
    version: str | None = None
    trusted_keys: Path | None = None
    authenticated_in_front: bool = False

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.control_token:
            raise SettingsError(
                f"{PREFIX}HOST is {self.host}, which others can reach: set {PREFIX}CONTROL_TOKEN, "
                "or listen on 127.0.0.1"
            )
        if self.rate_per_s is not None and self.keys is None and self.access is None:
            raise SettingsError(
                f"{PREFIX}RATE_PER_S limits each client by its API key: set {PREFIX}KEYS, or {PREFIX}ACCESS"
            )
        if self.burst is not None and self.rate_per_s is None:
            raise SettingsError(f"{PREFIX}BURST is {self.burst}, which needs {PREFIX}RATE_PER_S")
        if self.redis_url is not None and self.keys is None and self.access is None:
            raise SettingsError(f"{PREFIX}REDIS_URL shares the limits of clients: set {PREFIX}KEYS, or {PREFIX}ACCESS")
        if self.redis_url is not None and not self.redis_url.startswith(_REDIS_SCHEMES):
            raise SettingsError(f"{PREFIX}REDIS_URL begins with none of {', '.join(_REDIS_SCHEMES)}")
        if self.version is not None and self.bundle is None:
            raise SettingsError(f"{PREFIX}VERSION is {self.version!r}, the name of a {PREFIX}BUNDLE, which is not set")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SettingsError(f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY go together: set both, or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise SettingsError(f"{PREFIX}TLS_CLIENT_CA needs {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY")
        if self.tls_client_required and self.tls_client_ca is None:
            raise SettingsError(f"{PREFIX}TLS_CLIENT_REQUIRED needs {PREFIX}TLS_CLIENT_CA")

    @property
    def is_loopback(self) -> bool:
        """Whether only processes on this machine can reach the server."""
        return _is_loopback(self.host)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment`.

    Raises:
        SettingsError: a setting is missing, unknown or has a value that is not allowed.
    """
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    for name in sorted(found.keys() - set(SETTINGS)):
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        hint = (
            f"did you mean {PREFIX}{near[0]}?" if near else f"known: {', '.join(PREFIX + known for known in SETTINGS)}"
        )
        raise SettingsError(f"{PREFIX}{name} is no setting of the model server; {hint}")
    for name in ("PROJECT", "STATE", "PREDICTIONS"):
        if not found.get(name):
            raise SettingsError(f"{PREFIX}{name} is not set; the model server needs it")
    return Settings(
        project=found["PROJECT"],
        state=Path(found["STATE"]),
        predictions=Path(found["PREDICTIONS"]),
        host=found.get("HOST") or "127.0.0.1",
        port=_port(found.get("PORT") or "8500"),
        control_token=found.get("CONTROL_TOKEN") or None,
        mask_key=found.get("MASK_KEY") or None,
        allow_faults=_yes_or_no("ALLOW_FAULTS", found.get("ALLOW_FAULTS", "")),
        keys=_path(found, "KEYS"),
        access=_path(found, "ACCESS"),
        rate_per_s=_rate(found["RATE_PER_S"]) if found.get("RATE_PER_S") else None,
        burst=_count("BURST", found["BURST"], MAXIMUM_BURST) if found.get("BURST") else None,
        redis_url=found.get("REDIS_URL") or None,
        tls_certificate=_path(found, "TLS_CERTIFICATE"),
        tls_key=_path(found, "TLS_KEY"),
        tls_client_ca=_path(found, "TLS_CLIENT_CA"),
        tls_client_required=_yes_or_no("TLS_CLIENT_REQUIRED", found.get("TLS_CLIENT_REQUIRED", "")),
        timeout_s=_milliseconds("TIMEOUT_MS", found.get("TIMEOUT_MS") or "10000", 1, 600_000) / 1000,
        cache_s=_milliseconds("CACHE_MS", found.get("CACHE_MS") or "0", 0, 60_000) / 1000,
        cache_rows=_count("CACHE_ROWS", found.get("CACHE_ROWS") or "10000", 1_000_000),
        batch_wait_s=_milliseconds("BATCH_WAIT_MS", found.get("BATCH_WAIT_MS") or "0", 0, 50) / 1000,
        log_policy=_log_policy(found.get("LOG_POLICY") or "drop"),
        features_share=_share("FEATURES_SHARE", found.get("FEATURES_SHARE") or "0.05"),
        workers=_count("WORKERS", found.get("WORKERS") or "1", MAXIMUM_WORKERS),
        bundle=_path(found, "BUNDLE"),
        version=found.get("VERSION") or None,
        trusted_keys=_path(found, "TRUSTED_KEYS"),
        authenticated_in_front=_yes_or_no("AUTHENTICATED_IN_FRONT", found.get("AUTHENTICATED_IN_FRONT", "")),
        execution=_execution(found.get("PROVIDERS", ""), found.get("REQUIRE_PROVIDER", "")),
    )


def _path(found: Mapping[str, str], name: str) -> Path | None:
    return Path(found[name]) if found.get(name) else None


def _execution(providers: str, require: str) -> Execution:
    try:
        return read_execution(providers, require)
    except ValueError as error:
        raise SettingsError(
            f"{PREFIX}PROVIDERS is {providers!r} and {PREFIX}REQUIRE_PROVIDER is {require!r}: {error}"
        ) from error


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise SettingsError(f"{PREFIX}PORT is {text!r}, expected a whole number from 0 (any free port) to 65535")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate_per_s = float(text)
    except ValueError:
        rate_per_s = 0.0
    if not MINIMUM_RATE_PER_S <= rate_per_s <= MAXIMUM_RATE_PER_S:  # NaN is refused too
        raise SettingsError(
            f"{PREFIX}RATE_PER_S is {text!r}, expected requests a second "
            f"from {MINIMUM_RATE_PER_S:g} to {MAXIMUM_RATE_PER_S:g}"
        )
    return rate_per_s


def _share(name: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:  # NaN is refused too
        raise SettingsError(f"{PREFIX}{name} is {text!r}, expected a share from 0 (none) to 1 (all)")
    return found


def _count(name: str, text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise SettingsError(f"{PREFIX}{name} is {text!r}, expected a whole number from 1 to {most}")
    return int(text)


def _milliseconds(name: str, text: str, least: float, most: float) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not least <= found <= most:  # NaN is refused too
        raise SettingsError(f"{PREFIX}{name} is {text!r}, expected milliseconds from {least:g} to {most:g}")
    return found


def _log_policy(text: str) -> Literal["drop", "fail"]:
    match text:
        case "drop" | "fail":
            return text
        case _:
            raise SettingsError(f"{PREFIX}LOG_POLICY is {text!r}, expected drop (rows) or fail (the answer)")


def _yes_or_no(name: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in _YES | _NO:
        raise SettingsError(f"{PREFIX}{name} is {text!r}, expected yes or no")
    return lowered in _YES


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
