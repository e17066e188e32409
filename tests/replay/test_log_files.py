"""Logs as files: packed in any way, cut, joined by cat, wide, holed, several, from pipes: every line that is there counts."""

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import threading

import pytest

from quota import UsagePlan
from quota.errors import InvalidValue
from quota.replay import replay
from quota.replay.log_files import open_log, open_logs
from quota.replay.report import check_understood
from traffic import LINE, traffic

LINES = traffic(60)
TEXT = ("\n".join(LINES) + "\n").encode()
PACKED = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "plain": bytes}
PLAN = UsagePlan("p", "3/day, 10/hour")


def read(path):
    """The lines of a file that have something in them, and its notes."""
    with open_log(str(path)) as log:
        return [line for line in log if line.strip("\0")], log.notes


@pytest.mark.parametrize("second", PACKED)
@pytest.mark.parametrize("first", PACKED)
def test_packed_and_joined(tmp_path, first, second):
    """``cat a b``, each packed in its way; zeros between and behind are nothing. Plain text behind an archive is told."""
    (tmp_path / "log").write_bytes(PACKED[first](TEXT) + PACKED[second](TEXT))
    lines, notes = read(tmp_path / "log")
    if first == "plain" != second:
        assert lines[:60] == LINES
        return
    assert lines == LINES * 2
    assert len(notes) == (second == "plain" != first)
    if "plain" not in (first, second):
        (tmp_path / "log").write_bytes(PACKED[first](TEXT) + b"\0" * 512 + PACKED[second](TEXT) + b"\0" * 300_000)
        assert read(tmp_path / "log") == (LINES * 2, [])


