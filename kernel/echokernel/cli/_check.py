"""Find all mistakes in a configuration file. Plugins and handlers are imported; nothing is started."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from echokernel.cli import DONE, WRONG_CONFIG
from echokernel.cli._config_arguments import add_config_arguments

if TYPE_CHECKING:
    from echokernel.config import Problem


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the mistakes as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.assembly import prepare
    from echokernel.cli._output import print_json
    from echokernel.config import InvalidConfig

    try:
        config, _ = prepare(arguments.file, overrides=arguments.overrides, without=arguments.without)
    except InvalidConfig as error:
        if arguments.json:
            print_json([_as_dict(problem) for problem in error.problems])
        else:
            count = len(error.problems)
            print(f"{error}\n{count} mistake{'s' if count > 1 else ''} in {arguments.file}", file=sys.stderr)
        return WRONG_CONFIG
    if arguments.json:
        print_json([])
        return DONE
    addresses = ", ".join(str(listen.address) for listen in config.listen.values())
    where = f" at {addresses}" if addresses else ""
    print(f"{arguments.file} is right; node {config.node.name!r}{where}; {config.loaded.start_line()}")
    return DONE


def _as_dict(problem: Problem) -> dict[str, object]:
    position = problem.location.position
    return {
        "source": problem.location.source,
        "line": position.line if position else None,
        "column": position.column if position else None,
        "kind": problem.kind,
        "path": list(problem.path),
        "message": problem.message,
    }
