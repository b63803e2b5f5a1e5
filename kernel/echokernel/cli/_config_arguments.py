"""Arguments of the commands that read a configuration file."""

from __future__ import annotations

import argparse


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``FILE``, ``--set`` and ``--without``."""
    parser.add_argument("file", metavar="FILE", help="the configuration, TOML")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="set one value, as in node.name=quickstart; wins over ECHOKERNEL__NODE__NAME, which wins over the file",
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="leave a plugin out; also ECHOKERNEL_WITHOUT=a,b"
    )
