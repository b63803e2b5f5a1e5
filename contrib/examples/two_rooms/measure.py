"""How far apart two rooms play: ``python measure.py ONE.jsonl OTHER.jsonl``"""

import json
import sys
from pathlib import Path


def played(path: str, clock: str) -> dict[int, int]:
    """Return when each packet was played, by its number."""
    lines = map(json.loads, Path(path).read_text("utf-8").splitlines())
    return {line["seq"]: line[clock] for line in lines}


def skews(one: str, other: str, clock: str, unit: float) -> list[float]:
    """Return how many ms the packets were played apart, sorted, of those that both have played."""
    first, second = played(one, clock), played(other, clock)
    return sorted(abs(first[seq] - second[seq]) / unit for seq in first.keys() & second.keys())


def main(one: str, other: str) -> None:
    # the monotonic clock is one for all programs of a machine, and tells the truth about two rooms on it; rooms on two
    # machines have only the shared clock in common, which adds what it is off by
    for clock, unit, name in (("played_us", 1e3, "shared clock"), ("played_ns", 1e6, "clock of this machine")):
        found = skews(one, other, clock, unit)
        if not found:
            sys.exit("the rooms have played no packet in common")
        middle, most = found[len(found) // 2], found[len(found) * 95 // 100]
        print(f"{len(found)} packets, by the {name}: {middle:.2f} ms apart in the middle, 95 % within {most:.2f} ms")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
