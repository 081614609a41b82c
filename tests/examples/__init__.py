"""The code blocks of README and docs, tried."""
