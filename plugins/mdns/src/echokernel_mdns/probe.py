"""What is in the way of mDNS on this machine."""

from __future__ import annotations

import errno
from pathlib import Path

from echokernel_mdns.asker import PORT, check_port, open_socket
from echokernel_mdns.interfaces import chosen, present
from echokernel_mdns.packets import query, questions

__all__ = ["holders", "probe"]


def probe() -> str | None:
    """Return what is wrong and what helps; None when all is well. Sends one question on each interface."""
    interfaces = chosen(present(), None)
    troubles = []
    reached = 0
    for each in interfaces:
        for host in each.hosts(4)[:1] or each.hosts(6)[:1]:
            try:
                sock, group = open_socket(host, each.index, "loopback" if each.loopback else "network")
                with sock:
                    for packet in query(questions(None))[1]:
                        sock.sendto(packet, group)
            except OSError as error:
                troubles.append(
                    f"{each.name} ({host}): multicast cannot be sent ({error}); ip route add 224.0.0.0/4 dev {each.name}, "
                    "or let UDP port 5353 through the firewall"
                )
            else:
                reached += 1
    if not interfaces:
        troubles.append("no network interface is up that can multicast; not even the loopback interface")
    elif all(each.loopback for each in interfaces):
        troubles.append("only the loopback interface is up: nodes of this machine find each other, no others")
    try:
        check_port()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        who = f" by {', '.join(holders())}" if taken and holders() else ""
        troubles.append(
            f"UDP port {PORT} is taken{who} and not shared; avahi: disallow-other-stacks=no" if taken else str(error)
        )
    return "; ".join(troubles) or None


def holders() -> list[str]:
    """Return the programs that have a socket on port 5353, as far as this user may see them."""
    inodes = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        inodes |= {fields[9] for fields in map(str.split, lines) if fields[1].endswith(f":{PORT:04X}")}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = {str(entry.readlink()) for entry in (process / "fd").iterdir()}
            if any(f"socket:[{inode}]" in links for inode in inodes):
                found.add((process / "comm").read_text("utf-8", "replace").strip())
        except OSError:
            continue  # it is somebody else's, or has ended
    return sorted(found)
