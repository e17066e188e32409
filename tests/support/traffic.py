"""Logs made up by arithmetic, the same each time, of a real one's shape: and the plain script that counts them."""

import re
from collections import Counter
from datetime import datetime

LINE = '192.0.{net}.{ip} - {user} [{when}] "GET /p{n}?q=1 HTTP/1.1" 200 {size} "http://r/{n}" "agent \\"{ip}\\" 1.0"'


def traffic(lines, day=17):
    """Four days, many clients, a few busy ones, bursts, seconds in no order within a minute."""
    state, made = 1, []
    for n in range(lines):
        state = state * 48_271 % 2_147_483_647
        minute = n * 4 * 1440 // lines
        ip = state % 7 if state % 3 else state % 250
        second = state % 60
        if n % 1_000 > 960:  # a script fetches all it can
            ip, second, minute = 6, n % 4, (n - n % 1_000 + 960) * 4 * 1440 // lines
        when = f"{day + minute // 1440}/May/2015:{minute % 1440 // 60:02d}:{minute % 60:02d}:{second:02d} +0000"
        made.append(
            LINE.format(
                net=0 if ip < 7 else state // 250 % 7,
                ip=ip, user="ada" if state % 5 else "-", when=when, n=n % 9, size=state % 999 or "-",
            )
        )  # fmt: skip
    return made


def figures(lines, per_day, rate, burst):
    """What ``per_day``, ``rate``/s burst ``burst`` by ip would have done: written without any of quota's code."""
    days, levels, allowed, refused, hit = Counter(), {}, Counter(), Counter(), Counter()
    found = re.findall(r"^(\S+) .*?\[([^]\n]+ [+]\d{4})\]", "\n".join(lines), re.MULTILINE)
    times = [(int(datetime.strptime(when, "%d/%b/%Y:%H:%M:%S %z").timestamp()), ip) for ip, when in found]
    for latest, ip in sorted(times, key=lambda row: row[0]):
        level, at = levels.get(ip, (0, latest))
        level, day = max(0, level - rate * (latest - at)), (ip, latest // 86_400)
        over = [
            name for name, full in (("requests/day", days[day] >= per_day), ("throttle", level + 1 > burst)) if full
        ]
        refused.update(over)
        hit[ip] += bool(over)
        if not over:
            allowed[latest // 86_400] += 1
            days[day], levels[ip] = days[day] + 1, (level + 1, latest)
    return {"allowed": allowed, "by_limit": refused, "hit": +hit}
