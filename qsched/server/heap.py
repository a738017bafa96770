"""What visits needed goes back to the system. glibc gives every thread a heap of its own and keeps what it
once held; with visitors coming and going a server grows by a fifth. Elsewhere (other C libraries, macOS,
Windows) nothing is done.
"""

import ctypes

M_ARENA_MAX = -8
"""The name that malloc.h gives to the number of heaps."""


def limit_heaps(count: int = 2) -> None:
    """Let all threads share so many heaps; call it before they start."""
    if set_option := _glibc("mallopt"):
        set_option(M_ARENA_MAX, count)


def give_back() -> None:
    """Return freed memory to the system."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str):
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
