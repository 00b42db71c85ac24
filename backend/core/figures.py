"""Sizes and times in texts for people."""

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_text(count: int) -> str:
    """A number of bytes: `1 byte`, `64 KiB`, `1.5 GiB`."""
    if count == 1:
        return "1 byte"
    step = min(max(count.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{_short(count / 1024**step)} {UNITS[step]}"


def duration_text(seconds: float) -> str:
    """A time: `0.5 s`, `43 s`, `4 min 56 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{_short(seconds)} s"
    size, large, small = (3600, "h", "min") if seconds >= 3600 else (60, "min", "s")
    most, rest = divmod(round(seconds), size)
    rest //= size // 60
    return f"{most} {large}" + (f" {rest} {small}" if rest else "")


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
