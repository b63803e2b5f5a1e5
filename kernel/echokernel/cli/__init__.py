"""The command line. A command's module, and whatever it needs, is imported when that command is used, never before."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from echokernel.errors import ConfigError, EchoError, PluginError

__all__ = ["DONE", "FAILED", "INTERRUPTED", "NOT_STARTED", "USAGE", "WRONG_CONFIG", "main"]

DONE = 0
FAILED = 1
"""Something failed while it ran, or there are findings."""
USAGE = 2
NOT_STARTED = 3
WRONG_CONFIG = 78
"""``EX_CONFIG`` of sysexits.h."""
INTERRUPTED = 130

COMMANDS = {
    "run": ("_run", "run a server from a configuration file"),
    "check": ("_check", "find all mistakes in a configuration file; start nothing"),
    "plugins": ("_plugins", "list the installed plugins, or describe one"),
    "config": ("_config", "JSON Schema, an example, or what is in effect"),
    "hooks": ("_hooks", "list what a plugin may implement"),
    "call": ("_call", "send a request to a running node and print the result"),
    "emit": ("_emit", "send an event to a running node"),
    "listen": ("_listen", "print the events that a running node sends"),
    "stream": ("_stream", "send a file to a running node as a stream, or receive one"),
    "describe": ("_describe", "list what a running node can do"),
    "diff": ("_diff", "say what changed between two nodes, and whom it breaks"),
    "doctor": ("_doctor", "look for what would keep nodes of this machine from working"),
    "health": ("_health", "ask a running node how it is"),
    "ping": ("_ping", "measure the round trip to a running node"),
    "version": ("_version", "versions of echokernel, Python and the system"),
}
EPILOG = """\
exit codes: 0 done, 1 failed or findings, 2 usage, 3 could not start, 78 wrong configuration, 130 interrupted
Installed plugins may add commands; `echokernel plugins` lists what is installed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader of a pipe (head, less) has seen enough; whatever is still buffered must not raise at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:  # argparse: 2 for usage, 0 after --help
        return error.code if isinstance(error.code, int) else USAGE
    except ConfigError as error:
        return fail(str(error), WRONG_CONFIG, prefix="")
    except PluginError as error:
        return fail(str(error), NOT_STARTED)
    except EchoError as error:
        return fail(str(error), FAILED)


def fail(message: str, code: int, *, prefix: str = "error: ") -> int:
    """Print ``message`` on stderr and return ``code``."""
    print(f"{prefix}{message}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    parser, commands = _parser()
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    if word is None:
        parsed = parser.parse_args(arguments)
        if not parsed.version:
            parser.print_help()
            return USAGE
        word, arguments = "version", ["version"]
    if word in COMMANDS:
        name, help_text = COMMANDS[word]
        module = importlib.import_module(f"echokernel.cli.{name}")
        command = commands.add_parser(word, help=help_text, description=module.__doc__, formatter_class=Formatter)
        module.configure(command)
        run = module.run
    else:
        from echokernel.cli._extra import find_command

        extra = find_command(word)
        if extra is None:
            _unknown(parser, word)
        command = commands.add_parser(word, help=extra.help, description=extra.help, formatter_class=Formatter)
        extra.configure(command)
        run = extra.run
    code: int = run(parser.parse_args(arguments))
    return code


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the modules' docstrings."""


def _parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]:
    listing = "\n".join(f"  {name:10} {help_text}" for name, (_, help_text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="echokernel",
        usage="echokernel COMMAND …",
        description=f"Real-time messaging over QUIC.\n\ncommands:\n{listing}\n\n`echokernel COMMAND --help` says more.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="store_true", help="the same as the command version")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(dest="command", prog="echokernel", help=argparse.SUPPRESS, metavar="COMMAND")
    return parser, commands


def _unknown(parser: argparse.ArgumentParser, word: str) -> NoReturn:
    from echokernel._suggest import did_you_mean

    hint = did_you_mean(word, COMMANDS) or "see: echokernel --help"
    parser.exit(USAGE, f"error: there is no command {word!r}; {hint}\n")
