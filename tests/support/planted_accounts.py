"""Planted bugs of accounts and their plans; see ``test_planted``."""

BUGS = {
    "the nearest account alone is checked": (
        "stores/memory/directory.py", "account.parent.line()", "[]"),
    "a limit of an account above is read on the nearest": (
        "rule/subject.py", "self.above[level - 2] if level > 1 else self.account", "self.account"),
    "a refusal above takes below": (
        "rule/charge.py", "    return apply(subject, route_plan, takes, now, slot=slot) if outcome.allowed else outcome",
        ("    if not outcome.allowed:\n        for record in subject.records()[:1]:\n"
        "            count(record, _counted(route_plan, takes), now)\n        subject.keep(now)\n"
        "    return apply(subject, route_plan, takes, now, slot=slot) if outcome.allowed else outcome")),
    "an account above is counted twice": (
        "rule/charge.py", "    for record in subject.records():\n        count(record, counted, now)",
        "    for record in (*subject.records(), *subject.above):\n        count(record, counted, now)"),
    "an account above is not counted by the compiled form": (
        "operations/compiled.py", "            for index, record in enumerate(records)\n",
        "            for index, record in enumerate(records[:2])\n"),
    "a move is overlooked by what serves a key": (
        "stores/memory/accounts.py", "    for key_entry in entry.members:\n        key_entry.room.invalidate()\n    if stripe", "    if stripe"),
    "a refund goes to whoever is above now": (
        "ledger/requests.py", "above=details.above", "above=None"),
    "a hold is settled on whoever is above now": (
        "ledger/reservations/settling.py", "            above=hold.above,", "            above=None,"),
    "an account's plan is put on without a word to its keys": (
        "stores/memory/accounts.py", "                key_entry.room.invalidate()\n        steps = [*_begun", "                pass\n        steps = [*_begun"),
    "a plan that is replaced serves accounts as it was": (
        "stores/memory/binding.py", "for id_ in plan.ids():", "for id_ in [plan.id]:"),
    "an account's own limit is another's by its name": ("joined.py", "name=OWN + limit.name", "name=limit.name"),
    "an account's override is a key's": ("operations/standing.py", "OWN * own + limit.name\n", "limit.name\n"),
    "an account's throttle is changed with no memory of the last": (
        "rule/subject.py", "return refs if all(ref.name.startswith(OWN) for ref in refs) else ()", "return ()"),
    "an account's date binds a microsecond late": (
        "operations/request.py", "_settled(upper, now) for", "_settled(upper, now - 1) for"),
    "an account's date is overlooked by what serves its keys": (
        "operations/compiled.py", "in entry.changes]", "in entry.scheduled]"),
    "what was due on an account is made by the clock alone": (
        "stores/memory/store.py", "[place.record for place in account.line() if place.shared] if account is not None else []", "[]"),
    "an account's date is told of its keys' limits": (
        "operations/standing.py", "next((upper for upper in entry.uppers if upper.id == limit.holder), entry) if limit.holder else entry", "entry"),
    "a plan that is removed takes an account's dates along": (
        "stores/memory/store.py", "Entry(key_entry.said(), plans, scheduled=later)", "Entry(key_entry.said(), plans)"),
    "an account is told the plan that it left": (
        "operations/request.py", "        entry = entry._replace(uppers=tuple([_settled(upper, now) for upper in entry.uppers]))\n    return _settled(entry, now)",
        ("        entry = entry._replace(uppers=tuple([_settled(upper, now) for upper in entry.uppers]))\n"
         "    return entry if type(entry.key) is Account else _settled(entry, now)")),
    "what the only key used is not the account's": (
        "stores/memory/directory.py", "            if first.record is not None:\n", "            if False:\n"),
}  # fmt: skip
