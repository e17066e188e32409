"""Planted bugs of where keys and accounts stand; see ``test_planted``."""

import pytest

from planting import caught_by, plant

BUGS = {
    "a status is charged": (
        "operations/status.py", "    apis, shared_only = request.args\n",
        ("    apis, shared_only = request.args\n    from .consume import consume\n    import attrs\n"
         "    consume(attrs.evolve(request, op='consume', takes=None), entry, party, terms)\n")),
    "a status settles for good": (
        "operations/status.py", "settled(party, course, now, terms)", "settled(party, course, now + 1, terms)"),
    "a status is told as after one unit": (
        "operations/status.py", "{line.unit: 1 for line in course.lines}", "{}"),
    "an account is told of its keys' own limits": ("operations/status.py", "if each.line.shared or not shared_only", "if True"),
    "an account's limit is told once for each key": (
        "ledger/holders.py", "                    seen |= {plan.id for plan in new}\n", ""),
    "an account's count is told as the key's": (
        "standing.py", "key.account if line.shared else key.id", "key.id"),
    "what is over is told as what remains": ("standing.py", "over=max(0, -left)", "over=max(0, left)"),
    "a limit that refuses for ever tells when to retry": (
        "rule/charge.py", "end if refused and units <= line.limit + line.overage else None", "end if refused else None"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_suite_catches(bug, tmp_path):
    """One planted bug, seen by a scenario or the machine."""
    assert caught_by(*plant(tmp_path, f"_holders_{list(BUGS).index(bug)}", *BUGS[bug]))
