"""The model server's settings, from environment variables named `PACELINE_SERVING_…`; read once, at the start."""

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "PACELINE_SERVING_"
_YES, _NO = frozenset({"1", "yes", "true", "on"}), frozenset({"", "0", "no", "false", "off"})
_KNOWN = ("PROJECT", "HOST", "PORT", "STATE", "PREDICTIONS", "CONTROL_TOKEN", "MASK_KEY", "ALLOW_FAULTS")


class SettingsError(ValueError):
    """A setting that cannot be used: its name, what was found and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one server process runs.

    `state` is the folder that remembers the champion, `predictions` the root of the prediction log. `control_token` is
    the bearer token that the control routes ask for (None: no token, on loopback only). `mask_key` keys the hash that
    stands for personal values in the log (None: a key of its own is kept in `state`). `allow_faults` opens
    `POST /control/fault`, for demonstrations and tests.
    """

    project: str
    state: Path
    predictions: Path
    host: str = "127.0.0.1"
    port: int = 8500
    control_token: str | None = field(default=None, repr=False)
    mask_key: str | None = field(default=None, repr=False)
    allow_faults: bool = False

    def __post_init__(self) -> None:
        if not _is_loopback(self.host) and not self.control_token:
            raise SettingsError(
                f"{PREFIX}HOST is {self.host}, which others can reach: set {PREFIX}CONTROL_TOKEN, "
                "or listen on 127.0.0.1"
            )


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment`.

    Raises:
        SettingsError: a setting is missing, unknown or has a value that is not allowed.
    """
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    for name in sorted(found.keys() - set(_KNOWN)):
        near = difflib.get_close_matches(name, _KNOWN, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known: {', '.join(PREFIX + known for known in _KNOWN)}"
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
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise SettingsError(f"{PREFIX}PORT is {text!r}, expected a whole number from 0 (any free port) to 65535")
    return int(text)


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
