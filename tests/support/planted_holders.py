"""Planted bugs of where keys and accounts stand; see ``test_planted``."""

BUGS = {
    "a status is charged": (
        "operations/standing.py", "    apis, shared_only = request.args\n",
        ("    apis, shared_only = request.args\n    from .consume import consume\n    import attrs\n"
         "    consume(request.changed(op='consume', takes=None), entry, subject, options)\n")),
    "a status settles for good": (
        "operations/standing.py", "advanced(subject, route_plan, now, options)", "advanced(subject, route_plan, now + 1, options)"),
    "a status is told as after one unit": (
        "operations/standing.py", "{limit.unit: 1 for limit in route_plan.limits}", "{}"),
    "an account is told of its keys' own limits": ("operations/standing.py", "if each.limit.shared or not shared_only", "if True"),
    "an account's limit is told once for each key": (
        "ledger/holders.py", "                    seen |= {plan.id for plan in new}\n", ""),
    "an account's count is told as the key's": (
        "status.py", "key.account if limit.shared else key.id", "key.id"),
    "what is over is told as what remains": ("status.py", '"over": max(0, -left)', '"over": max(0, left)'),
    "a limit that refuses for ever tells when to retry": (
        "rule/charge.py", "end if refused and units <= limit.limit + limit.overage else None", "end if refused else None"),
    # Networks and scopes
    "a key's networks are not looked at": ("operations/request.py", "if key.networks and not contain(key.networks, address):", "if False:"),
    "the fast path overlooks networks": (
        "stores/memory/one_meter.py", "if (scope is not None or room.key.networks) and barred(", "if scope is not None and barred("),
    "the plainest form overlooks networks": (
        "stores/memory/binding.py", "plain = room.shape.simple and not key_entry.key.networks", "plain = room.shape.simple"),
    "the plainest form overlooks scopes": (
        "stores/memory/one_meter.py", "while units and plain and (scope is None or scope in self.key.scopes):", "while units and plain:"),
    # Limits of one's own
    "an override outlives its date": ("rule/entries.py", "return self.until is None or now < self.until", "return True"),
    "an override lasts a microsecond too long": ("rule/entries.py", "now < self.until", "now <= self.until"),
    "an override outlives its date on the compiled path": (
        "rule/charge.py", "    ends += [own.until for own in record.overrides if own.until is not None and own.until > record.at]\n", ""),
    "an override follows to another plan": (
        "joined.py", "(override.plan, override.route, override.name) == (plan, route, limit.name)",
        "(override.route, override.name) == (route, limit.name)"),
    "an override does not follow a replaced plan": (
        "operations/standing.py", "mine = plan.id, route", "mine = str(plan), route"),
    "an override is never taken back": ("operations/standing.py", "[other for other in had if other[:3] != mine]", "[*had]"),
    "an override is another route's too": (
        "joined.py", "(override.plan, override.route, override.name) == (plan, route, limit.name)",
        "(override.plan, override.name) == (plan, limit.name)"),
    "an account's limit is overridden on one key": (
        "operations/standing.py", 'subject.record(shared=limit.by == "account")', "subject.key"),
    "a key's override holds for its account's limits": (
        "joined.py", 'key if account is None or limit.by == "key" else account', "key + (account or ())"),
    "an override goes with the counts": ("operations/adjustments.py", "fresh.overrides, fresh.last_used = old.overrides, old.last_used", "fresh.last_used = old.last_used"),
    "an override is seen when the key is called next but one": (
        "rule/record.py", 'more.append((setattr, self, "overrides", new.overrides))',
        'plain.append((setattr, self, "overrides", new.overrides))'),
    "the fast path overlooks an override": ("operations/compiled.py", "    entry = in_force(entry, subject, request.now)\n", ""),
    "a status does not tell an override": ("operations/standing.py", "alike and own.holds(now)", "alike and not own.holds(now)"),
    "a status tells an override of another route": (
        "operations/standing.py", "own[:2] == (plan, route) and limit.name in names", "own.plan == plan and limit.name in names"),
    "a status does not tell a route's override": ("operations/standing.py", "limit.name in names and", "limit.name == own.name and"),
    # Changes of plan with a date
    "a date binds a microsecond late": ("operations/request.py", "with_plan(plans, plan) if at <= now else plans", "with_plan(plans, plan) if at < now else plans"),
    "a date binds a microsecond late on the fast path": (
        "operations/compiled.py", "changes = [at for _, at in entry.changes]", "changes = [at + 1 for _, at in entry.changes]"),
    "a date is overlooked on the fast path": (
        "operations/compiled.py", "*expiries, *changes", "*expiries"),
    "a record past its date goes back": (
        "operations/request.py", "settled(entry, max([now, *[record.at for record in subject.records()]]))", "settled(entry, now)"),
    "what was due is forgotten when another change is scheduled": (
        "stores/associations.py", "    entry = settled(entry, now)\n    later = ", "    later = "),
    "what was due is made by the clock alone": (
        "stores/memory/store.py", "[record.at for record in (*[one.record for one in own], *above) if record]", "[]"),
    "a change at once leaves what is scheduled": (
        "stores/associations.py", "with_plan(entry.plans, plan), scheduled=later)", "with_plan(entry.plans, plan))"),
    "two changes of an api stand": (
        "stores/associations.py", "later = _later(entry, plan)\n    if at is None", "later = entry.scheduled\n    if at is None"),
    "a plan that is removed takes its past along": ("stores/associations.py", "    entry = settled(entry, now)\n    later = tuple(one", "    later = tuple(one"),
    "a period ends with the shortest quota": ("stores/associations.py", "return max(windows", "return min(windows"),
    "a status does not tell what is scheduled": ("operations/standing.py", "if not {*goes.apis}.isdisjoint(plan.apis)", "if goes.id in plan.apis"),
    "a key is listed by the plan that it was on": ("stores/memory/directory.py", "settled(self._entry(key_entry), now)", "self._entry(key_entry)"),
}  # fmt: skip
