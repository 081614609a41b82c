"""The tests of tidegate."""
