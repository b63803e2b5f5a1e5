"""``echokernel agora ls``: who is registered. It registers nobody."""

from __future__ import annotations

import argparse

from echokernel.cli import DONE
from echokernel_agora.commands.shared import add_timeout, inert, json_line, run_action, token_of

HEADERS = ("ID", "NAME", "CAPABILITIES", "STATE", "REGISTERED")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--capability", metavar="NAME", help="only agents that have it")
    parser.add_argument("--cards", action="store_true", help="with --json: their cards, too")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    add_timeout(parser, "the router")


def run(arguments: argparse.Namespace) -> int:
    from echokernel_agora.asking import list_agents

    async def action() -> int:
        agents = await list_agents(
            arguments.url,
            token=token_of(arguments),
            capability=arguments.capability,
            cards=arguments.cards,
            timeout=arguments.timeout,
        )
        if arguments.json:
            for agent in agents:
                print(json_line(agent.model_dump()))
        else:
            rows = [
                (
                    agent.id,
                    agent.name,
                    ", ".join(agent.capabilities or ()),
                    agent.state or "online",
                    f"{agent.registered_at:%Y-%m-%d %H:%M:%S}Z",
                )
                for agent in agents
            ]
            lines = [HEADERS, *(tuple(inert(cell).replace("\n", " ") for cell in row) for row in rows)]
            widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
            for line in lines:
                print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return DONE

    return run_action(action)
