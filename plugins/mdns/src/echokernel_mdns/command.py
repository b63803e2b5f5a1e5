"""``echokernel discover``: who is there."""

from __future__ import annotations

import argparse
import sys

__all__ = ["DiscoverCommand"]

DONE, FAILED, USAGE = 0, 1, 2


class DiscoverCommand:
    """Shows the nodes around, as they come and go."""

    name = "discover"
    help = "show the nodes in the network, as they come and go"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Show the nodes that announce themselves in the network and on this machine: a live table on a terminal, a line "
            "for each event elsewhere. Ends with Ctrl-C. What is shown is announced by anybody, and nobody vouches for it: "
            "trust comes with the connection. A node that no longer answers is shown as suspect."
        )
        parser.add_argument("name", nargs="?", metavar="NAME", help="only nodes of this name")
        parser.add_argument("--once", action="store_true", help="look around for a while, print a table and end")
        parser.add_argument(
            "--timeout", type=float, default=None, metavar="SECONDS", help="with --once: how long (default 3)"
        )
        parser.add_argument(
            "--json", action="store_true", help="one object per event and line; with --once one array of services"
        )
        parser.add_argument(
            "--interface",
            action="append",
            metavar="NAME",
            help="look only there: a name, a pattern or an address; may be given several times",
        )
        parser.add_argument("--ipv6", action="store_true", help="use IPv6 multicast too")

    def run(self, arguments: argparse.Namespace) -> int:
        import anyio

        from echokernel import EchoError
        from echokernel_mdns.discovery import MdnsDiscovery
        from echokernel_mdns.showing import show_events, show_once, show_table

        seconds = 3.0 if arguments.timeout is None else arguments.timeout
        if arguments.timeout is not None and not arguments.once:
            return _fail("--timeout goes with --once; without it, the command runs until Ctrl-C", USAGE)
        if not 0 <= seconds < float("inf"):
            return _fail(f"--timeout: {seconds} is no time to wait; wanted 0 or more seconds", USAGE)
        try:
            discovery = MdnsDiscovery(interfaces=arguments.interface, ipv6=arguments.ipv6)
            if arguments.once:
                found = anyio.run(show_once, discovery, arguments.name, seconds, arguments.json)
                return DONE if found else FAILED
            live = not arguments.json and sys.stdout.isatty()
            show = show_table if live else show_events
            anyio.run(show, discovery, arguments.name, arguments.json)
        except EchoError as error:
            return _fail(str(error), FAILED)
        except KeyboardInterrupt:
            pass
        return DONE


def _fail(message: str, code: int) -> int:
    print(f"echokernel: {message}", file=sys.stderr)
    return code
