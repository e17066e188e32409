"""The Lua scripts of the Redis store. Each runs atomically; all keys share one hash tag and are declared.

Numbers travel as decimal text, ``%.0f``: exact below 2^53, where a lane ends.

Redis undoes nothing of a script that fails half way. So everything is checked before the first write, permissions
too, and the first write is a ``pcall`` whose error is returned: what a server refuses then (no memory, a replica, too
few replicas) was refused before anything was done. An error that is raised says by its text that it came from within,
and its outcome is unknown. Nothing is removed that the same script writes: in a slot that moves to another node of a
Cluster a missing key cannot be made again.
"""

from __future__ import annotations

from hashlib import sha1

from attrs import define, field

from ..texts import text_beside


@define(frozen=True)
class Script:
    """A script's text and the SHA-1 that Redis knows it by, both packed as arguments of the protocol."""

    text: str
    by_hash: bytes = field(init=False)
    by_text: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        text = self.text.encode()
        sha = sha1(text, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "by_hash", b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % sha)
        object.__setattr__(self, "by_text", b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(text), text))


DECIDE = Script(text_beside(__package__, "decide.lua"))

LOOK = Script(text_beside(__package__, "look.lua"))

READ = Script(text_beside(__package__, "read.lua"))

COMMIT = Script(text_beside(__package__, "commit.lua"))

RECORDS = Script(text_beside(__package__, "records.lua"))

PAGE = Script(text_beside(__package__, "page.lua"))

RELEASE = Script(text_beside(__package__, "release.lua"))
