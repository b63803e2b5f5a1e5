#!/usr/bin/env python3
"""What an idle session costs a server: resident memory per session, at 500 of them over loopback QUIC.

    python3 dev.py python tests/benchmarks/idle_memory.py

Budget: less than 100 KiB each. The server has been asked once before, so that code and codecs are there; then 500 clients in
another process connect and say nothing for two seconds. Divided is what its resident memory grew by.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compare import Server, client

BUDGET = 100  # KiB
PEER = str(Path(__file__).with_name("peer_echokernel.py"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=500, help="a multiple of 10")
    parser.add_argument("--quick", action="store_true", help="50 sessions, no judgement")
    options = parser.parse_args()
    if options.quick:
        options.sessions = 50
    server = Server(PEER, "serve")
    try:
        found = client(PEER, "idle", server.address, str(options.sessions / 1_000))
    finally:
        server.stop()
    print(
        f"{found['connections']} idle sessions: {found['kib_each']:.1f} KiB each, server {found['server_mb']:.0f} MB; "
        f"budget {BUDGET} KiB"
    )
    return 0 if found["kib_each"] < BUDGET or options.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
