"""One gate for the services you can reach and the services you cannot."""

__all__ = ["__version__"]

__version__ = "0.1.0"
