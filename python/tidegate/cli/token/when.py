"""Times of tokens in words."""

from datetime import UTC, datetime

__all__ = ["when"]

_LAST = datetime.max.replace(tzinfo=UTC).timestamp()


def when(moment: float, now: float) -> str:
    """A moment as people write it, and how far it is from now."""
    distance = _distance(abs(moment - now))
    told = f"in {distance}" if moment > now else f"{distance} ago"
    if not 0 <= moment <= _LAST:
        return told
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC, {told}"


def _distance(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
