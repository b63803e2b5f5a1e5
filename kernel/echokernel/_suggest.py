"""``did you mean …?``"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'msgpack'?`` for the nearest of ``known``, or the empty string."""
    # sorted, so that of two equally near words always the same one is offered
    near = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
