"""The append-only record of triggers, gates, verdicts, approvals and promotions, and the compare-and-swap of champions.

SQL by SQLAlchemy, its schema by Alembic: SQLite embedded, PostgreSQL by URL.
"""

from pipelines.ledger.evidence import Evidence
from pipelines.ledger.ledger import Champion, Entry, Ledger, LedgerError, LedgerMissingError, LedgerUnavailableError

__all__ = ["Champion", "Entry", "Evidence", "Ledger", "LedgerError", "LedgerMissingError", "LedgerUnavailableError"]
