"""Discovery on the local network."""

__all__: list[str] = []
