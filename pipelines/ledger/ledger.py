"""The ledger itself: append, read, and the compare-and-swap of champions."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.ledger.database import (
    LedgerError,
    LedgerMissingError,
    LedgerUnavailableError,
    empty_engine,
    open_engine,
    reading,
    writing,
)
from pipelines.ledger.evidence import COMMAND, COMMAND_REFUSED, ENDING_COMMANDS, ENDS, EVENT, Evidence
from pipelines.ledger.tables import CHAMPIONS, ENTRIES

SWAPPED, RESTORED = "champion.swapped", "champion.restored"

__all__ = [
    "RESTORED",
    "SWAPPED",
    "Champion",
    "Entry",
    "Ledger",
    "LedgerError",
    "LedgerMissingError",
    "LedgerUnavailableError",
]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger. `subject` is what it is about: a run, a version, a rollout; `at` is in UTC."""

    id: int
    at: datetime
    project: str
    kind: str
    subject: str
    body: dict[str, Any]
    key: str | None = None


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """The version that leads a project, and the entry that made it so."""

    project: str
    version: str
    bundle: str
    since_entry: int


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """The append-only record of one installation. Safe to use from many threads and processes.

    Every method raises LedgerUnavailableError where the database cannot be reached; all may be asked again.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime] = _now) -> None:
        self._engine = engine
        self._clock = clock

    @classmethod
    def open(cls, url: str, clock: Callable[[], datetime] = _now, *, creates: bool = True) -> Self:
        """The ledger at `url` (`sqlite:////path/ledger.db`, `postgresql+driver://…`), upgraded and created at need.

        Raises:
            LedgerError: another kind of database, or one that a newer version of this code has written.
            LedgerMissingError: it is not there, and `creates` is False.
            LedgerUnavailableError: it cannot be reached now.
        """
        return cls(open_engine(url, creates=creates), clock)

    @classmethod
    def empty(cls) -> Self:
        """A ledger without entries that is kept nowhere: what there is to read before anything has run."""
        return cls(empty_engine())

    def close(self) -> None:
        """Gives the connections back; the ledger must not be used afterwards."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, project: str, kind: str, subject: str, body: Mapping[str, Any], key: str | None = None) -> Entry:
        """Appends an entry and returns it; with a `key` that the project has already, returns that first entry.

        `body` is anything that becomes a JSON object, Structs and times in it included.
        """
        with writing(self._engine) as connection:
            return self._append(connection, project, kind, subject, body, key)

    def entries(
        self,
        project: str | None = None,
        kinds: Iterable[str] | None = None,
        subject: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Entry]:
        """The entries with an id above `after`, in order, at most `limit`; None means any."""
        query = sa.select(ENTRIES).where(ENTRIES.c.id > after).order_by(ENTRIES.c.id).limit(limit)
        if project is not None:
            query = query.where(ENTRIES.c.project == project)
        if kinds is not None:
            query = query.where(ENTRIES.c.kind.in_(list(kinds)))
        if subject is not None:
            query = query.where(ENTRIES.c.subject == subject)
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(query)]

    def champion(self, project: str) -> Champion | None:
        """The version that leads `project` now, or None before the first promotion."""
        with reading(self._engine) as connection:
            return _champion(connection, project)

    def reigns(self, project: str) -> list[str]:
        """The versions that have led `project`, in the order of their reigns, the present champion last.

        A swap that was undone before it was in force everywhere is no reign.
        """
        versions: list[str] = []
        for entry in self.entries(project=project, kinds=(SWAPPED, RESTORED)):
            if entry.kind == SWAPPED:
                versions.append(entry.body["version"])
            else:
                versions.pop()
        return versions

    def swap_champion(
        self,
        project: str,
        expected: str | None,
        version: str,
        bundle: str,
        subject: str,
        reason: str,
        reign: int | None = None,
    ) -> bool:
        """Makes `version` the champion if the champion is still `expected`; one transaction with its entry.

        With `reign` its reign has to be the same as well: the entry since which it leads. A `subject` (a rollback's
        run) swaps to a version once: the same swap again is True while it is in force, without a second entry, and
        False when it was undone or somebody has swapped since. A rollout uses `promote`.
        """
        key = _swap_key(subject, version)
        with writing(self._engine) as connection:
            current = _champion(connection, project)
            if (done := _by_key(connection, project, key)) is not None:
                return current is not None and current.since_entry == done.id
            if (None if current is None else current.version) != expected:
                return False
            if reign is not None and (current is None or current.since_entry != reign):
                return False
            self._swap(connection, project, current, version, bundle, subject, {"reason": reason})
            return True

    def promote(
        self,
        project: str,
        expected: str | None,
        version: str,
        bundle: str,
        rollout: str,
        reason: str,
        evidence: Evidence,
    ) -> str | None:
        """Makes `version` the champion by the `evidence` of `rollout`, or says why not; one transaction.

        Refused when the champion is not `expected`, or leads only since after the evidence was begun (it was replaced
        and came back: the evidence is against another reign); when the rollout has ended or somebody wants it to; when
        the ledger holds other events of it than the evidence was made of. The same promotion again is fine while it is
        in force, without a second entry.
        """
        known = self.evidence(project, rollout)  # all but the last events, outside of the transaction that all wait for
        with writing(self._engine) as connection:
            current = _champion(connection, project)
            if (done := _by_key(connection, project, _swap_key(rollout, version))) is not None:
                if current is not None and current.since_entry == done.id:
                    return None
                return f"the promotion of version {version} was undone, or another champion was made since"
            held = _evidence(connection, project, rollout, known)
            refusal = _ended(connection, project, rollout) or _stale(connection, project, current, expected, held)
            if refusal is None and held != evidence:
                refusal = f"the evidence is of {evidence}, the ledger holds {held}: it is not the rollout's last word"
            if refusal is not None:
                return refusal
            reign = None if current is None else current.since_entry
            named = {"reign": reign, "events": evidence.events, "sha256": evidence.sha256}
            why = {"reason": reason, "evidence": named}
            self._swap(connection, project, current, version, bundle, rollout, why)
            return None

    def evidence(self, project: str, rollout: str) -> Evidence:
        """What the ledger holds of `rollout` now."""
        with reading(self._engine) as connection:
            return _evidence(connection, project, rollout, Evidence())

    def _swap(
        self,
        connection: sa.Connection,
        project: str,
        current: Champion | None,
        version: str,
        bundle: str,
        subject: str,
        why: Mapping[str, Any],
    ) -> None:
        previous = None if current is None else {"version": current.version, "bundle": current.bundle}
        body = {"version": version, "bundle": bundle, "previous": previous, **why}
        entry = self._append(connection, project, SWAPPED, subject, body, _swap_key(subject, version))
        _set_champion(connection, project, version, bundle, entry.id)

    def restore_champion(self, project: str, version: str, subject: str, reason: str) -> bool:
        """Undoes the swap to `version` by `subject`, if it is in force: the champion before it leads again.

        False when there is nothing to undo: never swapped, undone already, or somebody has swapped since.
        """
        with writing(self._engine) as connection:
            current = _champion(connection, project)
            done = _by_key(connection, project, _swap_key(subject, version))
            if current is None or done is None or current.since_entry != done.id:
                return False
            previous = done.body["previous"]
            body = {"version": None, "bundle": None, **(previous or {}), "undone": version, "reason": reason}
            entry = self._append(connection, project, RESTORED, subject, body, None)
            if previous is None:
                connection.execute(sa.delete(CHAMPIONS).where(CHAMPIONS.c.project == project))
            else:
                _set_champion(connection, project, previous["version"], previous["bundle"], entry.id)
            return True

    def _append(
        self,
        connection: sa.Connection,
        project: str,
        kind: str,
        subject: str,
        body: Mapping[str, Any],
        key: str | None,
    ) -> Entry:
        if key is not None and (first := _by_key(connection, project, key)) is not None:
            return first
        row = connection.execute(
            sa.insert(ENTRIES)
            .values(at=self._clock(), project=project, kind=kind, subject=subject, body=dict(body), key=key)
            .returning(*ENTRIES.c)
        ).one()
        return _entry(row)


