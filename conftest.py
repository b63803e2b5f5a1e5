"""What all tests share. A plugin that is not installed has its tests left out: each set of plugins can be tested."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent

collect_ignore = [
    str(path.relative_to(ROOT))
    for path in ROOT.glob("plugins/*")
    if path.is_dir() and find_spec(f"echokernel_{path.name}") is None
]

settings.register_profile("echokernel", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("echokernel")
