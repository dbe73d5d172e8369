"""Alembic's folder of the ledger's schema; `pipelines.ledger.database` runs it, no command line is needed."""