def _swap_key(subject: str, version: str) -> str:
    return f"{SWAPPED}/{subject}/{version}"


def _by_key(connection: sa.Connection, project: str, key: str) -> Entry | None:
    query = sa.select(ENTRIES).where(ENTRIES.c.project == project, ENTRIES.c.key == key)
    row = connection.execute(query).one_or_none()
    return None if row is None else _entry(row)


def _subjects(project: str, subject: str, *kinds: str) -> sa.Select[Any]:
    return (
        sa.select(ENTRIES)
        .where(ENTRIES.c.project == project, ENTRIES.c.subject == subject, ENTRIES.c.kind.in_(kinds))
        .order_by(ENTRIES.c.id)
    )


def _evidence(connection: sa.Connection, project: str, rollout: str, known: Evidence) -> Evidence:
    for row in connection.execute(_subjects(project, rollout, EVENT).offset(known.events)):
        known = known.followed_by(row.id, row.body)
    return known


def _ended(connection: sa.Connection, project: str, rollout: str) -> str | None:
    """Why `rollout` promotes nobody any more: it has ended, or was told to and has not refused that."""
    refused = {row.body["entry"] for row in connection.execute(_subjects(project, rollout, COMMAND_REFUSED))}
    for row in connection.execute(_subjects(project, rollout, COMMAND, *ENDS)):
        if row.kind != COMMAND:
            return f"the rollout has ended already: {row.body.get('reason') or row.kind}"
        if row.body["command"] in ENDING_COMMANDS and row.id not in refused:
            return f"{row.body['command']} by {row.body['by']}: {row.body['reason']}"
    return None


def _stale(
    connection: sa.Connection, project: str, current: Champion | None, expected: str | None, held: Evidence
) -> str | None:
    """Why what `held` compares with does not lead any more, or leads anew."""
    if (None if current is None else current.version) != expected:
        leads = "nobody" if current is None else f"version {current.version}"
        return f"the ledger's champion is {leads}, expected {expected or 'nobody'}"
    changes = sa.select(sa.func.max(ENTRIES.c.id)).where(
        ENTRIES.c.project == project, ENTRIES.c.kind.in_((SWAPPED, RESTORED))
    )
    changed = connection.scalar(changes) or 0
    if held.first_entry is not None and changed > held.first_entry:
        return (
            f"the champion changed in entry {changed} and the evidence was begun in entry {held.first_entry}: "
            f"it is against an earlier reign of {expected or 'nobody'}"
        )
    return None


def _champion(connection: sa.Connection, project: str) -> Champion | None:
    row = connection.execute(sa.select(CHAMPIONS).where(CHAMPIONS.c.project == project)).one_or_none()
    return None if row is None else Champion(**row._mapping)


def _set_champion(connection: sa.Connection, project: str, version: str, bundle: str, entry: int) -> None:
    values = {"version": version, "bundle": bundle, "since_entry": entry}
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(CHAMPIONS)
    connection.execute(
        insert.values(project=project, **values).on_conflict_do_update(index_elements=["project"], set_=values)
    )


def _entry(row: sa.Row[Any]) -> Entry:
    return Entry(**row._mapping)
