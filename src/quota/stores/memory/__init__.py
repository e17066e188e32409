"""In memory: one process."""

from .store import MemoryStore, open_url

__all__ = ["MemoryStore", "open_url"]
