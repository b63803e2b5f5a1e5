"""Groups: which sessions of a server listen together, by name. Nothing is sent here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel.errors import InvalidArgument, Overloaded

if TYPE_CHECKING:
    from echokernel.session import Session

MAX_NAME = 128  # characters

__all__ = ["MAX_NAME", "Groups"]


class Groups:
    """Members by group. A group begins with its first member and vanishes with its last one."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[str, dict[int, Session]] = {}

    def join(self, session: Session, name: str, mine: set[str], limit: int) -> None:
        """Add a session, whose groups are ``mine``. Raises InvalidArgument, and Overloaded beyond ``limit`` groups."""
        check_name(name)
        if name in mine:
            return
        if len(mine) >= limit:
            raise Overloaded(
                f"group {name!r}: the session is in {limit:,} groups already (max_groups); leave one, or raise the limit"
            )
        mine.add(name)
        self._members.setdefault(name, {})[session.id] = session

    def leave(self, session: Session, name: str, mine: set[str]) -> None:
        """Take a session out of a group. Nothing happens where it is not in it. Raises InvalidArgument for a bad name."""
        check_name(name)
        if name in mine:
            mine.discard(name)
            self._drop(session, name)

    def leave_all(self, session: Session, mine: set[str]) -> None:
        """The session is over. ``mine`` stays as it is, for those who want to know where it was."""
        for name in mine:
            self._drop(session, name)

    def _drop(self, session: Session, name: str) -> None:
        members = self._members[name]
        del members[session.id]
        if not members:
            del self._members[name]

    def members(self, name: str) -> list[Session]:
        """Return the sessions of a group in the order in which they joined; none where nobody is in it."""
        check_name(name)
        return list(self._members.get(name, {}).values())

    def names(self) -> frozenset[str]:
        """Return the groups that have members."""
        return frozenset(self._members)

    def __len__(self) -> int:
        return len(self._members)


def check_name(name: str) -> None:
    """Raise InvalidArgument unless ``name`` is a text of 1 to 128 characters."""
    if not isinstance(name, str):
        raise InvalidArgument(f"a group's name is a {type(name).__name__}; wanted a text")
    if not 1 <= len(name) <= MAX_NAME:
        raise InvalidArgument(f"a group's name has {len(name):,} characters; wanted 1 to {MAX_NAME}")
