"""SQLite: one machine, many processes."""

from .store import SQLiteStore, open_url

__all__ = ["SQLiteStore", "open_url"]
