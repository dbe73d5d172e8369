"""`POST /v1/predict`: records in, one prediction for each out."""

from typing import Annotated, Any, TypeVar

import msgspec

from contracts.prediction_row import API_VERSION

MAXIMUM_RECORDS = 1000
MAXIMUM_COLUMNS = 10_000  # of a request by columns: more are refused as a whole, and not one by one
MAXIMUM_FIELD_BYTES = 1024  # of a body, on average of its records' fields; an identifier has at most 256 characters
Message = TypeVar("Message")


class MalformedRequestError(ValueError):
    """A body that is not what the protocol asks for. `status` is 400 when it is no JSON at all, else 422."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`records` are raw records by the model's input schema."""

    records: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MAXIMUM_RECORDS)]


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to one record. `slot` says whether the champion or the challenger gave it.

    `cached` says that another request for the same row was given this score within the last seconds.
    """

    prediction_id: str
    score: float
    decision: bool
    model_version: str
    slot: str
    cached: bool = False


# the columns of answers that are tables; that a score is cached, their clients learn from the header x-cache
COLUMNS = tuple(name for name in Prediction.__struct_fields__ if name != "cached")


class PredictResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction a record, in the records' order; `model_version` and `bundle` are the champion's."""

    predictions: list[Prediction]
    rollout: str | None
    share: float
    model_version: str
    bundle: str
    api_version: str = API_VERSION


_decoder = msgspec.json.Decoder(PredictRequest)
encode = msgspec.json.Encoder().encode


def decode(body: bytes) -> list[dict[str, Any]]:
    """The records in `body`. Raises MalformedRequestError."""
    return parse(_decoder, body).records


def refuse_oversized(body_bytes: int, records: int, fields: int) -> None:
    """Refuses records that are far larger than their `fields` need: the log keeps what counts as missing, too.

    Raises:
        MalformedRequestError: the body has more than 1 KiB for each field of each record.
    """
    most = MAXIMUM_FIELD_BYTES * fields * records
    if body_bytes > most:
        raise MalformedRequestError(
            422,
            f"the body has {body_bytes:,} bytes for {records:,} records of {fields} fields, expected at most {most:,}: "
            f"{MAXIMUM_FIELD_BYTES:,} a field",
        )


def parse(decoder: "msgspec.json.Decoder[Message]", body: bytes) -> Message:
    """`body` by `decoder`. Raises MalformedRequestError; JSON's own rules hold, so NaN and Infinity are refused."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(422, f"the body does not have the expected shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequestError(400, f"the body is not JSON: {error}") from error
