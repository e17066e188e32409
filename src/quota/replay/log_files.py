"""Files of logs: packed or not, several, cut short, in UTF-16, from a pipe."""

from __future__ import annotations

import codecs
import io
import os
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InvalidValue

_CHUNK = 1 << 18
_LONGEST = 1 << 20
_PACKED: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": lambda: import_module("bz2").BZ2Decompressor(),
    b"\xfd7zXZ\0": lambda: import_module("lzma").LZMADecompressor(),
    b"\x28\xb5\x2f\xfd": lambda: import_module("compression.zstd").ZstdDecompressor(),
}
_OTHERS = {
    b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive", b"\x04\x22\x4d\x18": "packed with lz4",
    b"PAR1": "a Parquet file", b"SQLite f": "a SQLite database", b"LPKSHHRH": "a journal (journalctl -o cat prints it)",
    b"%PDF": "a PDF", b"\x7fELF": "a program",
}  # fmt: skip
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class LogFile:
    """The lines of a log, unpacked as its first bytes tell. ``-`` is standard input.

    A file may be read again from its beginning; a pipe (``size`` is None) only once. ``notes`` says what was wrong
    with the bytes read last, such as an archive that ends early.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: int | None = None
        self.position = 0
        self.notes: list[str] = []
        self._raw: Any = None
        self.open()
        self.identity = name if self.size is None else os.path.realpath(name)

    def open(self) -> None:
        """Open the file, unless it is open. Raises ``InvalidValue`` when it cannot be read."""
        if self._raw is not None:
            return
        try:
            if self.name == "-":
                stdin: Any = sys.stdin.buffer
                self._raw = stdin if hasattr(stdin, "read1") else io.BufferedReader(stdin)
                return
            self._raw = Path(self.name).open("rb")  # noqa: SIM115 -- closed below
            self.size = os.fstat(self._raw.fileno()).st_size if self._raw.seekable() else None
        except (OSError, ValueError) as error:
            raise _unreadable(self.name, error) from None

    def close(self) -> None:
        """Close the file; standard input stays as it is."""
        if self._raw is not None and self.name != "-":
            self._raw.close()
            self._raw = None

    def __iter__(self) -> Iterator[str]:
        closed = self._raw is None
        self.open()
        raw = self._raw
        if self.size is not None:
            raw.seek(0)
        self.notes, self.position = [], 0
        try:
            yield from _lines(self._text())
        finally:
            if closed and raw is self._raw:
                self.close()

    def _read(self) -> bytes:
        try:
            chunk: bytes = self._raw.read1(_CHUNK)
        except OSError as error:
            raise _unreadable(self.name, error) from None
        self.position += len(chunk)
        return chunk

    def _text(self) -> Iterator[bytes]:
        """In UTF-8, a piece at a time."""
        chunks = self._unpacked()
        first = next(chunks, b"")
        if not first.startswith(_WIDE):
            yield first.removeprefix(codecs.BOM_UTF8)
            yield from chunks
            return
        decode = codecs.getincrementaldecoder("utf-16")("replace").decode
        for chunk in chain((first,), chunks):
            yield decode(chunk).encode("utf-8", "replace")

    def _unpacked(self) -> Iterator[bytes]:
        """Member after member, as ``cat`` makes them; what follows the last may be plain text, or zeros."""
        data, members = self._more(b""), 0
        while data:
            make = next((make for magic, make in _PACKED.items() if data.startswith(magic)), None)
            if make is None:
                yield from self._plain(data, members)
                return
            try:
                unpack = make()
            except ImportError:
                raise self._seems("packed in a way that this Python cannot unpack") from None
            members += 1
            try:
                data = yield from self._member(unpack, data)
            except _errors() as error:
                self.notes.append(f"the archive is broken or cut short ({error}): its lines up to there are counted")
                return
            data = self._more(data.lstrip(b"\0"))

    def _member(self, unpack: Any, data: bytes) -> Generator[bytes, None, bytes]:
        while not unpack.eof:
            piece = unpack.decompress(data, _CHUNK)
            data = getattr(unpack, "unconsumed_tail", b"")
            if piece:
                yield piece
            if not data and not unpack.eof and len(piece) < _CHUNK:
                data = self._read()
                if not data:
                    raise EOFError("it has no end")
        unused: bytes = unpack.unused_data
        return unused

    def _plain(self, data: bytes, members: int) -> Iterator[bytes]:
        if not members:
            for magic, what in _OTHERS.items():
                if data.startswith(magic):
                    raise self._seems(what)
        else:
            self.notes.append("what follows the archive's end is not packed: it was read as it is")
        yield data
        yield from iter(self._read, b"")

    def _more(self, data: bytes) -> bytes:
        """Enough to tell what it is, where there is so much."""
        while len(data) < 8 and (chunk := self._read()):
            data = (data + chunk).lstrip(b"\0")
        return data

    def _seems(self, what: str) -> InvalidValue:
        return InvalidValue("log", self.name, f"a log in text; this is {what}: unpack it, or pipe its text to -")


def _errors() -> tuple[type[Exception], ...]:
    """Return what unpacking raises; of modules that a Python may lack, where they are loaded."""
    named = (("lzma", "LZMAError"), ("compression.zstd", "ZstdError"))
    own = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return (EOFError, OSError, zlib.error, *own)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest, old = b"", None
    for chunk in chunks:
        if old is None:
            old = b"\n" not in chunk and b"\r" in chunk[:-1]
        whole, found, end = (chunk.replace(b"\r", b"\n") if old else chunk).rpartition(b"\n")
        if found:
            text = (rest + whole).decode("utf-8", "replace")
            yield from (text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text).split("\n")
            rest = b""
        rest = (rest + end).lstrip(b"\0")  # a rotated log's hole, which may be larger than a line may be
        if len(rest) > _LONGEST:  # cut, not kept in memory; JSON objects in one line are lines of their own
            at = max(map(rest.rfind, (b"}{", b"},{", b"}, {"))) + 1 if rest.lstrip(b", ")[:1] in (b"{", b"[") else 0
            if at:
                yield rest[:at].decode("utf-8", "replace")
            rest = rest[at : at + _LONGEST]
    if rest:
        yield rest.decode("utf-8", "replace")


def _unreadable(name: str, error: Exception) -> InvalidValue:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidValue("log", name, f"a log file that can be read ({reason})")


@contextmanager
def open_log(path: str) -> Iterator[LogFile]:
    """Open a log; ``-`` is standard input.

    Raises:
        InvalidValue: when there is no such file or it cannot be read, or is no text; reading on raises it too.
    """
    log = LogFile(path)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def open_logs(paths: Sequence[str]) -> Iterator[list[LogFile]]:
    """Open several logs. Files are closed again and opened when their time comes, however many there are.

    Raises:
        InvalidValue: as ``open_log``; when one is given twice.
    """
    logs: list[LogFile] = []
    try:
        for path in paths:
            logs.append(LogFile(path))
            if logs[-1].identity in {log.identity for log in logs[:-1]}:
                raise InvalidValue("log", path, "each log once")
            if len(paths) > 1 and logs[-1].size is not None:
                logs[-1].close()
        yield logs
    finally:
        for log in logs:
            log.close()
