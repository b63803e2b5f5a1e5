"""Services as people and programs read them. Names and texts are strangers': nothing of them reaches a terminal as it is."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import anyio

from echokernel import ServiceEvent, ServiceInfo
from echokernel_mdns.discovery import MdnsDiscovery
from echokernel_mdns.names import harmless

__all__ = ["age", "rows", "show_events", "show_once", "show_table", "to_plain"]

CONFIRM_EVERY = 10.0  # seconds between two questions to each whether it is there
REDRAW = 1.0  # seconds; the column of ages
SHOWN = 200  # rows of the live table: more than any screen has
HEADERS = ("NAME", "INSTANCE", "ADDRESS", "FINGERPRINT", "VERSION", "SEEN FOR", "")
WIDEST = 40  # characters of a cell


class _Known:
    """The services of now, and since when each has been there (monotonic seconds)."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self.services: dict[tuple[str, str | None], tuple[ServiceInfo, float]] = {}

    def take(self, event: ServiceEvent) -> bool:
        """Apply an event; returns whether it is about a service that is wanted."""
        service = event.service
        if self._name is not None and self._name not in (service.name, service.instance):
            return False
        key = service.instance, service.get_property("boot")
        if event.kind == "gone":
            self.services.pop(key, None)
        else:
            self.services[key] = service, self.services.get(key, (service, time.monotonic()))[1]
        return True


async def show_once(discovery: MdnsDiscovery, name: str | None, seconds: float, as_json: bool) -> int:
    """Print who is there after ``seconds``; returns how many."""
    known = _Known(name)
    events = discovery.watch()
    with anyio.move_on_after(seconds):
        async for event in events:
            known.take(event)
    await events.aclose()
    services = sorted(known.services.values(), key=lambda each: (each[0].name, each[0].instance))
    if as_json:
        print(_json([to_plain(service) for service, _ in services], indent=2))
    elif services:
        _print_columns([HEADERS, *rows(services)])
    else:
        what = "nothing" if name is None else f"nothing called {harmless(name)!r}"
        print(f"{what} announced itself within {seconds:g} s", file=sys.stderr)
    return len(services)


async def show_events(discovery: MdnsDiscovery, name: str | None, as_json: bool) -> None:
    """Print a line for each event until it is cancelled."""
    known = _Known(name)
    async for event in discovery.watch(confirm=CONFIRM_EVERY):
        if not known.take(event):
            continue
        if as_json:
            line = _json({"time": round(time.time(), 3), "event": event.kind, **to_plain(event.service)})
        else:
            clock = datetime.now().isoformat(sep=" ", timespec="milliseconds")
            [cells] = rows([(event.service, time.monotonic())])
            line = "  ".join(cell for cell in (clock, event.kind.ljust(8), *cells[:5], cells[6]) if cell)
        print(line, flush=True)


async def show_table(discovery: MdnsDiscovery, name: str | None, as_json: bool) -> None:
    """Keep a table on the terminal until it is cancelled; without rich, print lines."""
    try:
        from rich.live import Live
    except ImportError:
        await show_events(discovery, name, as_json)
        return
    known = _Known(name)
    plain = bool(os.environ.get("NO_COLOR"))
    with Live(_rich_table(known, plain), refresh_per_second=4, transient=False) as live:

        async def age_rows() -> None:
            while True:
                await anyio.sleep(REDRAW)
                live.update(_rich_table(known, plain))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(age_rows)
            async for event in discovery.watch(confirm=CONFIRM_EVERY):
                if known.take(event):
                    live.update(_rich_table(known, plain))


def rows(services: Iterable[tuple[ServiceInfo, float]]) -> list[tuple[str, ...]]:
    """Return the cells of services and of when they appeared: name, instance, addresses, key, version, age, remark."""
    now = time.monotonic()
    found = []
    for service, since in services:
        more = f" +{len(service.addresses) - 1}" if len(service.addresses) > 1 else ""
        fingerprint = service.get_property("fp") or ""
        cells = (
            service.name,
            service.instance,
            f"{service.address}{more}",
            f"{fingerprint[:19]}…" if len(fingerprint) > 20 else fingerprint,
            service.get_property("v") or "",
        )
        remark = "suspect: it does not answer" if service.suspect else ""
        found.append((*(_cell(cell) for cell in cells), age(now - since), remark))
    return found


def age(seconds: float) -> str:
    """Return ``8 s``, ``3 min``, ``5 h``, ``7 d``."""
    for unit, size, until in (("s", 1, 60), ("min", 60, 3_600), ("h", 3_600, 86_400)):
        if seconds < until:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds / 86_400)} d"


def to_plain(service: ServiceInfo) -> dict[str, Any]:
    """Return a service as JSON has it."""
    return {
        "name": service.name,
        "instance": service.instance,
        "addresses": [str(address) for address in service.addresses],
        "port": service.port,
        "properties": dict(service.properties),
        "suspect": service.suspect,
    }


def _cell(text: str) -> str:
    text = harmless(text)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _json(value: Any, *, indent: int | None = None) -> str:
    return harmless_json(json.dumps(value, ensure_ascii=False, indent=indent))


def harmless_json(text: str) -> str:
    """Return JSON without what would drive a terminal; JSON itself escapes the control characters below U+0020."""
    return "\n".join(harmless(line) for line in text.split("\n"))


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(known: _Known, plain: bool) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    services = sorted(known.services.values(), key=lambda each: (each[0].name, each[0].instance))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, header in enumerate(HEADERS):  # a narrow terminal cuts texts before it cuts addresses
        table.add_column(header, no_wrap=True, overflow="ellipsis", ratio=None if number in (2, 5) else 1)
    for (service, _), cells in zip(services, rows(services[:SHOWN]), strict=False):
        style = "" if plain else "dim" if service.suspect else ""
        table.add_row(*map(Text, cells), style=style)
    many = len(services) - SHOWN
    count = f"{len(services)} node{'' if len(services) == 1 else 's'}"
    table.caption = Text(f"{count}{f', {many} not shown' if many > 0 else ''}; Ctrl-C ends")
    return table
