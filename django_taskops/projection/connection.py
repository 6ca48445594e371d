"""A database connection of the drain's own: outside any pool, and never in another process.

A child that inherits its socket would keep the transaction of a killed parent open, and read its answers.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from weakref import WeakSet

from django.db import connections
from django.db.utils import load_backend

from ..conf import conf
from ..journal import forks
from .limits import READ_COMMITTED


@contextmanager
def own_connection() -> Iterator[Any]:
    """In this thread, everything that goes to `DATABASE` goes through the connection yielded."""
    alias = conf.DATABASE
    usual = connections[alias]
    settings = deepcopy(usual.settings_dict)
    settings["OPTIONS"].pop("pool", None)
    if usual.vendor == "mysql":
        settings["OPTIONS"]["isolation_level"] = READ_COMMITTED
    own = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, alias)
    own.execute_wrappers.append(_letting_forks_through)
    _own.add(own)
    connections[alias] = own
    try:
        yield own
    finally:
        connections[alias] = usual
        _own.discard(own)
        own.close()


def _letting_forks_through(execute: Callable[..., Any], *call: Any) -> Any:
    with forks.let_through():
        return execute(*call)


_own: WeakSet[Any] = WeakSet()


def _close_inherited() -> None:
    """Closes the descriptor and says nothing to the server: it is the parent's conversation."""
    for wrapper in list(_own):
        try:
            descriptor = _descriptor(wrapper.connection)
        except Exception:  # noqa: BLE001, S112 SQLite has none, and a broken connection has none any more
            continue
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
    _own.clear()


def _descriptor(connection: Any) -> int:
    """Of its socket, which PyMySQL keeps to itself."""
    stream = connection if hasattr(connection, "fileno") else connection._sock  # noqa: SLF001
    return int(stream.fileno())


os.register_at_fork(after_in_child=_close_inherited)
