"""The ledger and its awaited twin."""

from .aio import AsyncLedger
from .sync import Ledger

__all__ = ["AsyncLedger", "Ledger"]
