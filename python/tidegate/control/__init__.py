"""Runs a role of the engine: start, events, signals, end."""
