"""Things that a record keeps by name until their time, however many: reservations, remembered requests, refunds."""

from __future__ import annotations

from collections.abc import Iterable
from operator import setitem
from typing import Any, Generic, TypeVar

E = TypeVar("E", bound="tuple[Any, ...]")
Step = tuple[Any, ...]


def _heap() -> Any:
    import heapq  # noqa: PLC0415 -- loaded where something is kept

    return heapq


class Kept(Generic[E]):
    """Entries by name, each a tuple that begins with its time and its name, which no other has.

    Copies share the entries: what one changes is its own (``news``) until its ``steps`` are taken, so a copy costs the
    same whatever is kept. ``heap``: every entry by its time, those too that are not kept any more until it comes.
    ``due``: no entry's time is earlier; None where nothing is kept. ``latest``: no entry's time is later.
    """

    __slots__ = ("due", "entries", "heap", "latest", "news", "popped")

    def __init__(self, entries: Iterable[E] = ()) -> None:
        self.heap: list[E] = sorted(entries)  # a sorted list is a heap
        self.entries: dict[str, E] = {entry[1]: entry for entry in self.heap}
        self.due: int | None = self.heap[0][0] if self.heap else None
        self.latest: int = self.heap[-1][0] if self.heap else 0
        self.news: dict[str, E | None] = {}
        self.popped = 0

    def copy(self) -> Kept[E]:
        """A copy of what is written. Of two that are changed, one is written."""
        twin: Kept[E] = Kept.__new__(Kept)
        twin.entries, twin.heap, twin.due, twin.latest = self.entries, self.heap, self.due, self.latest
        twin.news, twin.popped = {}, 0
        return twin

    def __len__(self) -> int:
        """Return how many are kept."""
        more = [(entry is not None) - (name in self.entries) for name, entry in self.news.items()]
        return len(self.entries) + sum(more)

    def get(self, name: str) -> E | None:
        return self.news[name] if name in self.news else self.entries.get(name)

    def put(self, entry: E) -> None:
        self.news[entry[1]] = entry
        self.due = entry[0] if self.due is None else min(self.due, entry[0])
        self.latest = max(self.latest, entry[0])

    def drop(self, name: str) -> None:
        self.news[name] = None
        if not len(self):
            self.due = None

    def each(self) -> list[E]:
        """Every entry, in no order."""
        entries = {**self.entries, **self.news} if self.news else self.entries
        return [entry for entry in entries.values() if entry is not None]

    def all(self) -> list[E]:
        """Every entry, by its time."""
        return sorted(self.each())

    def ripe(self, now: int, most: int = 1 << 62) -> list[E]:
        """Take note of the entries whose time has come, the earliest first and at most so many; once for each."""
        heap, found = self.heap, list[E]()
        if self.popped or not heap:
            return found
        heappop, heappush = _heap().heappop, _heap().heappush
        entry: E
        fringe = [(heap[0], 0)]
        while fringe and fringe[0][0][0] <= now and self.popped < most:
            entry, place = heappop(fringe)
            self.popped += 1
            if self.get(entry[1]) is entry:
                found.append(entry)
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(heap):
                    heappush(fringe, (heap[child], child))
        if self.popped:
            times = [fringe[0][0][0]] if fringe else []
            self.due = min([*times, *(entry[0] for entry in self.news.values() if entry is not None)], default=None)
        return found

    def forget_some(self, now: int) -> None:
        """Drop the first two whose time has come: no call pays for all."""
        for entry in self.ripe(now, 2):
            self.drop(entry[1])

    def more(self, entry: E) -> list[Step]:
        """Return the steps, for ``at_once``, that keep one more entry of what is as it was written."""
        steps: list[Step] = [(_heap().heappush, self.heap, entry), (setitem, self.entries, entry[1], entry)]
        if entry[0] > self.latest:
            steps.append((setattr, self, "latest", entry[0]))
        if self.due is None or entry[0] < self.due:
            steps.append((setattr, self, "due", entry[0]))
        return steps

    def steps(self) -> list[Step]:
        """The steps, for ``at_once``, that write what was changed, for all copies; this one is then as written."""
        if not self.news and not self.popped:
            return []
        heappop, heappush = _heap().heappop, _heap().heappush
        new = {name: entry for name, entry in self.news.items() if entry is not None}
        steps: list[Step] = [(self.entries.pop, name, None) for name, entry in self.news.items() if entry is None]
        if len(self.heap) > 2 * len(self) + 64:
            steps.append((setattr, self, "heap", self.all()))
        else:
            steps += [(heappop, self.heap)] * self.popped
            steps += [(heappush, self.heap, entry) for entry in new.values()]
        return [*steps, (self.entries.update, new), (setattr, self, "news", {}), (setattr, self, "popped", 0)]
