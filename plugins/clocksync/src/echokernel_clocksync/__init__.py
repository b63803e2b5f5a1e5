"""A shared clock, and aligned playout."""

__all__: list[str] = []
