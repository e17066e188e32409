"""Planted bugs of what keys used and when; see ``test_planted``."""

BUGS = {
    "a refusal is the last use": (
        "stores/memory/one_meter.py", "                self.flush()\n                self.at = now",
        "                self.flush()\n                self.key_entry.record.last_used = minute_of(now)\n                self.at = now"),
    "a grant's minute hides the next use": (
        "operations/headroom.py", "own.last_used != self.began", "own.at < self.began"),
    "the minute is noted as it was before": (
        "stores/memory/one_meter.py", "            record.last_used = minute_of(self.at)\n",
        "            record.last_used = record.last_used or minute_of(self.at)\n"),
    "the last use goes with the record": ("stores/memory/entries.py", "            place.last_used = record.last_used\n", ""),
    "two keys on one account are counted twice": (
        "stores/memory/reports.py", "                record = None if key_entry.record is None else key_entry.record.copy()\n",
        ("                of = key_entry.account if key_entry.account and key_entry.account.shared else key_entry\n"
         "                record = None if of.record is None else of.record.copy()\n")),
    "an account's keys are told one by one": ("ledger/usage/reports.py", 'who = id_ if by == "key" else account', "who = id_"),
    "the day at the edge of retention is lost": ("operations/report.py", "now // DAY_US - retention", "now // DAY_US - retention + 1"),
    "a day too many is told": ("operations/report.py", "now // DAY_US - retention", "now // DAY_US - retention - 1"),
    "today is not told": ("operations/report.py", "in meter.used().items():", "in [*meter.used().items()][:-1]:"),
    "a route's units are told twice": ("operations/report.py", "if meter.route or several", "if several"),
    "a day goes to the plan of its first charge": ("rule/record.py", "for found in reversed(self.plan_days) if found.api == api and", "for found in self.plan_days if found.api == api and"),
    "a change of plan is not noted where nothing else is due": (
        "operations/compiled.py", " or records[0].plan_of(request.api) != plan.id:", ":"),
    "the plan before retention is forgotten": (
        "rule/record.py", "while len(before) > 1 and before[1].day <=", "while before and before[0].day <="),
    "a lapsed hold is told": ("operations/report.py", "    record.lapse(now)\n", ""),
    "a report drops a removed key": (
        "stores/memory/reports.py", "for found in (living, store._removed.values())", "for found in (living,)"),
    "a removed key's holds are used": ("operations/report.py", "        if hold.still_open:\n            record.give_back", "        if False:\n            record.give_back"),
    "the day on which a key is removed is lost": ("operations/report.py", "        meter.begin_day(today + 1, today - retention)\n", ""),
    "a new key has the usage of a removed one": (
        "ledger/usage/reports.py", "(request,), same)\n        except", "(request,), same)\n            raise UnknownKey(str(key))\n        except"),
    "of removed keys of an id the last one alone is told": (
        "operations/report.py", "used=one.used + used", "used=one.used"),
    "a removed key's plans are forgotten": ("operations/report.py", "record.at, record.plan_days, record.leases", "record.at, (), record.leases"),
    "removed keys are kept for ever": ("stores/memory/reports.py", "< now]", "< 0]"),
    "what is erased stays in reports": (
        "stores/memory/reports.py", "(store._removed.pop, life) for life in kept]", "(store._removed.get, life) for life in kept]"),
    "events of who is erased stay": ("event.py", "return event.key in keys or", "return"),
    "events of an account's keys stay": ("event.py", "account in (event.account, *above)", "account in above"),
    "what who is erased held on an account stays": ("operations/adjustments.py", 'if hold.id.partition(".")[2] in request.args:', "if False:"),
    "what who is erased held on an account is used": ("operations/adjustments.py", "                    record.give_back(hold.taken_at, hold.takes)\n                subject", "                    pass\n                subject"),
    "an erasure is not told": ("stores/memory/reports.py", "store._outbox.at_once(steps, erased(by))", "store._outbox.at_once(steps, ())"),
    "who is not there is erased": ("ledger/usage/erasing.py", "        raise UnknownKey(id_)\n", "        return\n"),
    "a report lapses holds for good": ("stores/memory/reports.py", "key_entry.record.copy()", "key_entry.record"),
}  # fmt: skip
