"""The usage page as HTML: no script, no request of its own, every text escaped, every colour beside a word."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

_STYLE = Path(__file__).with_name("style.css").read_text("utf-8")
_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy: this style and a form to this place, nothing else."""

_BESIDE = {"throttle": " (at once)", "concurrency": " (in flight)"}
_WIDTH, _HEIGHT, _STEP = 700, 130, 20


def form_page(zone: str, message: str = "") -> str:
    """Return the page that asks for a key."""
    told = f'<p class="told" role="alert">{escape(message)}</p>' if message else ""
    return _page("Usage", f"<h1>Usage of an API key</h1>{told}{_form(zone)}")


def usage_html(data: Mapping[str, Any]) -> str:
    """Return the page of a key."""
    key = data["key"]
    ends = f" It expires on {_instant(key['expires_at'])}." if key["expires_at"] else ""
    for change in key["scheduled"]:
        ends += f" It goes to the plan {escape(change['plan'])} on {_instant(change['at'])}."
    for account in data["accounts"]:
        for change in account["scheduled"]:
            plan, name = escape(change["plan"]), escape(account["name"])
            ends += f" Its account {name} goes to the plan {plan} on {_instant(change['at'])}."
    when = f"{_instant(data['at'])} ({escape(data['zone'])})"
    body = [f"<h1>Usage of {escape(key['name'])}</h1>"]
    body.append(f"<p>The key that ends in <b>{escape(key['hint'])}</b>, on {when}.{ends}</p>")
    body += [_plan(plan, several=len(data["plans"]) > 1) for plan in data["plans"]]
    if not data["plans"]:
        body.append("<p>This key is on no plan.</p>")
    body.append(f'<h2 class="screen">Look again</h2>{_form(data["zone"])}')
    return _page(f"Usage of {key['name']}", "".join(body))


def _plan(plan: Mapping[str, Any], *, several: bool) -> str:
    where = f" for {escape(plan['api'])}" if several and plan["api"] else ""
    rows = "".join(map(_row, plan["limits"]))
    head = '<tr><th scope="col">Limit</th>' + "".join(
        f'<th scope="col" class="number">{name}</th>' for name in ("Used", "Of", "Remaining")
    )
    table = (
        f'<table><thead>{head}<th scope="col">Resets</th></tr></thead><tbody>{rows}</tbody></table>'
        if rows
        else "<p>This plan has no limits.</p>"
    )
    charts = "".join(map(_chart, _charts(plan)))
    return f"<section><h2>Plan {escape(plan['name'])}{where}</h2>{table}{charts}</section>"


def _charts(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The histories of a plan; what limits of one unit have in common is one picture, not the same one again."""
    units = {limit["name"]: limit["unit"] for limit in plan["limits"]}
    found: list[dict[str, Any]] = []
    for history in plan["history"]:
        drawn = {"unit": units.get(history["limit"], history["limit"]), "days": history["days"]}
        same = next((one for one in found if {**one, **drawn} == one), None)
        if same is None:
            found.append({"limit": history["limit"], **drawn})
        else:
            same["limit"] += f" and {history['limit']}"
    return found


def _row(limit: Mapping[str, Any]) -> str:
    whole = limit["limit"] + limit["extra"]
    state = "" if limit["remaining"] else " <b>(none left)</b>"
    resets = _instant(limit["resets_at"]) if limit["resets_at"] else "as calls end" if limit["used"] else "nothing used"
    where = f"{limit['route']}: " if limit["route"] and limit["route"] not in limit["name"] else ""
    name = escape(where + limit["name"] + _BESIDE.get(limit["kind"], ""))
    if limit["override"]:
        until = limit["override"]["until"]
        name += f' <span class="quiet">(agreed {f"until {_instant(until)}" if until else "for good"})</span>'
    numbers = "".join(
        f'<td class="number" data-of="{of}">{max(0, number):,}{more}</td>'
        for of, number, more in (
            ("Used", limit["used"], ""),
            ("Of", whole, ""),
            ("Remaining", limit["remaining"], state),
        )
    )
    return f'<tr><th scope="row">{name}</th>{numbers}<td data-of="Resets">{resets}</td></tr>'


def _chart(history: Mapping[str, Any]) -> str:
    """Bars of the days, and the same as a table for who sees no bars."""
    days = history["days"]
    most = max(day["used"] for day in days)
    bars = "".join(
        f'<rect class="bar" x="{at * _STEP + 2}" y="{_HEIGHT - height}" width="{_STEP - 4}" height="{height}"/>'
        for at, height in enumerate(max(1, day["used"] * _HEIGHT // most) if day["used"] else 0 for day in days)
        if height
    )
    first, last = days[0]["day"], days[-1]["day"]
    total = sum(day["used"] for day in days)
    said = f"{history['limit']}: {total:,} used from {first} to {last}, at most {most:,} in a day"
    rows = "".join(
        f'<tr><th scope="row">{day["day"]}</th><td class="number" data-of="Used">{day["used"]:,}</td></tr>'
        for day in reversed(days)
        if day["used"]
    )
    head = '<thead><tr><th scope="col">Day</th><th scope="col" class="number">Used</th></tr></thead>'
    table = f"<details><summary>As a table</summary><table>{head}<tbody>{rows}</tbody></table></details>"
    return (
        f"<h3>{escape(history['limit'])}: the last {len(days)} days</h3>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said, quote=True)}">'
        f'{bars}<path class="frame" d="M0 {_HEIGHT}H{_WIDTH}"/></svg>'
        f'<p class="quiet">From {first} to {last}, by days of UTC: {total:,} in all, at most {most:,} in a day.</p>'
        + (table if rows else "")
    )


def _form(zone: str) -> str:
    return (
        '<form method="post"><label for="key">API key</label>'
        '<input id="key" name="key" type="password" required autocomplete="off" maxlength="256">'
        '<label for="zone">Time zone</label>'
        f'<input id="zone" name="zone" value="{escape(zone, quote=True)}" autocomplete="off" maxlength="64">'
        "<button>Show its usage</button></form>"
    )


def _instant(text: str) -> str:
    at = datetime.fromisoformat(text)
    return f'<time datetime="{escape(text, quote=True)}">{at:%Y-%m-%d %H:%M}</time>'


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="robots" content="noindex"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>"
    )
