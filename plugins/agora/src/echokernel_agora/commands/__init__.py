"""``echokernel agora ls | send | stream | tail | bench``: agents from the shell, one module for each action."""

from __future__ import annotations

import argparse
import importlib

__all__ = ["AgoraCommand"]

ACTIONS = {
    "ls": "list the agents that are registered",
    "send": "send a message, and print the reply if one is wanted",
    "stream": "send what comes on stdin in chunks, and print the reply as it comes",
    "tail": "register an agent and print what is sent to it, as JSON lines",
    "bench": "measure messages per second and their latency between pairs of agents",
}
EPILOG = """\
The token is read from --token-file, or from the variable ECHOKERNEL_AGORA_TOKEN; never give it as an argument.

  echo '{"action": "query"}' | echokernel agora send agent-2 -
  echo 'Hello' | echokernel agora stream llm
"""


class AgoraCommand:
    """``echokernel agora``."""

    name = "agora"
    help = "talk to the agents of a router: ls, send, stream, tail, bench"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the actions and their arguments."""
        parser.epilog = EPILOG
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for name, help_text in ACTIONS.items():
            action = actions.add_parser(name, help=help_text, description=help_text)
            action.add_argument(
                "--url", default="ws://127.0.0.1:8765/ws", help="the router, ws:// or wss:// (%(default)s)"
            )
            action.add_argument("--token-file", metavar="FILE", help="a file that holds the router's token")
            importlib.import_module(f"echokernel_agora.commands.{name}").configure(action)

    def run(self, arguments: argparse.Namespace) -> int:
        """Run one action and return its exit code."""
        code: int = importlib.import_module(f"echokernel_agora.commands.{arguments.action}").run(arguments)
        return code
