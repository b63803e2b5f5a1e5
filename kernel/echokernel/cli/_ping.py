"""Measure the round trip to a running node, from kernel to kernel.

  echokernel ping quic://127.0.0.1:4433 -c 10 -i 0.2

Prints one line per ping and, also after Ctrl-C, a summary. Exit code 1: none was answered. Where the plugin clocksync is
installed here and used by the node, also how long each way takes, once the clocks are synchronised.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE, FAILED, USAGE, fail
from echokernel.cli._client import add_client_arguments, with_client

if TYPE_CHECKING:
    from echokernel.client import ClientBuilder, EchoClient
    from echokernel.clock import Clock, OneWay

CLOCK = "clocksync"

logger = logging.getLogger("echokernel.cli")


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("-c", "--count", type=int, default=4, metavar="N", help="pings to send (4); 0: until Ctrl-C")
    parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="S", help="seconds between them (1)")
    parser.add_argument("-W", "--timeout", type=float, default=10.0, metavar="S", help="seconds to wait for each (10)")
    parser.add_argument("--json", action="store_true", help="only the summary, as JSON; times in seconds")


@dataclass(slots=True)
class _Tally:
    sent: int = 0
    times: list[float] = field(default_factory=list)
    """Seconds, of those that were answered."""
    one_way: OneWay | None = None
    """The last one that was known."""


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import print_json

    for option in ("interval", "timeout"):
        value = getattr(arguments, option)
        if not 0 <= value < float("inf"):
            return fail(f"--{option}: {value:g} is not a number of seconds", USAGE)
    tally = _Tally()

    async def use(client: EchoClient) -> int:
        await _ping(client, arguments, tally)
        return DONE

    try:
        code = with_client(arguments, use, _give_clock)
    except KeyboardInterrupt:
        code = DONE
    if not tally.sent:
        return code or FAILED
    if arguments.json:
        one_way = None if tally.one_way is None else asdict(tally.one_way)
        print_json({"url": arguments.url, **summary(tally.sent, tally.times), "one_way": one_way}, indent=None)
    else:
        print(summary_text(arguments.url, summary(tally.sent, tally.times)))
    return code if tally.times else FAILED


def _give_clock(builder: ClientBuilder) -> None:
    """Let the client follow the node's clock, if the plugin for it is installed."""
    clock = _installed_clock()
    if clock is not None:
        builder.clock(clock)
        logging.getLogger(f"echokernel.{CLOCK}").setLevel(logging.ERROR)  # that a node has no clock is no news here


def _installed_clock() -> Clock | None:
    from echokernel.clock import Clock
    from echokernel.loader import PluginFailure, PluginLoader, installed_plugins

    installed = installed_plugins()
    if CLOCK not in {plugin.name for plugin in installed}:
        return None
    loader = PluginLoader(installed=installed)
    try:
        loader.load(CLOCK)
    except PluginFailure as error:
        logger.debug("no one-way delays: %s", error)
        return None
    service = loader.registry.services.get(CLOCK)
    if service is None:
        return None
    clock = service.value.default()
    return clock if isinstance(clock, Clock) else None


async def _ping(client: EchoClient, arguments: argparse.Namespace, tally: _Tally) -> None:
    import anyio

    from echokernel.errors import RequestTimeout

    while True:
        tally.sent += 1
        number = tally.sent
        started = anyio.current_time()
        try:
            seconds = await client.ping(arguments.timeout)
        except RequestTimeout:
            line = f"no answer within {arguments.timeout:g} s"
        else:
            tally.times.append(seconds)
            line = f"{seconds * 1000:.3f} ms"
            clock = client.context().clock
            if clock.is_synced and (way := clock.one_way()) is not None:
                tally.one_way = way
                line += f"  out {way.out * 1000:.3f} ms, back {way.back * 1000:.3f} ms, ± {way.error * 1000:.3f} ms"
        if not arguments.json:
            print(f"{arguments.url}: ping {number}: {line}", flush=True)
        if number == arguments.count:
            return
        await anyio.sleep(max(0.0, started + arguments.interval - anyio.current_time()))


def summary(sent: int, times: Sequence[float]) -> dict[str, Any]:
    """Return the statistics of a run; times in seconds, None where nothing was answered. ``loss`` is 0 to 1."""
    found: dict[str, Any] = {"sent": sent, "received": len(times), "loss": round(1 - len(times) / sent, 6)}
    ordered = sorted(times)
    values: dict[str, float | None] = dict.fromkeys(("min", "avg", "median", "p95", "max", "stddev"))
    if ordered:
        values = {
            "min": ordered[0],
            "avg": statistics.fmean(ordered),
            "median": statistics.median(ordered),
            "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],  # nearest rank: a time that was measured
            "max": ordered[-1],
            "stddev": statistics.pstdev(ordered),
        }
    return found | {name: None if value is None else round(value, 9) for name, value in values.items()}


def summary_text(url: str, found: dict[str, Any]) -> str:
    """Return the summary as ping(8) words it."""
    names = [name for name in found if name not in ("sent", "received", "loss")]
    lines = [
        f"--- {url} ping statistics ---",
        f"{found['sent']} sent, {found['received']} received, {found['loss']:.3%} lost".replace(".000%", "%"),
    ]
    if found["received"]:
        lines.append(f"rtt {'/'.join(names)} = {'/'.join(f'{1000 * found[name]:.3f}' for name in names)} ms")
    return "\n".join(lines)
