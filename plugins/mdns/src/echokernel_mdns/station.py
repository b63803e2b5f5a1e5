"""All of mDNS that one choice of interfaces needs: what is announced, what is heard, and when to ask again.

Lives in the thread that speaks mDNS; programs see :attr:`Station.seen`, a mapping that is replaced and never changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from echokernel_mdns.addresses import Interface, Scope
from echokernel_mdns.errors import DiscoveryUnavailable
from echokernel_mdns.interfaces import check_wanted, chosen, present
from echokernel_mdns.network import Network
from echokernel_mdns.packets import questions
from echokernel_mdns.registration import Registration
from echokernel_mdns.suspects import Key, Suspects
from echokernel_mdns.table import Record, Seen, Table, signature

__all__ = ["Station"]

SECOND = (
    0.4  # by multicast: a lost packet would cost a second otherwise, and this one brings records with their full life
)
THIRD, FOURTH = 1.0, 3.0  # then three times as far apart each time, up to an hour: RFC 6762 section 5.2
LONGEST_PAUSE = 3_600.0
REFRESH_GAP = 1.0  # seconds between two packets that ask for what grows old
LEAST_PAUSE = 0.02  # seconds between two looks at what is due; packets may come by the thousand
PUBLISH_GAP = 0.005  # seconds; or ten times what the last one took: a flood changes the table at every packet
INTERFACES_EVERY = (
    5.0  # seconds; a change counts when it is seen twice, so a flapping cable is no flood of announcements
)
MAX_HOLDS = 1_024  # suspicions whose end is waited for
CONFIRM_WITHIN = 1.5  # seconds; who does not answer two questions in that time each is suspect

logger = logging.getLogger("echokernel.mdns")


class Station:
    """One AsyncZeroconf for the machine's networks and one for the loopback interface, each opened when it is needed."""

    def __init__(self, wanted: Sequence[str] | None, suspects: Suspects, *, ipv6: bool) -> None:
        self._wanted = wanted
        self._ipv6 = ipv6
        self._interfaces: list[Interface] = []
        self._networks: dict[Scope, Network] = {}
        self._opening = asyncio.Lock()
        self._suspects = suspects
        self.table = Table(suspects)
        self.seen: Mapping[Key, Seen] = MappingProxyType({})
        """What is offered, suspect services marked; read from any thread."""
        self.bells: dict[object, Callable[[], None]] = {}
        """Rung when ``seen`` has changed."""
        self._registrations: set[Registration] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._browsing: asyncio.Task[None] | None = None
        self._confirming: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._plan: list[tuple[float, bool, bool]] = []
        """When to ask for everybody, whether directly, and whether known services may stay silent."""
        self._pause = 0.0
        self._hold_until: list[float] = []
        self._publishing: asyncio.TimerHandle | None = None
        self._publish_at = 0.0
        self._watching_interfaces: asyncio.Task[None] | None = None

    # --- what programs ask for ---------------------------------------------------------------------------------------

    async def browse(self, who: object, bell: Callable[[], None], *, confirm: float | None = None) -> None:
        """Begin to look around for ``who``, who is told of each change. Raises DiscoveryUnavailable.

        ``confirm``: seconds between two questions to each service whether it is still there.
        """
        self.bells[who] = bell  # before the first answers come
        opened = await self._open({"network", "loopback"}, all_of_them=False)
        self._begin(directly=not opened)
        if self._browsing is None:
            self._browsing = self._start(self._browse())
        if confirm is not None and self._confirming is None:
            self._confirming = self._start(self._confirm_every(confirm))

    def leave(self, who: object) -> None:
        """``who`` looks no more; without anybody, nothing is asked, and what was known is old soon."""
        self.bells.pop(who, None)
        if not self.bells:
            for task in (self._browsing, self._confirming):
                if task is not None:
                    task.cancel()
            self._browsing = self._confirming = None
            self.table = Table(self._suspects)
            self.seen = MappingProxyType({})

    async def prepare(self, registration: Registration) -> None:
        """Open what a service needs. Raises DiscoveryUnavailable."""
        self._look_at_interfaces()
        await self._open(registration.scopes(self._interfaces), all_of_them=True)

    async def register_and_log(self, registration: Registration) -> None:
        """Make a service visible, and log whether that worked."""
        try:
            await self.register(registration)
        except Exception as error:
            logger.error("%s is not announced: %s", registration.wanted.instance, error)
        else:
            seen = registration.service
            logger.info("announced as %r at %s", seen.instance, ", ".join(map(str, seen.addresses)))

    async def register(self, registration: Registration) -> None:
        """Make a service visible. Raises DiscoveryUnavailable."""
        await self.prepare(registration)
        self._registrations.add(registration)
        try:
            await registration.start(self._networks.__getitem__, self._interfaces)
        except BaseException:
            await self.withdraw(registration)
            raise

    async def withdraw(self, registration: Registration) -> None:
        """Say goodbye for a service."""
        self._registrations.discard(registration)
        await registration.stop(self._networks.__getitem__)

    def suspect(self, until: float) -> None:
        """A service could not be reached: it is kept back, and asked once nothing holds it any more."""
        self._hold_until = [*self._hold_until[-MAX_HOLDS:], until]
        self._publish()
        self._wake.set()

    async def _confirm_every(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self.confirm()

    async def confirm(self) -> None:
        """Ask every service whether it is there; those that are silent twice become suspect."""
        for _ in range(2):
            asked_at = time.monotonic()
            for scope, network in self._networks.items():
                silent = {key for key, _ in self.table.silent(scope, asked_at)}
                labels = [label for label in self.table.labels(scope) if label.casefold() in silent]
                for first in range(0, len(labels), 32):
                    network.ask_directly(questions(labels[first : first + 32]))
            await asyncio.sleep(CONFIRM_WITHIN)
        since = time.monotonic() - 2 * CONFIRM_WITHIN
        silent_keys = [set(self.table.silent(scope, since)) for scope in self._networks]
        for key, (service, _) in self.table.services().items():
            if not service.suspect and any(key in each for each in silent_keys):
                self._suspects.add(key, signature(service), now=time.monotonic(), hold=0.0)
        self._publish()

    async def close(self) -> None:
        """Say goodbye for what is left, and close all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._publishing is not None:
            self._publishing.cancel()
        await asyncio.gather(*(network.close() for network in self._networks.values()), return_exceptions=True)

    def counts(self) -> dict[str, int]:
        """Return how much was not taken in, by reason."""
        broken = sum(network.broken for network in self._networks.values())
        return {**self.table.counts, "broken": broken, "services_known": len(self.table)}

    # --- networks ----------------------------------------------------------------------------------------------------

    def _look_at_interfaces(self) -> None:
        found = present()
        check_wanted(found, self._wanted)
        self._interfaces = chosen(found, self._wanted)

    async def _open(self, scopes: set[Scope], *, all_of_them: bool) -> bool:
        """Open what is not open yet; returns whether anything was. ``all_of_them``: one that cannot be opened is an error."""
        opened = False
        async with self._opening:
            self._look_at_interfaces()
            troubles = []
            for scope in sorted(scopes - self._networks.keys()):
                if scope == "network" and not all_of_them and all(each.loopback for each in self._interfaces):
                    continue
                if scope == "loopback" and not all_of_them and not any(each.loopback for each in self._interfaces):
                    continue
                network = Network(scope, self._heard)
                try:
                    await network.open(self._interfaces, ipv6=self._ipv6)
                except DiscoveryUnavailable as error:
                    if all_of_them:
                        raise
                    troubles.append(error)
                else:
                    self._networks[scope] = network
                    opened = True
            if not self._networks:
                raise (
                    troubles[-1]
                    if troubles
                    else DiscoveryUnavailable(
                        "mDNS: no network interface is up; connect this machine, or bring up its loopback interface"
                    )
                )
            for trouble in troubles:
                logger.warning("%s", trouble)
            if self._watching_interfaces is None:
                self._watching_interfaces = self._start(self._watch_interfaces())
        return opened

    async def _watch_interfaces(self) -> None:
        """Follow the machine's interfaces: a change is believed when it is seen twice."""
        before = None
        while True:
            await asyncio.sleep(INTERFACES_EVERY)
            try:
                now = chosen(present(), self._wanted)
                if now != self._interfaces and now == before:
                    await self._follow(now)
                before = now
            except Exception:
                logger.warning("the network interfaces could not be followed", exc_info=True)

    async def _follow(self, interfaces: list[Interface]) -> None:
        logger.info("the network interfaces are now %s", ", ".join(each.name for each in interfaces) or "none")
        self._interfaces = interfaces
        outer = any(not each.loopback for each in interfaces)
        needed = {scope for each in self._registrations for scope in each.scopes(interfaces)}
        if self._browsing is not None:
            needed.add("network")
        if outer and "network" in needed and "network" not in self._networks:
            await self._open({"network"}, all_of_them=False)
        for network in self._networks.values():
            await network.change(interfaces, ipv6=self._ipv6)
        if not outer and "loopback" in needed and "loopback" not in self._networks:
            await self._open({"loopback"}, all_of_them=False)
        for registration in list(self._registrations):
            if registration.scopes(interfaces) <= self._networks.keys():
                await registration.follow(self._networks.__getitem__, interfaces)
        self._begin()

    # --- browsing ----------------------------------------------------------------------------------------------------

    def _begin(self, *, directly: bool = True) -> None:
        """Ask everybody now, and again from here on. ``directly``: a network that was just opened has asked already."""
        now = time.monotonic()
        if directly:
            self._ask(directly=True)
        self._plan = [(now + SECOND, False, False), (now + THIRD, True, False), (now + FOURTH, False, True)]
        self._pause = 2 * FOURTH
        self._wake.set()

    async def _browse(self) -> None:
        """Ask, and ask again: for everybody, for what is missing, and for what grows old."""
        refreshed_at = float("-inf")
        while True:
            self._wake.clear()
            now = time.monotonic()
            if self._plan[0][0] <= now:
                _, directly, with_known = self._plan.pop(0)
                self._ask(directly=directly, with_known=with_known)
                if not self._plan:
                    self._plan = [(now + self._pause, False, True)]
                    self._pause = min(self._pause * 3, LONGEST_PAUSE)
            if now - refreshed_at >= REFRESH_GAP and self.table.next_due() <= now:
                refreshed_at = now
                self.table.expire(now)
                self._refresh(now)
            if self._hold_until and min(self._hold_until) <= now:
                self._hold_until = [until for until in self._hold_until if until > now]
                self._ask_suspects()
            due_at = max(self.table.next_due(), refreshed_at + REFRESH_GAP)
            next_at = min(due_at, self._plan[0][0], *self._hold_until, now + LONGEST_PAUSE)
            await asyncio.sleep(LEAST_PAUSE)
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, next_at - now - LEAST_PAUSE))
            except TimeoutError:
                pass

    def _ask(self, *, directly: bool, with_known: bool = False) -> None:
        for network in self._networks.values():
            if directly:
                network.ask_directly(questions(None))
            else:
                network.ask_all(questions(None), with_known=with_known)

    def _refresh(self, now: float) -> None:
        for scope, network in self._networks.items():
            labels = self.table.to_ask(scope, now)
            if labels:
                network.ask_directly(questions(labels))
        self._publish()

    def _ask_suspects(self) -> None:
        """Ask the suspect ones: an answer is what lifts the suspicion."""
        labels = [seen.service.instance for seen in self.table.services().values() if seen.service.suspect]
        for network in self._networks.values():
            network.ask_directly(questions(labels[:32]))

    def _heard(self, scope: Scope, records: list[Record]) -> Callable[[Record], bool]:
        if not self.bells:
            return lambda record: True  # nobody looks; what we announce needs no table
        now = time.monotonic()
        network = self._networks.get(scope)  # none yet while it is being opened
        for host in self.table.apply(scope, records, now=now):
            if network is not None:
                self.table.apply(scope, network.cached_addresses(host), now=now)
        self._publish()
        self._wake.set()
        return partial(self.table.has_room_for, scope)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Tell what has changed: at once, or a moment later where much comes."""
        if self._publishing is None:
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_at(self._publish_at, self._publish_now)

    def _publish_now(self) -> None:
        self._publishing = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen = self.table.services(self._interfaces)
        self._publish_at = loop.time() + max(PUBLISH_GAP, 10 * (loop.time() - began))
        if seen != self.seen:
            self.seen = MappingProxyType(seen)
            for bell in list(self.bells.values()):
                bell()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
