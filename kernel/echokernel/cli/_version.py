"""Versions of echokernel, Python and the system, for reports."""

from __future__ import annotations

import argparse
import platform

from echokernel.cli import DONE


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    from echokernel import __version__
    from echokernel.cli._output import print_json

    versions = {
        "echokernel": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if getattr(arguments, "json", False):
        print_json(versions)
    else:
        print(
            f"echokernel {__version__} ({platform.python_implementation()} {versions['python']}, {platform.system()})"
        )
    return DONE
