"""The records that a source has of events, found by the logged inputs of their predictions."""

from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contracts.input_schema import Kind
from pipelines.monitoring.input_texts import input_texts
from pipelines.monitoring.outcomes import canonical_keys


class SourceRecords:
    """Records by the fields that identify their event.

    Args:
        events: one row an event, with the fields as training takes them.
        key: the fields that identify an event, and their kinds.
        known_until: events from this day on are not in the source yet.

    Raises:
        ValueError: `events` lacks a field of the key.
    """

    ABSENT: ClassVar[int] = -1
    AMBIGUOUS: ClassVar[int] = -2

    def __init__(self, events: pa.Table, key: dict[str, Kind], known_until: date) -> None:
        import duckdb

        if lacking := [name for name in key if name not in events.column_names]:
            raise ValueError(f"the source lacks the columns {', '.join(lacking)} (key)")
        self.names = frozenset(events.column_names)
        self.known_until = (known_until - date(1970, 1, 1)).days
        self._events, self._key = events, key
        self._columns = ", ".join(f"k{place}" for place in range(len(key)))
        numbered = events.select(list(key)).append_column("place", pa.array(np.arange(events.num_rows)))
        with duckdb.connect() as connection:
            connection.register("told", numbered)
            self._places = connection.sql(
                f"SELECT {canonical_keys(key, 'told')},"
                f" CASE WHEN count(*) = 1 THEN min(place) ELSE {self.AMBIGUOUS} END AS place FROM told GROUP BY ALL"
            ).to_arrow_table()

    def find(self, predictions: pa.Table) -> NDArray[np.int64]:
        """Where the record of each prediction is; ABSENT where there is none, AMBIGUOUS where there are several."""
        import duckdb

        texts = input_texts(predictions, list(self._key))
        numbered = texts.append_column("number", pa.array(np.arange(predictions.num_rows)))
        with duckdb.connect() as connection:
            connection.register("rows", numbered)
            connection.register("places", self._places)
            found = connection.sql(
                f"SELECT number, coalesce(place, {self.ABSENT}) AS place"
                f" FROM (SELECT number, {canonical_keys(self._key, 'rows')} FROM rows)"
                f" LEFT JOIN places USING ({self._columns})"
            ).to_arrow_table()
        places = np.empty(predictions.num_rows, dtype=np.int64)
        places[found["number"].to_numpy()] = found["place"].to_numpy()
        return places

    def records(self, places: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
        """The records there, with those of the fields `names` that the source has, as training encodes them."""
        taken = self._events.select([name for name in names if name in self.names]).take(places)
        found: list[dict[str, Any]] = taken.to_pylist()
        return found
