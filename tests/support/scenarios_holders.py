"""Short histories of where keys and accounts stand and what changes for one of them; as ``scenarios``."""

from scenarios import _ledger


def an_account_stands_where_its_keys_left_it(q):
    ledger, _, _, _ = _ledger(q, "5/day, 9/month by account as ours")
    first, second = (ledger.issue_key(id_, "p", id=id_, account="team").secret for id_ in ("x", "y"))
    assert ledger.consume(first, 2)
    assert ledger.consume(second)
    assert [(s.name, s.used, s.holder) for s in ledger.status("team")] == [("ours", 3, "team")]
    assert [(s.name, s.used, s.holder) for s in ledger.status("y")] == [("requests/day", 1, "y"), ("ours", 3, "team")]


def a_limit_that_admits_nobody_says_no_time_to_retry(q):
    ledger, _, key, _ = _ledger(q, "0/day, 1/hour, 0/s burst 5")
    assert [(s.retry_at, s.remaining) for s in ledger.status(key)] == [(None, 0), (None, 1), (None, 0)]


SCENARIOS = {
    name: function for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and function.__module__ == __name__
}  # fmt: skip
