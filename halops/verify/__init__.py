"""Checks of a finished chain: what the served model sees, where it stops, what it knows."""
