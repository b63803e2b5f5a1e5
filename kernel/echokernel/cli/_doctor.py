"""Look for what would keep nodes of this machine from working: plugins that cannot be used, and the checks of those that can.

Exit code 1: something was found; each finding says what helps.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from echokernel.cli import DONE, FAILED

CHECK_SECONDS = 10.0


class Finding(NamedTuple):
    """What was looked at, and what is wrong with it; None: nothing."""

    subject: str
    trouble: str | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import harmless, print_json, print_table
    from echokernel.loader import PluginFailure, PluginLoader, installed_plugins

    installed = installed_plugins()
    loader = PluginLoader(environ={}, installed=installed)
    findings: list[Finding] = []
    for plugin in installed:
        trouble = plugin.problem
        if plugin.trouble is None:
            try:
                loader.load(plugin.name)
            except PluginFailure as error:
                trouble = f"{error.reason}; {error.remedy}"
        findings.append(Finding(f"plugin {plugin.name} {plugin.version}", trouble))
    if not installed:
        findings.append(Finding("plugins", "none is installed; a good start: pip install 'echokernel[quic,postcard]'"))
    findings += _checked({name: entry.value for name, entry in loader.registry.checks.items()})
    if arguments.json:
        print_json([finding._asdict() for finding in findings])
    else:
        print_table(["LOOKED AT", "FOUND"], [[each.subject, harmless(each.trouble or "ok")] for each in findings])
    return FAILED if any(finding.trouble for finding in findings) else DONE


def _checked(checks: dict[str, Any]) -> list[Finding]:
    """Run the checks of plugins one after the other; one that fails or hangs is a finding."""
    import anyio

    from echokernel.cli._loop import run_async

    found: list[Finding] = []

    async def ask() -> int:
        for name, check in checks.items():
            trouble: str | None = f"it has not ended within {CHECK_SECONDS:g} s"
            with anyio.move_on_after(CHECK_SECONDS):
                try:
                    trouble = await check.run()
                except Exception as error:
                    trouble = f"the check itself failed: {type(error).__name__}: {error}"
            found.append(Finding(f"check {name}", trouble))
        return DONE

    run_async(ask)
    return found
