"""All figures of the router in one command: ``python plugins/agora/benchmarks/agora.py [--quick] [--strict] [--only NAME …]``.

The router runs in a process of its own, pinned to one core; the load comes from the other one. The peer, a relay on Node's
``ws`` that checks and counts nothing, is measured in turns with it (``npm install ws`` into a folder for it; without npm its
row says so). Rates of single agents are raised, for a load of few agents; every check and every counter stays on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from load import PAYLOAD_AT, Client, Loop, frame, join, message

HERE = Path(__file__).parent
UNLIMITED = {"frame_rate": 1e9, "frame_burst": 1e9, "byte_rate": 1e13}
SIZE = 256  # bytes of a message


@dataclass
class Row:
    name: str
    figure: str
    wanted: str
    met: bool


class Process:
    """A router or a peer, pinned to core 0."""

    def __init__(self, command: list[str], **options: object) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(self.process.pid, cores[:1])
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def rss(self) -> int:
        """Return its resident memory, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def cpu(self) -> float:
        """Return the seconds of processor time that it has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counters(self) -> dict[str, float]:
        """Return the counters that add up, from its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            text = answer.read().decode()
        found = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if not line.startswith("#"):
                found[name] = float(value)
        return found

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def router(**options: object) -> Iterator[Process]:
    process = Process([sys.executable, str(HERE / "router_process.py"), json.dumps({**UNLIMITED, **options})])
    try:
        yield process
        check_counters(process)
    finally:
        process.end()


def check_counters(process: Process) -> None:
    found = process.counters()
    accepted, done, waiting = (
        sum(value for name, value in found.items() if name.startswith(f"agora_frames_{kind}"))
        for kind in ("accepted_total", "done_total", "waiting")
    )
    assert accepted == done + waiting, (accepted, done, waiting)


def peer_folder() -> Path | None:
    """Return a folder with Node's ``ws`` in it, or None where that cannot be had."""
    if shutil.which("npm") is None:
        return None
    folder = Path(tempfile.gettempdir()) / "echokernel-agora-peer"
    folder.mkdir(exist_ok=True)
    if not (folder / "node_modules" / "ws").exists():
        done = subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "ws@8"], cwd=folder, check=False
        )
        if done.returncode:
            return None
    shutil.copy(HERE / "naive_relay.js", folder)
    return folder


# -- figures -----------------------------------------------------------------------------------------------------------


