"""Bytes for people: one unit everywhere, the decimal one that file managers, download pages and card makers
use.
"""


def size(count: float) -> str:
    """Bytes as "8.8 MB" (10^6 bytes) or, from a thousand of them on, "23.8 GB" (10^9 bytes)."""
    return f"{count / 1e6:.1f} MB" if count < 999.95e6 else f"{count / 1e9:.1f} GB"
