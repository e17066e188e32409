"""The ledger and its awaited twin."""