@pytest.mark.spread(3)
@pytest.mark.parametrize("times", [150, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_archives_that_are_cut_or_followed_by_rubbish_keep_what_was_read(tmp_path, kind, times):
    """As zcat does, with a note; rubbish is a malformed line."""
    long = "\n".join(LINES * times).encode()
    packed = PACKED[kind](long)
    (tmp_path / "cut").write_bytes(packed[: -len(packed) // 9])
    with open_log(str(tmp_path / "cut")) as log:
        (report,) = replay(log, [PLAN])
    assert 60 * times // 4 < report.total < 60 * times
    assert "broken or cut short" in report.notes[0]
    (tmp_path / "tail").write_bytes(packed + b"\n\x01rubbish\xff\n")
    with open_log(str(tmp_path / "tail")) as log:
        (report,) = replay(log, [PLAN])
    assert (report.total, report.malformed) == (60 * times, 1)
    assert "not packed" in report.notes[0]


def test_an_archive_is_unpacked_piece_by_piece(tmp_path, monkeypatch):
    """However much a few bytes unpack to, and however few bytes come at a time."""
    hole = 20 << 20
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "log").write_bytes(pack(b"\0" * hole + b"\n" + TEXT))
        with open_log(str(tmp_path / "log")) as log:
            sizes = [len(line) for line in log]
        assert max(sizes[1:]) < 200
        assert sizes[0] < hole // 10
    monkeypatch.setattr("quota.replay.log_files._CHUNK", 7)
    for pack in PACKED.values():
        (tmp_path / "log").write_bytes(pack(TEXT) * 2)
        assert read(tmp_path / "log") == (LINES * 2, [])


@pytest.mark.parametrize(("data", "what"), [
    (b"PK\x03\x04rest", "a zip archive"), (b"\x28\xb5\x2f\xfdrest", "cannot unpack|broken or cut short"), (b"PAR1....", "Parquet"),
    (b"SQLite format 3\0", "SQLite"), (b"LPKSHHRH", "journalctl"), (b"\x04\x22\x4d\x18....", "lz4"),
])  # fmt: skip
def test_what_is_no_text_is_named(tmp_path, data, what):
    """And what to do; zstandard is read where Python can."""
    (tmp_path / "log").write_bytes(data)
    with open_log(str(tmp_path / "log")) as log, pytest.raises(InvalidValue, match=what):
        (report,) = replay(log, [PLAN])
        check_understood("log", report)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be", "utf-8-sig", "utf-8"])
def test_any_unicode(tmp_path, coding, monkeypatch):
    """PowerShell's > writes UTF-16; marks stand at the beginning and where cat joined files; odd bytes are replaced."""
    text = TEXT.decode().replace("ada", "ädä")
    mark = "\ufeff" if coding == "utf-16-be" else ""
    (tmp_path / "log").write_bytes((mark + text).encode(coding) + text.encode(coding) + b"\x00\xd8\n")
    monkeypatch.setattr("quota.replay.log_files._CHUNK", 1001)
    with open_log(str(tmp_path / "log")) as log:
        (report,) = replay(log, [PLAN], key="user")
    assert (report.total + report.nameless, set(report.clients)) == (120, {"ädä"})


@pytest.mark.parametrize("hole", [1, 4096, 3 << 20])
def test_holes_and_marks_make_no_client(tmp_path, hole):
    """NULs that copytruncate leaves, in front, in the middle; a byte order mark between two logs."""
    once = {line.split()[0] for line in LINES}
    (tmp_path / "log").write_bytes(b"\0" * hole + TEXT + b"\0" * hole + TEXT + b"\xef\xbb\xbf" + TEXT + b"\0" * hole)
    with open_log(str(tmp_path / "log")) as log:
        (report,) = replay(log, [PLAN])
    assert (report.total, set(report.clients)) == (180, once)
    assert report.malformed <= 1


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"], ids=["CR", "CRLF", "LF"])
def test_line_ends(tmp_path, end, monkeypatch):
    """Of old systems too, told by the first piece; a stray CR ends no line elsewhere."""
    (tmp_path / "log").write_bytes(TEXT.replace(b"\n", end))
    monkeypatch.setattr("quota.replay.log_files._CHUNK", 1000)
    assert read(tmp_path / "log")[0] == LINES
    (tmp_path / "log").write_bytes(b"a\rb\n")
    assert read(tmp_path / "log")[0] == ["a\rb"]


@pytest.mark.parametrize("many", [2_500, pytest.param(30_000, marks=pytest.mark.slow)])
def test_one_line_of_very_many_objects(tmp_path, many):
    """Firehose ends no line: memory is bounded, and each object counts."""
    rows = [json.dumps({"ts": 1_700_000_000 + n, "ip": f"10.0.{n % 250}.1", "path": "/é" * 20}) for n in range(many)]
    for separator in ("", ",", ", "):
        (tmp_path / "log").write_text(separator.join(rows), "utf-8")
        with open_log(str(tmp_path / "log")) as log:
            (report,) = replay(log, [PLAN])
        assert (report.total, report.malformed) == (many, 0)


def line(server, second, day=17):
    return LINE.format(net=server, ip=1, user="-", when=f"{day}/May/2015:10:05:{second:02d} +0000", n=1, size=1)


def write(folder, name, lines, pack=bytes):
    (folder / name).write_bytes(pack("\n".join(lines).encode()))
    return str(folder / name)


def test_several_logs_are_read_by_time(tmp_path):
    """Rotated ones in any order, those of two servers side by side, packed or not; late lines within each are late."""
    paths = [
        write(tmp_path, "access.log", [line(0, n, day=19) for n in range(9)]),
        write(tmp_path, "access.log.1", [line(0, n, day=18) for n in (1, 0, *range(2, 9))], bz2.compress),
        write(tmp_path, "access.log.2.gz", ["rubbish", *(line(0, n) for n in range(0, 9, 2))], gzip.compress),
        write(tmp_path, "other.xz", [line(1, n) for n in range(1, 9, 2)], lzma.compress),
        write(tmp_path, "empty", []),
    ]
    for late in (0, 60):
        watched = []
        with open_logs(paths) as logs:
            (report,) = replay(logs, [UsagePlan("p", "99/day")], late=late, watch=lambda *row: watched.append(row))
        assert (report.total, report.malformed, report.out_of_order) == (27, 1, 1)
        assert report.too_late == (late == 0)
        assert [client[6] for _, client in watched[:9]] == ["0", "1"] * 4 + ["0"]
        assert [at for at, _ in watched] == sorted(at for at, _ in watched)
        assert report.samples == [(1, f"{paths[2]}: rubbish")]


def test_several_logs_have_columns_and_troubles_of_their_own(tmp_path):
    """W3C's columns hold for their file; a note names the file."""
    rows = ["#Fields: date time c-ip", "2026-04-09 10:11:12 9.9.9.9", "2026-04-09 10:11:13 9.9.9.9"]
    paths = [
        write(tmp_path, "a", rows),
        write(tmp_path, "b", ["#Fields: c-ip date time", "9.9.9.8 2026-04-09 10:11:12", "9.9.9.8 2026-04-09 10:11:14"]),
        write(tmp_path, "c.gz", rows, lambda data: gzip.compress(data)[:-3]),
    ]
    with open_logs(paths) as logs:
        (report,) = replay(logs, [UsagePlan("p", "99/day")])
    assert report.clients == {"9.9.9.9": [4, 0], "9.9.9.8": [2, 0]}
    assert len(report.notes) == 1
    assert report.notes[0].startswith(f"{paths[2]}: the archive is broken")


def test_a_log_is_given_once(tmp_path, monkeypatch):
    """By any name: what is counted twice is no finding."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    path = write(tmp_path, "a", LINES)
    (tmp_path / "b").symlink_to(path)
    for paths in ([path, path], [path, str(tmp_path / "b")], [path, str(tmp_path / "." / "a")], ["-", path, "-"]):
        with pytest.raises(InvalidValue, match="each log once"), open_logs(paths):
            pass
    with pytest.raises(InvalidValue, match="can be read"), open_logs([path, str(tmp_path / "none")]):
        pass


def test_more_logs_than_files_may_be_open(tmp_path):
    """A year of rotated logs takes a handle at a time."""
    paths = [write(tmp_path, str(n), [line(0, n % 60, day=10 + n // 60)]) for n in range(300)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
    try:
        with open_logs(paths) as logs:
            (report,) = replay(logs, [UsagePlan("p", "99/day")])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (report.total, report.out_of_order) == (300, 0)


def test_pipes_are_read_once_beside_files(tmp_path, monkeypatch):
    """A named one, and standard input, packed too: neither can be read again from its beginning."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[gzip.compress(TEXT)])
    writer.start()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bz2.compress(TEXT))))
    with open_logs([str(tmp_path / "pipe"), "-", write(tmp_path, "a", LINES)]) as logs:
        assert [log.size is None for log in logs] == [True, True, False]
        (report,) = replay(logs, [PLAN])
    writer.join()
    assert (report.total, report.too_late) == (180, 0)
