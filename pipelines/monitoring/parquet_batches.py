"""A folder of Parquet files that grows by whole files: a batch is there after one rename, or it is not there at all.

A file that stands for others (merged, or without rows that had to go) names them in its metadata, as in the prediction
log; until they are removed, readers leave them out. Who writes holds the folder's lock.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.monitoring.compaction import sync
from pipelines.monitoring.exclusive import exclusively
from pipelines.monitoring.segments import REPLACES, consistently, replaces

if TYPE_CHECKING:
    import duckdb

LOCK_WAIT_S = 120.0


class DamagedBatchError(RuntimeError):
    """A file that cannot be read: which, and why."""


class Batches:
    """The Parquet files below `root`, all of the columns `schema`."""

    def __init__(self, root: Path, schema: pa.Schema) -> None:
        self.root, self.schema = root, schema

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """One writer at a time. Raises HeldError when another does not finish within two minutes."""
        with exclusively(self.root / ".lock", what, wait_s=LOCK_WAIT_S):
            yield

    def files(self) -> tuple[Path, ...]:
        """The files that count.

        Raises:
            FileNotFoundError: one went meanwhile.
            DamagedBatchError: one cannot be read. None is left out: what was told would be forgotten in silence.
        """
        paths = sorted(path for path in self.root.glob("*.parquet") if not path.name.startswith("."))
        gone: set[str] = set()
        for path in paths:
            try:
                gone.update(replaces(path))
            except (pa.ArrowException, ValueError) as error:
                said = str(error).splitlines()[0]
                raise DamagedBatchError(f"{path} cannot be read ({said}): bring it back from a backup") from error
        return tuple(path for path in paths if path.name not in gone)

    def append(self, table: pa.Table) -> None:
        """Adds `table` durably, as one file; call it within `locked`."""
        if table.num_rows:
            self._write(table, ())

    def query(self, sql: str, parameters: Sequence[Any] = (), **tables: pa.Table) -> pa.Table:
        """The rows of `sql`, in which `batches` is all that there is, and `tables` are what they are called."""

        def read() -> pa.Table:
            import duckdb

            paths = self.files()
            with duckdb.connect() as connection:
                for name, table in tables.items():
                    connection.register(name, table)
                try:
                    self._register(connection, paths)
                    return connection.sql(sql, params=list(parameters)).to_arrow_table()
                except duckdb.Error:
                    for path in paths:
                        path.stat()  # FileNotFoundError: it was replaced meanwhile, and another listing is wanted
                    raise

        return consistently(read)

    def rewrite(self, condition: str, parameters: Sequence[Any]) -> int:
        """Removes the rows that meet `condition` (SQL), and says how many; call it within `locked`.

        File by file: after a crash each is either as before or without them, and a reader never sees both.
        """
        import duckdb

        self.remove_replaced()
        removed = 0
        for path in self.files():
            with duckdb.connect() as connection:
                self._register(connection, (path,))
                matching = f"SELECT count(*) FROM batches WHERE {condition}"
                ((found,),) = connection.execute(matching, list(parameters)).fetchall()
                if not found:
                    continue
                rest = f"SELECT * FROM batches WHERE ({condition}) IS NOT TRUE"
                table = connection.sql(rest, params=list(parameters)).to_arrow_table()
            self._write(table, (path,))
            self.remove_replaced()
            removed += int(found)
        return removed

    def merge(self, at_most: int) -> int:
        """Makes one file of all when there are more than `at_most`, and says of how many; within `locked`."""
        self.remove_replaced()
        paths = self.files()
        if len(paths) <= at_most:
            return 0
        table = pa.concat_tables([pq.ParquetFile(path).read().cast(self.schema) for path in paths])
        self._write(table, paths)
        self.remove_replaced()
        return len(paths)

    def remove_replaced(self) -> None:
        """Removes what others stand for, and drafts of writers that have crashed; within `locked`."""
        if not self.root.exists():
            return
        for path in (*set(self.root.glob("*.parquet")).difference(self.files()), *self.root.glob(".*.draft")):
            path.unlink(missing_ok=True)
        sync(self.root)

    def _register(self, connection: "duckdb.DuckDBPyConnection", paths: Sequence[Path]) -> None:
        if not paths:
            connection.register("batches", self.schema.empty_table())
            return
        names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
        columns = ", ".join(f'"{name}"' for name in self.schema.names)
        connection.execute(
            f"CREATE TEMP VIEW batches AS SELECT {columns} FROM read_parquet([{names}], union_by_name=true)"
        )

    def _write(self, table: pa.Table, sources: Sequence[Path]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        names = json.dumps([path.name for path in sources])
        stem = f"{time.time_ns():020d}-{blake2b(names.encode(), digest_size=4).hexdigest()}"
        final, draft = self.root / f"{stem}.parquet", self.root / f".{stem}.draft"
        try:
            metadata = {REPLACES: names} if sources else {}
            pq.write_table(
                table.select(self.schema.names).cast(self.schema).replace_schema_metadata(metadata),
                draft,
                compression="zstd",
            )
            sync(draft)
            draft.rename(final)
            sync(self.root)
        finally:
            draft.unlink(missing_ok=True)
