"""Run a server from a configuration file.

Results go to stdout: one line of loaded plugins, one line per listener. Logs go to stderr. The first SIGINT or SIGTERM
lets open requests finish within node.drain_timeout and exits 0; SIGINT after that exits 130.

  echokernel run config.toml --reload

With --reload a changed configuration or handler is checked while the old version serves; only a valid one takes over.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from echokernel.cli import DONE, FAILED, INTERRUPTED, NOT_STARTED, USAGE, fail
from echokernel.cli._config_arguments import add_config_arguments
from echokernel.cli._standby import Standby
from echokernel.errors import ConfigError, EchoError

if TYPE_CHECKING:
    import anyio

    from echokernel.config import Config
    from echokernel.server import EchoServer

logger = logging.getLogger("echokernel.cli")

REMEDIES = {
    errno.EADDRINUSE: "another program uses that port; stop it, or choose another: --set {key}=… (port 0: any free)",
    errno.EACCES: "ports below 1024 need a privilege; choose a higher one: --set {key}=…",
    errno.EADDRNOTAVAIL: "that is not an address of this machine; choose another one: --set {key}=…",
}


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--reload", action="store_true", help="start again when the configuration or a handler changes")
    parser.add_argument(
        "--reload-dir",
        action="append",
        default=[],
        metavar="DIR",
        dest="reload_dirs",
        help="with --reload: also when a Python file below DIR changes",
    )
    parser.add_argument("--standby", type=int, help=argparse.SUPPRESS)  # the supervisor's socket


def run(arguments: argparse.Namespace) -> int:
    from echokernel.assembly import prepare
    from echokernel.cli._loop import run_async
    from echokernel.logs import configure_logging

    if arguments.reload:
        from echokernel.cli._reload import supervise

        return supervise(arguments)
    if arguments.reload_dirs:
        return fail("--reload-dir is for --reload", USAGE)
    standby = None if arguments.standby is None else Standby(arguments.standby)
    configure_logging()
    try:
        config, server = prepare(arguments.file, overrides=arguments.overrides, without=arguments.without)
    finally:
        if standby is not None:
            standby.tell_files()
    if standby is not None:
        import anyio.lowlevel

        run_async(anyio.lowlevel.checkpoint)  # imports what every event loop needs, while the old server still serves
        if not standby.may_serve(config.limits.drain_timeout):
            return DONE
    modules = {name.partition(":")[0].partition(".")[0] for name in config.node.handlers}
    configure_logging(config.log.level, config.log.format, config.log.levels, also=modules)
    print(config.loaded.start_line(), flush=True)
    return run_async(_serve, config, server, standby)


@dataclass(slots=True)
class _Life:
    """How far the server has come, and how it ends."""

    stop: anyio.Event
    scope: anyio.CancelScope = field(repr=False)
    started: bool = False
    code: int = DONE
    error: Exception | None = None


async def _serve(config: Config, server: EchoServer, standby: Standby | None) -> int:
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            life = _Life(anyio.Event(), tasks.cancel_scope)
            tasks.start_soon(_watch, signals, life)
            try:
                await _live(config, server, life, standby)
            except Exception as error:  # taken out of the task group, which would wrap it
                life.error = error
            tasks.cancel_scope.cancel()
    if life.error is None:
        return life.code
    if life.started:
        logger.error("the server failed: %s", life.error, exc_info=life.error)
        return FAILED
    return _not_started(config, life.error)


async def _live(config: Config, server: EchoServer, life: _Life, standby: Standby | None) -> None:
    async with server:
        life.started = True
        for listener in server.listeners:
            key = f"  fingerprint {listener.fingerprint}" if listener.fingerprint else ""
            print(f"listening on {listener.address}{key}", flush=True)
        if standby is not None:
            standby.tell_serving()
        # what was imported stays: a collection need not go through it again, 50 ms at a time while requests wait
        gc.collect()
        gc.freeze()
        await life.stop.wait()
        await server.stop(config.limits.drain_timeout)
    logger.info("stopped")


async def _watch(signals: AsyncIterator[signal.Signals], life: _Life) -> None:
    async for number in signals:
        if not life.stop.is_set() and life.started:
            logger.info("%s: stopping, what is open may finish; Ctrl-C stops at once", number.name)
            life.stop.set()
        elif number is signal.SIGINT or not life.started:
            life.code = INTERRUPTED
            life.scope.cancel()


def _not_started(config: Config, error: Exception) -> int:
    """Say why, with what helps where the cause is one that befalls everybody."""
    logger.debug("the server could not start", exc_info=error)
    names = list(config.listen)
    if isinstance(error, ConfigError):
        key, colon, _ = str(error).partition(":")
        path = ("listen", names[0], key) if len(names) == 1 and colon and key.isidentifier() else ("listen",)
        message = f"listen.{names[0]}.{error}" if len(path) == 3 else str(error)
        raise ConfigError(str(config.problem("value", path, message))) from error
    text = str(error) if isinstance(error, EchoError) else f"{type(error).__name__}: {error}"
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in REMEDIES):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.errno is not None:
        failed = next((name for name, listen in config.listen.items() if str(listen.address) in text), names[0])
        if str(config.listen[failed].address) not in text:
            text = f"cannot listen on {config.listen[failed].address}: {text}"
        key = f"listen.{failed}.url"
        # a transport that is good at errors has said what helps; here it is said how
        text += f" (--set {key}=…)" if ";" in text else "; " + REMEDIES[cause.errno].format(key=key)
    return fail(text, NOT_STARTED)
