"""PostgreSQL: many machines, durable."""

from .store import AsyncPostgresStore, PostgresStore, open_url

__all__ = ["AsyncPostgresStore", "PostgresStore", "open_url"]
