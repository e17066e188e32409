"""The PostgreSQL store's tables and functions: the second twin of the rule's plain case, tested as the first one is.

Each function is one statement of its caller and so one transaction: it does all of its work or nothing. Functions that
only read are STABLE: all they read is of one moment. Numbers are bigint and nothing overflows: a lane ends where a
count passes 2^53, and what is larger is kept in the encoded record alone. Whoever locks, locks in this order: the
stamp ``#``, a key's stamp, the key's record, its account's record, the outbox's last number.
"""

from __future__ import annotations

from ..texts import text_beside

VERSION = 4
"""Of the tables and functions together; a later one is refused, and an earlier one, which was never released."""

TABLES = text_beside(__package__, "schema.sql")

MIGRATION = text_beside(__package__, "migrate.sql")
"""One transaction: whoever comes at the same time waits, and finds that nothing is left to do."""

READING = text_beside(__package__, "read.sql")

WRITING = text_beside(__package__, "write.sql")

CHECK = text_beside(__package__, "check.sql")
"""All that does not fit together; nothing, unless someone else wrote to the tables."""

DECIDING = text_beside(__package__, "decide.sql")
"""``spend`` is the lane, ``ask`` brings the records to the rule."""
