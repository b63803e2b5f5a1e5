"""What all tests share. A plugin that is not installed has its tests left out: each set of plugins can be tested."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent

collect_ignore = [
    str(path.relative_to(ROOT))
    for path in ROOT.glob("plugins/*")
    if path.is_dir() and find_spec(f"echokernel_{path.name}") is None
]

settings.register_profile(
    "echokernel",
    deadline=None,
    max_examples=25 if "EK_EXPECT" in os.environ else 100,  # the matrix asks whether it works, not how it could fail
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("echokernel")
