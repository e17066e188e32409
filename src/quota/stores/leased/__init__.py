"""Leases: units taken from a store beforehand, spent in memory."""

from .aio import AsyncLeasedStore
from .store import LeasedStore, open_url

__all__ = ["AsyncLeasedStore", "LeasedStore", "open_url"]
