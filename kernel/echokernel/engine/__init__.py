"""The parts of a session. ``session.py`` puts them together; nothing here is public."""
