"""What the table makes of records: services, events, bounds. Time is an argument."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from echokernel import ServiceEvent, ServiceInfo
from echokernel_mdns import names, table
from echokernel_mdns.addresses import Interface
from echokernel_mdns.suspects import Suspects
from echokernel_mdns.table import Record, Table, differences

TYPE = names.SERVICE_TYPE


def records(
    label: str = "cam-1",
    *,
    boot: str = "b1",
    host: str = "h.local.",
    port: int = 4433,
    ip: str = "192.0.2.7",
    **more: Any,
) -> list[Record]:
    full = f"{label}.{TYPE}"
    text = names.encode_txt([("txtvers", "1"), ("svc", more.pop("svc", "camera")), ("boot", boot), *more.items()])
    return [
        Record("address", host, 120, ip, True),  # before the record that names it, as some responders send them
        Record("ptr", TYPE, 4500, full),
        Record("srv", full, 120, (host, port), True),
        Record("txt", full, 4500, text, True),
    ]


def known(table: Table) -> list[ServiceInfo]:
    return [seen.service for seen in table.services().values()]


def step(table: Table, before: Any) -> tuple[Any, list[tuple[str, str | None]]]:
    after = table.services()
    return after, [(event.kind, event.service.get_property("boot")) for event in differences(before, after)]


def test_a_service_is_what_its_records_say() -> None:
    table = Table()
    assert table.apply("network", records(room="12"), now=0.0) == set()
    [service] = known(table)
    assert (service.name, service.instance, service.port) == ("camera", "cam-1", 4433)
    assert str(service.address) == "quic://192.0.2.7:4433"
    assert service.properties == (("boot", "b1"), ("room", "12"))


def test_without_svc_it_is_called_as_its_instance() -> None:
    table = Table()
    full = f"Küche 2.{TYPE}"
    packet = [
        Record("ptr", TYPE, 4500, full),
        Record("srv", full, 120, ("h.local.", 1)),
        Record("txt", full, 4500, b"\x00"),
        Record("address", "h.local.", 120, "192.0.2.1"),
    ]
    table.apply("network", packet, now=0.0)
    [service] = known(table)
    assert service.name == service.instance == "Küche 2"


def test_events_are_keyed_by_instance_and_boot() -> None:
    table = Table()
    table.apply("network", records(), now=0.0)
    state, events = step(table, {})
    assert events == [("appeared", "b1")]
    table.apply("network", records(), now=1.0)
    state, events = step(table, state)
    assert events == [], "the same again is no news"
    table.apply("network", records(room="2"), now=2.0)
    state, events = step(table, state)
    assert events == [("changed", "b1")]
    table.apply("network", records("CAM-1", boot="b2"), now=3.0)
    state, events = step(table, state)
    assert events == [("gone", "b1"), ("appeared", "b2")], "it was started again, without a goodbye"
    table.apply("network", [Record("ptr", TYPE, 0, f"Cam-1.{TYPE}")], now=4.0)
    state, events = step(table, state)
    assert events == [("gone", "b2")]
    assert len(table) == 0
    assert table._owners == {}


def test_answers_that_come_after_the_goodbye_do_not_bring_it_back() -> None:
    table = Table()
    table.apply("network", records(), now=0.0)
    table.apply("network", [Record("ptr", TYPE, 0, f"Cam-1.{TYPE}")], now=1.0)
    table.apply("network", records(), now=1.6)
    assert (known(table), len(table)) == ([], 0)
    table.apply("network", records(boot="b2"), now=1.7)
    assert [service.get_property("boot") for service in known(table)] == ["b2"], "a new start is believed at once"
    table.apply("network", [Record("srv", f"cam-1.{TYPE}", 0, ("h.local.", 4433))], now=3.0)
    table.apply("network", records(boot="b2"), now=4.1)
    assert len(known(table)) == 1
    for number in range(3_000):
        table.apply("network", records(f"n{number}"), now=5.0)
        table.apply("network", [Record("ptr", TYPE, 0, f"n{number}.{TYPE}")], now=5.0)
    assert len(table._withdrawn) == 1_024


def test_a_crashed_service_is_gone_with_its_srv_record() -> None:
    table = Table()
    table.apply("network", records(), now=0.0)
    assert table.next_due() == 96.0
    assert table.to_ask("network", 95.0) == []
    assert table.to_ask("network", 96.0) == ["cam-1"]
    assert [table.next_due(), *table.to_ask("network", 108.0), table.next_due()] == [108.0, "cam-1", 114.0]
    assert table.to_ask("network", 114.0) == ["cam-1"]
    assert table.next_due() == 120.0
    table.expire(119.0)
    assert len(known(table)) == 1
    table.expire(120.0)
    assert (known(table), len(table), table.next_due()) == ([], 0, float("inf"))


def test_an_answer_renews_it() -> None:
    table = Table()
    table.apply("network", records(), now=0.0)
    table.to_ask("network", 96.0)
    table.apply("network", records(), now=96.1)
    table.expire(120.0)
    assert len(known(table)) == 1
    assert abs(table.next_due() - 192.1) < 1e-6


def test_what_is_missing_is_asked_for_three_times() -> None:
    table = Table()
    table.apply("network", [Record("ptr", TYPE, 4500, f"half.{TYPE}")], now=0.0)
    asked = []
    while (due := table.next_due()) < 10.0:
        asked.append((round(due, 1), table.to_ask("network", due)))
    assert asked == [(0.3, ["half"]), (1.0, ["half"]), (3.0, ["half"])]
    assert known(table) == []


def test_addresses_may_come_before_the_service() -> None:
    table = Table()
    address, *rest = records()
    assert table.apply("network", [address], now=0.0) == set()
    assert table.apply("network", rest, now=0.1) == {"h.local."}, "the caller looks for them elsewhere"
    table.apply("network", [address], now=0.1)
    assert len(known(table)) == 1


def test_a_unique_address_replaces_those_that_are_older_than_a_second() -> None:
    table = Table()
    table.apply("network", records(), now=0.0)
    table.apply("network", [Record("address", "h.local.", 120, "198.51.100.1", True)], now=0.5)
    assert len(known(table)[0].addresses) == 2, "of the same announcement, in another packet"
    table.apply("network", [Record("address", "h.local.", 120, "198.51.100.2", True)], now=9.0)
    assert [address.host for address in known(table)[0].addresses] == ["198.51.100.2"]


def test_addresses_that_nobody_can_have_there_are_refused() -> None:
    table = Table()
    for ip in (
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.251",
        "255.255.255.255",
        "::1",
        "::",
        "ff02::fb",
        "fe80::1",
        "::ffff:10.0.0.1",
    ):
        table.apply("network", [Record("address", "h.local.", 120, ip), *records(ip=ip)[1:]], now=0.0)
        table.apply("network", [Record("address", "h.local.", 120, ip)], now=0.0)
    assert known(table) == []
    assert table.counts["refused"] == 18
    table.apply("network", [Record("address", "h.local.", 120, "fe80::1%2")], now=0.0)
    assert known(table)[0].addresses[0].host == "fe80::1%2"


def test_within_the_machine_only_loopback_addresses_count() -> None:
    table = Table()
    table.apply("loopback", records(ip="192.0.2.7"), now=0.0)
    assert known(table) == []
    table.apply("loopback", records(ip="127.0.0.1"), now=0.0)
    table.apply("network", records(ip="192.0.2.7"), now=0.0)
    [service] = known(table)
    assert [address.host for address in service.addresses] == ["127.0.0.1", "192.0.2.7"], (
        "one service, the nearest way first"
    )


def test_near_addresses_come_first() -> None:
    table = Table()
    table.apply("network", records(ip="198.51.100.9"), now=0.0)
    for ip in ("fd00::9", "192.0.2.9"):
        table.apply("network", [Record("address", "h.local.", 120, ip)], now=0.1)
    near = [Interface("eth0", 2, ("192.0.2.2/24", "fd00::2/64"))]
    [seen] = table.services(near).values()
    assert [address.host for address in seen.service.addresses] == ["192.0.2.9", "fd00::9", "198.51.100.9"]


def test_a_flood_of_names_ends_at_the_bound() -> None:
    table = Table()
    table.apply("network", records("first"), now=0.0)
    for number in range(5_000):
        table.apply("network", records(f"n{number}", host=f"h{number}.local."), now=0.0)
    assert len(table) == 1_024
    assert table.counts["services"] == 3 * (5_001 - 1_024), "each with three records"
    assert known(table)[0].instance == "first", "what is there stays"
    assert len(table._owners) == 1_024


def test_names_without_records_make_room_for_services() -> None:
    table = Table()
    table.apply("network", [Record("ptr", TYPE, 4500, f"n{number}.{TYPE}") for number in range(3_000)], now=0.0)
    assert len(table) == 1_024
    table.apply("network", records(), now=0.0)
    assert [service.instance for service in known(table)] == ["cam-1"]
    assert len(table) == 1_024


def test_a_host_has_sixteen_addresses() -> None:
    table = Table()
    table.apply("network", records(), now=0.0)
    table.apply(
        "network", [Record("address", "h.local.", 120, f"192.0.2.{number}") for number in range(100, 200)], now=0.1
    )
    assert len(known(table)[0].addresses) == 16
    assert table.counts["addresses"] == 85


def test_texts_of_others_are_harmless_and_bounded() -> None:
    table = Table()
    label = "evil\x1b[2J\u202e"
    table.apply(
        "network", [*records(label)[:3], Record("txt", f"{label}.{TYPE}", 4500, b"\x0bsvc=a\x1b[31mx\x05z")], now=0.0
    )
    [service] = known(table)
    assert (service.name, service.instance) == ("a\ufffd[31mx", "evil\ufffd[2J\ufffd")
    assert table.counts["malformed"] == 1
    table.apply("network", [Record("txt", f"{label}.{TYPE}", 4500, b"\x02a=" * 5_000)], now=0.0)
    assert table.counts["oversize"] == 1
    assert known(table) == [service], "the record before it counts"


def test_a_suspect_service_is_marked_until_it_is_heard_from() -> None:
    suspects = Suspects()
    table = Table(suspects)
    table.apply("network", records(), now=0.0)
    [(key, seen)] = table.services().items()
    until = suspects.add(key, table_signature(seen.service), now=10.0)
    assert until == 12.0
    assert known(table)[0].suspect
    table.apply("network", records(), now=11.0)
    assert known(table)[0].suspect, "it answers on mDNS; whether it does on its port is not tried again at once"
    table.apply("network", records(), now=12.5)
    assert not known(table)[0].suspect
    assert suspects.add(key, table_signature(seen.service), now=20.0) == 24.0, "each further failure holds it longer"
    table.apply("network", records(port=4434), now=20.5)
    assert not known(table)[0].suspect, "it is another one now"


table_signature = table.signature


def test_suspicions_are_bounded_and_forgotten() -> None:
    suspects = Suspects()
    for number in range(3_000):
        suspects.add((f"n{number}", ""), None, now=0.0)
    assert len(suspects) == 1_024
    assert suspects.add(("x", ""), None, now=0.0) == 2.0
    assert [suspects.add(("x", ""), None, now=0.0) for _ in range(6)] == [4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert suspects.add(("x", ""), None, now=400.0) == 402.0


labels = st.one_of(st.sampled_from(["a", "A", "b", "ß.x", "\x1b"]), st.text(max_size=8))
full = labels.map(lambda label: f"{label}.{TYPE}") | st.just(TYPE) | st.just("x._other._udp.local.") | st.just("")
hosts = st.sampled_from(["h.local.", "H.local.", "i.local.", ""])
ttls = st.sampled_from([0, 1, 10, 120, 4_500, 2**31])
any_record = st.one_of(
    st.builds(lambda name, ttl, value: Record("ptr", name, ttl, value), st.just(TYPE) | full, ttls, full),
    st.builds(
        lambda name, ttl, host, port, unique: Record("srv", name, ttl, (host, port), unique),
        full, ttls, hosts, st.integers(0, 65_535), st.booleans(),
    ),
    st.builds(lambda name, ttl, text: Record("txt", name, ttl, text), full, ttls, st.binary(max_size=40)),
    st.builds(
        lambda host, ttl, ip, unique: Record("address", host, ttl, ip, unique),
        hosts, ttls, st.ip_addresses().map(str), st.booleans(),
    ),
)  # fmt: skip


@given(st.lists(st.tuples(st.lists(any_record, max_size=6), st.floats(0, 200), st.booleans()), max_size=20))
def test_nothing_that_comes_raises_or_leaves_something_behind(packets: list[tuple[list[Record], float, bool]]) -> None:
    table, now, state = Table(), 0.0, {}
    for packet, pause, on_loopback in packets:
        now += pause
        table.apply("loopback" if on_loopback else "network", packet, now=now)
        table.expire(now)
        table.to_ask("network", now)
        after = table.services()
        events: list[ServiceEvent] = differences(state, after)
        assert {key for key in state if key not in after} <= {
            (event.service.instance.casefold(), event.service.get_property("boot") or "")
            for event in events
            if event.kind == "gone"
        } | {key for key in state if names.harmless(key[0]) != key[0] or "." in key[0]}
        state = after
        owned = {(where, name) for (where, _), owners in table._owners.items() for name in owners}
        assert owned == {key for key, entry in table._entries.items() if entry.host}
    table.expire(now + 10_000)
    assert (len(table), table._owners) == (0, {})


def test_a_service_without_a_host_is_none() -> None:
    table = Table()
    full = f"cam.{TYPE}"
    for host in ("", "."):
        table.apply(
            "network", [Record("srv", full, 120, ("h.local.", 1)), Record("srv", full, 120, (host, 1))], now=0.0
        )
    assert table.counts["malformed"] == 2
    table.expire(1_000.0)
    assert not table._owners
