"""The requests of logs, one after another: what is none is left out, several logs go by time, late lines in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush, heapreplace
from itertools import count
from operator import itemgetter

import attrs

from .apis import ApiRules, To
from .log_files import LogFile
from .log_forms import bare
from .logs import Parser, Request, Row

SAMPLES = 5
_SAMPLE = 160
_TOLD_EVERY = 4096
_MOST_WAITING = 1_000_000
"""So many requests wait to be put in order: 60 s of 13,000 a second, in some 120 MB; 450 MB where plans look at routes
and units."""

Told = tuple[tuple[int, ...], tuple[str, str] | None, To | None] | None
"""All that plans look at in a row: so many of each unit, method and path, the API; None where no plan looks at any."""

Asked = tuple[int, str, Told]
_first = itemgetter(0)


@attrs.define
class Reading:
    """The requests of one log as they stand in it, and what was met on the way. Of a row, ``units`` and ``routes``.

    ``apis`` say which API a request is to; one that is to none of them is left out, and counted as ``elsewhere``.
    """

    lines: Iterable[str]
    parser: Parser
    units: Sequence[str] = ()
    routes: bool = False
    progress: Callable[[], object] = int
    apis: ApiRules | None = None
    malformed: int = 0
    samples: list[tuple[int, str]] = attrs.field(factory=list)
    nameless: int = 0
    nameless_sample: tuple[int, str] | None = None
    out_of_order: int = 0
    elsewhere: int = 0
    _to: Callable[[Row, str, str], To | None] | None = None
    _latest: int = 0
    _clients: dict[str, str] = attrs.field(factory=dict)  # a name is kept once, however many requests wait

    def __attrs_post_init__(self) -> None:
        if self.apis:
            self._to = self.apis.of(getattr(self.lines, "name", ""), self.parser)

    def __iter__(self) -> Iterator[Asked]:
        parse, progress, wanted = self.parser, self.progress, bool(self.units or self.routes)
        same = self._clients.setdefault
        for number, line in enumerate(self.lines, 1):
            if number % _TOLD_EVERY == 0:
                progress()
            try:
                now, client, row = parse(line)
            except ValueError:
                for request in self._several(number, line):
                    if asked := self._asked(number, line, request):
                        yield asked
                continue
            if client is None or now < self._latest or self._to is not None:
                if asked := self._asked(number, line, (now, client, row)):
                    yield asked
                continue
            self._latest = now
            yield now, same(client, client), self._look(row) if wanted else None

    def start(self) -> int:
        """The first instant of a file; of a pipe, which can be read but once, and where there is none, the earliest."""
        again = isinstance(self.lines, LogFile) and self.lines.size is not None
        return next((now for now, _, _ in self), 0) if again else 0

    def _several(self, number: int, line: str) -> Iterator[Request]:
        """Of a line that is not one request."""
        if not line.strip() or bare(line).startswith("#"):
            return
        try:
            for request in self.parser.several(line):
                if request is None:
                    self._leave_out(number, line)
                else:
                    yield request
        except ValueError:
            self._leave_out(number, line)

    def _asked(self, number: int, line: str, request: Request) -> Asked | None:
        now, client, row = request
        if client is None:
            self.nameless += 1
            self.nameless_sample = self.nameless_sample or (number, _short(line))
            return None
        to = None
        if self._to is not None:
            to = self._to(row, line, self.parser.request(row)[1])
            if to is None:
                self.elsewhere += 1
                return None
        if now < self._latest:
            self.out_of_order += 1
        else:
            self._latest = now
        told = self._look(row, to) if self.units or self.routes or to else None
        return now, self._clients.setdefault(client, client), told

    def _look(self, row: Row, to: To | None = None) -> Told:
        units = self.parser.units
        return tuple([units(row, unit) for unit in self.units]), self.parser.request(row) if self.routes else None, to

    def _leave_out(self, number: int, line: str) -> None:
        self.malformed += 1
        if len(self.samples) < SAMPLES:
            self.samples.append((number, _short(line)))


def _short(line: str) -> str:
    return line[: _SAMPLE * 2].strip()[:_SAMPLE]


class Requests:
    """The requests of logs, by time where there are several, put in order where they are late by up to ``late`` s.

    ``parser`` makes a parser for each log. ``readings`` tell what was met; ``full``: more came within ``late`` seconds
    than wait.
    """

    def __init__(
        self, logs: Sequence[Iterable[str]], parser: Callable[[], Parser], late: int, *, units: Sequence[str] = (),
        routes: bool = False, progress: Callable[[int], object] | None = None, apis: ApiRules | None = None,
    ) -> None:  # fmt: skip
        told = _telling(progress)
        self.readings = [Reading(log, parser(), units, routes, told, apis) for log in logs]
        self.full = False
        self._parser = parser
        self._late_us = late * 1_000_000

    def __iter__(self) -> Iterator[Asked]:
        requests: Iterable[Asked] = self._by_time() if len(self.readings) > 1 else self.readings[0]
        return self._in_order(requests) if self._late_us else iter(requests)

    def _by_time(self) -> Iterator[Asked]:
        """Several logs, as far as each is in order. One is opened when its first instant has come."""
        starts = [Reading(reading.lines, self._parser()).start() for reading in self.readings]
        later = sorted(zip(starts, range(len(starts)), strict=True), reverse=True)
        heap: list[tuple[int, int, Asked, Iterator[Asked]]] = []
        while heap or later:
            if later and (not heap or later[-1][0] <= heap[0][0]):
                number = later.pop()[1]
                requests = iter(self.readings[number])
                if request := next(requests, None):
                    heappush(heap, (request[0], number, request, requests))
                continue
            _, number, request, requests = heap[0]
            yield request
            if following := next(requests, None):
                heapreplace(heap, (following[0], number, following, requests))
            else:
                heappop(heap)

    def _in_order(self, requests: Iterable[Asked]) -> Iterator[Asked]:
        """Sorted a stretch at a time: what is due goes when what waits spans a quarter more than it must."""
        waiting: list[Asked] = []
        late_us = self._late_us
        latest = due = 0
        for request in requests:
            now = request[0]
            if now > latest:  # noqa: PLR1730 -- for each line, and max() is a call
                latest = now
            if latest >= due or len(waiting) >= _MOST_WAITING:
                waiting.sort(key=_first)
                ready = bisect_right(waiting, latest - late_us, key=_first)
                if len(waiting) - ready >= _MOST_WAITING // 2 and len(waiting) >= _MOST_WAITING:
                    ready = len(waiting) // 2
                    self.full = True
                yield from waiting[:ready]
                del waiting[:ready]
                due = latest + late_us // 4
            waiting.append(request)
        waiting.sort(key=_first)
        yield from waiting


def _telling(progress: Callable[[int], object] | None) -> Callable[[], object]:
    """Counts the lines of all logs together."""
    if progress is None:
        return int
    read = count(_TOLD_EVERY, _TOLD_EVERY)
    return lambda: progress(next(read))
