"""Open files that a forked child must not keep: a lock on one of them says that this very process lives."""

import os
import threading
from contextlib import suppress
from pathlib import Path

FORK_WAITS_SECONDS = 1.0

_open: set[int] = set()
_lock = threading.RLock()


def open_file(path: Path, flags: int) -> int:
    """A descriptor, private to this process and closed in its children. Makes a file, if so asked, with mode 0600;
    follows no symbolic link. Raises OSError."""
    with _lock:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open.add(descriptor)
    return descriptor


def close_file(descriptor: int) -> None:
    """Also gives up what is locked by it. Does nothing where a fork has closed it already."""
    with _lock:
        if descriptor in _open:
            _open.remove(descriptor)
            with suppress(OSError):
                os.close(descriptor)


def _before_fork() -> None:
    """No other thread has just opened a file that is not yet in the set. A disk that hangs must not hold up a fork."""
    _lock.acquire(timeout=FORK_WAITS_SECONDS)


def _in_parent() -> None:
    with suppress(RuntimeError):  # it was not acquired in time
        _lock.release()


def _in_child() -> None:
    """Closes without unlocking: LOCK_UN would take the parent's lock away."""
    global _lock  # noqa: PLW0603 a lock does not survive a fork in another thread's hands
    _lock = threading.RLock()
    while _open:
        with suppress(OSError):
            os.close(_open.pop())


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
