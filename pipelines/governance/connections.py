"""An Airflow connection as its environment variable has it, for whoever runs without Airflow. Pure.

`AIRFLOW_CONN_<ID>` is JSON or a URI, as Airflow's documentation describes both; what only its database or a secrets
backend knows, only Airflow finds.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

PREFIX = "AIRFLOW_CONN_"


class ConnectionTextError(ValueError):
    """The text of a connection cannot be read; it is not repeated, since it may hold a secret."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where to, and as whom; `extra` are the options of its kind."""

    conn_type: str = ""
    host: str = ""
    schema: str = ""
    login: str = ""
    password: str = ""
    port: int | None = None
    extra: Mapping[str, Any] = {}

    @property
    def base_url(self) -> str:
        """Of an HTTP connection: a host that has no scheme is of `schema`, or of plain HTTP."""
        url = self.host if "://" in self.host else f"{self.schema or 'http'}://{self.host}"
        return url if self.port is None else f"{url}:{self.port}"


def find_connection(identity: str, environment: Mapping[str, str]) -> Connection | None:
    """The connection of that id, or None where the environment has none. Raises ConnectionTextError."""
    text = environment.get(f"{PREFIX}{identity.upper()}")
    if text is None:
        return None
    try:
        return _of_json(text) if text.lstrip().startswith("{") else _of_uri(text)
    except (ValueError, msgspec.MsgspecError):
        raise ConnectionTextError(f"{PREFIX}{identity.upper()} is neither JSON nor the URI of a connection") from None


def _of_json(text: str) -> Connection:
    found = msgspec.json.decode(text, type=dict[str, Any])
    extra = found.get("extra") or {}
    known = {name: found[name] for name in Connection.__struct_fields__ if found.get(name) not in (None, "")}
    known["extra"] = msgspec.json.decode(extra, type=dict[str, Any]) if isinstance(extra, str) else extra
    return msgspec.convert(known, Connection, strict=False)


def _of_uri(text: str) -> Connection:
    parts = urlsplit(text)
    if not parts.scheme or "://" not in text:
        raise ValueError("no scheme")
    query = dict(parse_qsl(parts.query))
    extra = msgspec.json.decode(query["__extra__"], type=dict[str, Any]) if "__extra__" in query else query
    return Connection(
        conn_type=parts.scheme,
        host=unquote(parts.hostname or ""),
        schema=unquote(parts.path.lstrip("/")),
        login=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        port=parts.port,
        extra=extra,
    )