def saturate(port: int, seconds: float, pairs: int = 50, window: int = 32) -> float:
    """Return messages per second with ``window`` of them under way for each pair."""
    senders: dict[str, Client] = {}
    total = 0

    def arrived(client: Client, text: bytes) -> None:
        nonlocal total
        total += 1
        got[client.id] += 1

    receivers = join(port, [f"r{number}" for number in range(pairs)], arrived)
    for client in join(port, [f"s{number}" for number in range(pairs)]):
        senders["r" + client.id[1:]] = client
    got = dict.fromkeys(senders, 0)
    texts = {id: message(id, 0, SIZE) * window for id in senders}
    length = len(message("r0", 0, SIZE))
    loop = Loop(receivers)
    for id, sender in senders.items():
        sender.send(texts[id])
    begin, first = time.monotonic(), total
    warm = begin + seconds / 4
    deadline = warm + seconds
    while (now := time.monotonic()) < deadline:
        if now < warm:
            begin, first = now, total
        loop.turn(0.05)
        for id, count in got.items():
            if count:
                sender = senders[id]
                sender.send(texts[id][: len(texts[id]) // window * count])
                got[id] = 0
    rate = (total - first) / (time.monotonic() - begin)
    loop.close()
    for sender in senders.values():
        sender.close()
    assert length > SIZE
    return rate


def throughput(quick: bool) -> list[Row]:
    ours, theirs, cpu = [], [], []
    folder = peer_folder()
    for _ in range(2 if quick else 5):
        with router() as process:
            before, begin = process.cpu(), time.monotonic()
            ours.append(saturate(process.port, 2.0 if quick else 4.0))
            cpu.append((process.cpu() - before) / (time.monotonic() - begin))
        if folder is not None:
            peer = Process(["node", "naive_relay.js"], cwd=folder)
            theirs.append(saturate(peer.port, 2.0 if quick else 4.0))
            peer.end()
    rate = statistics.median(ours)
    rows = [
        Row(
            "relayed 256 B messages/s",
            f"{rate:,.0f} (router's core {statistics.median(cpu):.0%})",
            ">= 25,000",
            rate >= 25_000,
        )
    ]
    if theirs:
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        told = f"{ratio:.2f} (it: {statistics.median(theirs):,.0f}/s)"
        rows.append(Row("of a naive relay on Node's ws", told, ">= 0.4", ratio >= 0.4))
    else:
        rows.append(Row("of a naive relay on Node's ws", "NOT MEASURED: no npm here", ">= 0.4", False))
    return rows


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class OpenLoop:
    """Pairs that send at a fixed rate, whatever comes back, and measure how long each message took."""

    def __init__(self, port: int, pairs: int, rate: float, name: str = "p") -> None:
        self.receivers = join(port, [f"{name}r{number}" for number in range(pairs)], self._arrived)
        self.senders = join(port, [f"{name}s{number}" for number in range(pairs)])
        self.loop = Loop([*self.receivers, *self.senders])
        self.rate, self.name = rate, name
        self.sent: list[float] = []
        self.took: list[float] = []

    def _arrived(self, client: Client, text: bytes) -> None:
        at = text.index(PAYLOAD_AT) + len(PAYLOAD_AT)
        self.took.append(time.perf_counter() - self.sent[int(text[at : at + 12])])

    def run(self, seconds: float) -> None:
        begin = time.perf_counter()
        self.sent, self.took = [], []
        while (now := time.perf_counter()) - begin < seconds:
            due = int((now - begin) * self.rate)
            while len(self.sent) < due:
                number = len(self.sent)
                index = number % len(self.senders)
                self.sent.append(time.perf_counter())
                self.senders[index].send(message(f"{self.name}r{index}", number, SIZE))
            self.loop.turn(0.0002)
        self.loop.run(lambda: len(self.took) == len(self.sent), seconds=20)


def latency(quick: bool) -> list[Row]:
    with router() as process:
        test = OpenLoop(process.port, 50, 2000)
        test.run(1)
        test.run(4 if quick else 15)
        p50, p99 = (percentile(test.took, share) * 1000 for share in (0.5, 0.99))
        test.loop.close()
    return [
        Row("2,000 messages/s: p50", f"{p50:.2f} ms", "<= 0.5 ms", p50 <= 0.5),
        Row("2,000 messages/s: p99", f"{p99:.2f} ms", "<= 5 ms", p99 <= 5),
    ]


def streams(quick: bool) -> list[Row]:
    count, chunks = 200, 200 if quick else 1000
    seen: dict[bytes, int] = {}
    wrong = 0

    def arrived(client: Client, text: bytes) -> None:
        nonlocal wrong
        if b'"chunk"' in text:
            stream, _, rest = text.partition(b'"stream_id":"')[2].partition(b'"')
            number = int(rest.partition(b'"chunk":"')[2][:6])
            wrong += seen.get(stream, 0) != number
            seen[stream] = number + 1

    with router() as process:
        receivers = join(process.port, [f"r{number}" for number in range(20)], arrived)
        senders = join(process.port, [f"s{number}" for number in range(20)])
        loop = Loop([*receivers, *senders])
        for number in range(count):
            start = {"type": "send", "to": f"r{number % 20}", "stream": True, "stream_id": f"stream-{number}"}
            senders[number % 20].send(frame(json.dumps(start).encode()))
        parts = [
            b'{"type":"send_chunk","to":"r%d","stream_id":"stream-%d","chunk":"%%06d%b"}'
            % (number % 20, number, b"x" * 34)
            for number in range(count)
        ]
        begin = time.monotonic()
        for chunk in range(chunks):
            for number in range(count):
                senders[number % 20].send(frame(parts[number] % chunk))
            while sum(seen.values()) < (chunk - 4) * count:  # some turns ahead, not all of it in memory
                loop.turn(0.01)
        loop.run(lambda: sum(seen.values()) == count * chunks, seconds=120)
        rate = count * chunks / (time.monotonic() - begin)
        loop.close()
    good = not wrong and len(seen) == count and rate >= 20_000
    told = f"{rate:,.0f} chunks/s, {wrong} out of order"
    return [Row(f"200 streams of {chunks:,} chunks", told, ">= 20,000", good)]


def unknown(quick: bool) -> list[Row]:
    took: list[float] = []
    sent = 0.0

    def arrived(client: Client, text: bytes) -> None:
        assert b"no_such_agent" in text
        took.append(time.perf_counter() - sent)

    with router() as process:
        (client,) = join(process.port, ["a"], arrived)
        loop = Loop([client])
        for number in range(200 if quick else 2000):
            sent = time.perf_counter()
            client.send(message("nobody", number, SIZE))
            loop.run(lambda wanted=number + 1: len(took) == wanted, seconds=5)  # type: ignore[misc]
        loop.close()
    p99 = percentile(took, 0.99) * 1000
    return [Row("error for an unknown receiver: p99", f"{p99:.2f} ms", "<= 5 ms", p99 <= 5)]


def order(quick: bool) -> list[Row]:
    pairs, each, window = 100, 1000 if quick else 10_000, 64
    got = [0] * pairs
    wrong = 0

    def arrived(client: Client, text: bytes) -> None:
        nonlocal wrong
        at = text.index(PAYLOAD_AT) + len(PAYLOAD_AT)
        pair = int(client.id[1:])
        wrong += int(text[at : at + 12]) != got[pair]
        got[pair] += 1

    with router() as process:
        receivers = join(process.port, [f"r{number}" for number in range(pairs)], arrived)
        senders = join(process.port, [f"s{number}" for number in range(pairs)])
        loop = Loop([*receivers, *senders])
        sent = [0] * pairs

        def more() -> bool:
            for pair, sender in enumerate(senders):
                if sent[pair] < each and sent[pair] - got[pair] <= window // 2:
                    until = min(each, got[pair] + window)
                    sender.send(b"".join(message(f"r{pair}", number, 120) for number in range(sent[pair], until)))
                    sent[pair] = until
            return sum(got) >= pairs * each

        loop.run(more, seconds=300)
        loop.turn(0.2)  # doubles would come now
        loop.close()
    exact = not wrong and sum(got) == pairs * each
    told = f"{sum(got):,} arrived, {wrong} not in order"
    return [Row(f"{pairs * each:,} numbered frames over 100 pairs", told, "all, in order", exact)]


def slow(quick: bool) -> list[Row]:
    pushed = (20 if quick else 100) * 1024 * 1024
    errors = 0

    def told(client: Client, text: bytes) -> None:
        nonlocal errors
        errors += b"receiver_slow" in text or b"receiver_gone" in text or b"no_such_agent" in text

    with router() as process:
        healthy = OpenLoop(process.port, 10, 500)
        healthy.run(1)
        healthy.run(3 if quick else 10)
        before = percentile(healthy.took, 0.99)
        stuck = join(process.port, ["stuck"])[0]
        flood = healthy.senders[0]  # shares its connection with a healthy pair
        flood.on_text = told
        big = message("stuck", 0, 16_384)
        rss = most = process.rss()
        count = done = 0
        begin = time.perf_counter()
        healthy.sent, healthy.took = [], []
        while done < pushed or time.perf_counter() - begin < 3:
            now = time.perf_counter()
            while len(healthy.sent) < int((now - begin) * healthy.rate):
                number = len(healthy.sent)
                index = number % 10
                healthy.sent.append(time.perf_counter())
                healthy.senders[index].send(message(f"pr{index}", number, SIZE))
            if done < pushed and not flood.waiting:
                flood.send(big)
                done += len(big)
                count += 1
            healthy.loop.turn(0.0002)
            if count % 64 == 0:
                most = max(most, process.rss())
        healthy.loop.run(lambda: len(healthy.took) == len(healthy.sent), seconds=20)
        after = percentile(healthy.took, 0.99)
        healthy.loop.close()
        stuck.close()
    grown = (most - rss) / 2**20
    bound = 1 + 8
    ratio = after / before
    return [
        Row(
            f"{pushed // 2**20} MB at a stopped reader: router grows by",
            f"{grown:.1f} MB ({errors:,} of {count:,} frames refused)",
            f"<= {bound} MB",
            grown <= bound and errors > count // 2,
        ),
        Row(
            "… and healthy pairs' p99, one of them the sender's",
            f"{ratio:.2f}x ({before * 1000:.2f} ms before, {after * 1000:.2f} ms)",
            "<= 2x",
            ratio <= 2,
        ),
    ]


def capacity(quick: bool) -> list[Row]:
    count = 1000 if quick else 5000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    with router(idle_unregistered=60.0) as process:
        join(process.port, [f"warm{number}" for number in range(50)])
        rss = process.rss()
        begin = time.monotonic()
        clients = join(process.port, [f"agent-{number}" for number in range(count)])
        rate = count / (time.monotonic() - begin)
        each = (process.rss() - rss) / count / 1024
        lister = clients[0]
        answers: list[int] = []
        lister.on_text = lambda _, text: answers.append(text.count(b'"registered_at"'))
        loop = Loop([lister])
        begin, cursor = time.monotonic(), 0
        while sum(answers) < count:
            lister.send(frame(b'{"type":"list"%b}' % (b',"cursor":"%d"' % cursor if cursor else b"")))
            wanted = len(answers) + 1
            loop.run(lambda wanted=wanted: len(answers) == wanted, seconds=5)  # type: ignore[misc]
            cursor += 1000
        listing = (time.monotonic() - begin) * 1000
        for client in clients:
            client.close()
    return [
        Row(f"{count:,} agents: memory of each", f"{each:.1f} KiB", "<= 40 KiB", each <= 40),
        Row("… connected and registered per second", f"{rate:,.0f}", ">= 500", rate >= 500),
        Row("… all of them listed", f"{listing:.0f} ms", "< 250 ms", listing < 250),
    ]


def restart(quick: bool) -> list[Row]:
    count = 100 if quick else 500
    options: dict[str, object] = {}
    process = Process([sys.executable, str(HERE / "router_process.py"), json.dumps({**UNLIMITED, **options})])
    crowd = subprocess.Popen(
        [sys.executable, str(HERE / "crowd.py"), str(process.port), str(count)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert crowd.stdout is not None
    assert crowd.stdin is not None
    try:
        assert crowd.stdout.readline().strip() == "ready"
        process.process.kill()
        process.process.wait()
        process = Process(
            [
                sys.executable,
                str(HERE / "router_process.py"),
                json.dumps({**UNLIMITED, **options, "port": process.port}),
            ]
        )
        crowd.stdin.write("again\n")
        crowd.stdin.flush()
        told = json.loads(crowd.stdout.readline())
    finally:
        crowd.kill()
        crowd.wait()
        process.end()
    most, all_of_them, share = told["95 %"], told["all"], told["busiest"]
    return [
        Row(f"kill -9 under {count} agents: 95 % are back after", f"{most:.1f} s", "<= 5 s", most <= 5),
        Row("… all of them after", f"{all_of_them:.1f} s", "<= 15 s", all_of_them <= 15),
        Row("… in the busiest 100 ms", f"{share:.0%} of the attempts", "<= 20 %", share <= 0.2),
    ]


FIGURES: dict[str, Callable[[bool], list[Row]]] = {
    "throughput": throughput,
    "latency": latency,
    "streams": streams,
    "unknown": unknown,
    "order": order,
    "slow": slow,
    "capacity": capacity,
    "restart": restart,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: whether it works, not how well")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a figure is missed")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="some of the figures")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    missed = 0
    for name in arguments.only:
        for row in FIGURES[name](arguments.quick):
            missed += not row.met
            print(f"{'  ' if row.met else '! '}{row.name:<56} {row.figure:<44} wanted {row.wanted}", flush=True)
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
