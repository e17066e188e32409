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
    "an account's override is a key's": ("operations/override.py", "OWN * own + limit.name\n", "limit.name\n"),
    "an account's throttle is changed with no memory of the last": (
        "rule/subject.py", "return refs if all(ref.name.startswith(OWN) for ref in refs) else ()", "return ()"),
    "what the only key used is not the account's": (
        "stores/memory/directory.py", "            if first.record is not None:\n", "            if False:\n"),
}  # fmt: skip
