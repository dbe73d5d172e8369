"""Which media type a body has and which one its answer gets, by the headers Content-Type and Accept."""

import re
from collections.abc import Sequence

from serving.protocols.records import MalformedRequestError

JSON, JSON_LINES, CSV = "application/json", "application/jsonlines", "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
_ARROW_FAMILY = "application/vnd.apache.arrow"
_WEIGHT = re.compile(r"(0(\.\d{0,3})?|1(\.0{0,3})?)", re.ASCII)
_SHOWN_CHARACTERS = 60


def content_type(header: str | None, types: Sequence[str]) -> str:
    """The media type of a body, one of `types`; JSON where the client does not say.

    Raises:
        MalformedRequestError: 415, it is none of `types`, or not in UTF-8.
    """
    if not header or header == JSON:
        return JSON
    kind, *parameters = [part.strip().lower() for part in header.split(";")]
    if kind not in types:
        raise MalformedRequestError(
            415, f"Content-Type: found {header[:_SHOWN_CHARACTERS]!r}, expected one of {', '.join(types)}"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise MalformedRequestError(
                415, f"Content-Type: found {parameter[:_SHOWN_CHARACTERS]!r}, expected charset=utf-8"
            )
    return kind


def is_arrow(header: str | None) -> bool:
    """Whether a body is an Arrow stream, on a route that takes everything else for JSON.

    Raises:
        MalformedRequestError: 415, it is another of Arrow's formats.
    """
    if not header or header == JSON:
        return False
    kind = header.partition(";")[0].strip().lower()
    if kind.startswith(_ARROW_FAMILY) and kind != ARROW:
        raise MalformedRequestError(415, f"Content-Type: found {header[:_SHOWN_CHARACTERS]!r}, expected {ARROW}")
    return kind == ARROW


def answer_type(header: str | None, types: Sequence[str], usual: str = JSON) -> str:
    """The media type of the answer by the Accept header: the one with the largest weight, the first of equals.

    `usual` is what a client gets that takes anything.

    Raises:
        MalformedRequestError: 406, the client takes none of `types`.
    """
    if not header or header == "*/*":
        return usual
    wildcards = {"*/*": usual, "application/*": usual if usual.startswith("application/") else JSON, "text/*": CSV}
    best, best_weight = "", 0.0
    for each in header.split(","):
        kind, *parameters = [part.strip().lower() for part in each.split(";")]
        found = wildcards.get(kind, kind)
        weight = _weight(parameters)
        if found in types and weight > best_weight:
            best, best_weight = found, weight
    if not best:
        raise MalformedRequestError(
            406, f"Accept: found {header[:_SHOWN_CHARACTERS]!r}, expected one of {', '.join(types)}"
        )
    return best


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _WEIGHT.fullmatch(value.strip()) else 0.0
    return 1.0
