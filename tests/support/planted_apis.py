"""Planted bugs of plans for several apis; see ``test_planted``."""

BUGS = {
    "the sum forgets an api": ("rule/record.py", "return [one for one in alike if not several(one.api)", "return [one for one in alike[1:] if not several(one.api)"),
    "an api's calls are not told to the sum": (
        "rule/record.py", "one.route == route and counts(one.api, api)]", "one.route == route and one.api == api]"),
    "the compiled form leaves the sum out": (
        "operations/compiled.py", "and counts(meter.api, route_plan.api)", "and meter.api == route_plan.api"),
    "a sum begins with nothing": ("rule/meter.py", "self.total = sum(part.total for part in parts)", "self.total = 0"),
    "a sum begins its hour now": ("rule/meter.py", "self.hour = sum(part.hour for part in parts)", "self.hour = self.total"),
    "a sum's window begins where it was made": (
        "rule/readings.py", "    if several(meter.api):\n        each", "    if False:\n        each"),
    "what comes back stays in the sum": (
        "rule/record.py", "            for meter in self.meters_of(api, route, unit):\n                meter.give_back(taken_at, units)",
        "            for meter in filter(None, [self.meter(api, route, unit)]):\n                meter.give_back(taken_at, units)"),
    "a report counts an api and the sum": ("operations/report.py", "meter.route or several(meter.api) or", "meter.route or"),
    "usage tells the sum for each api": ("operations/usage.py", "used = row.used if row.api == api else meter.used().get(row.day, 0) if meter else 0", "used = row.used"),
    "a status tells a limit once for each api": ("operations/standing.py", "if not (several(each.limit.apis) and _place(each.limit) in known)", "if True"),
    "a throttle is full again after a move": ("rule/replan.py", "    level, own = _there(subject.record(shared=limit.shared), limit, now)\n    alike = [", "    return _there(subject.record(shared=limit.shared), limit, now)\n    alike = ["),
    "a move pours the same calls in again and again": ("rule/replan.py", "bucket.shared_level, bucket.since = level_at(bucket, now), now", "pass"),
    "a grant is lost by a move": ("rule/readings.py", "min((window.extra for window in alike), default=0)", "0"),
    "an alert fires again after a move": ("rule/readings.py", "max((window.alerted for window in alike), default=0)", "0"),
    "calls in flight are those of one api": ("rule/record.py", "if counts(apis, of) and", 'if of == apis.rpartition("\\n")[2] and'),
    "a plan takes the place of two": ("stores/associations.py", "if len(others) > most:", "if len(others) > most + 1:"),
    "a replaced plan overlaps another of its key": ("stores/associations.py", "if old.id in plans and taken:", "if False:"),
    "a plan that goes leaves one of its apis": (
        "operations/request.py", "return {api: kept for api, kept in plans.items() if kept.id not in gone} | by_api([plan])", "return {**plans, **by_api([plan])}"),
    "a date drops nothing that it overlaps": ("stores/associations.py", "if {*plan.apis}.isdisjoint(change[0].apis))", "if plan.apis[-1] not in change[0].apis)"),
    "the plainest form counts on the sum alone": (
        "stores/memory/binding.py", "plain = plain and [cell[0].api for cell in room.cells] == [room.shape.api]", "plain = plain and len(room.cells) == 1"),
}  # fmt: skip
