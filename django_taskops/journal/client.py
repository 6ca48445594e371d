"""How to reach the Redis of the journal: as kombu reaches the broker, else as Celery reaches the result backend.

Nothing here connects.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from types import SimpleNamespace
from typing import Any

import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from kombu import Connection
from kombu.transport.redis import Transport
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry


def _nameless() -> dict[str, None]:
    """The options that keep redis-py from telling Redis its name and version. To find out the version takes it longer
    than all the rest of a new connection."""
    known = signature(AbstractConnection).parameters
    if "driver_info" in known:
        return {"driver_info": None}
    return {name: None for name in ("lib_name", "lib_version") if name in known}


_NAMELESS = _nameless()


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis. `pool` makes a new connection pool with the given options over the project's own, `prefix` is the
    project's for all its keys, `shown` has no password in it."""

    pool: Callable[..., Any]
    prefix: str
    shown: str

    def client(self, seconds: float) -> redis.Redis:
        """A client that waits at most `seconds` for a connection or a reply."""
        return redis.Redis(connection_pool=self.pool(socket_timeout=seconds, socket_connect_timeout=seconds))

    @contextmanager
    def glance(self, seconds: float) -> Iterator[redis.Redis]:
        """A client for one question. redis-py leaves its connection to the garbage collector otherwise."""
        client = self.client(seconds)
        try:
            yield client
        finally:
            client.connection_pool.disconnect()


def of_url(url: str) -> Address:
    def pool(**options: Any) -> Any:
        return _with_options(redis.ConnectionPool.from_url(url), options)

    return Address(pool, "", _shown(pool()))


def of_app(app: Celery) -> Address | None:
    """None where neither the broker nor the result backend is a Redis."""
    with app.connection_for_write() as connection:
        if issubclass(connection.get_transport_cls(), Transport):
            return _of_broker(connection)
    return _of_backend(app.backend) if isinstance(app.backend, RedisBackend) else None


def _of_broker(connection: Connection) -> Address:
    def pool(**options: Any) -> Any:
        return _with_options(_unconnected_channel(connection)._get_pool(), options)  # noqa: SLF001

    prefix = (connection.transport_options or {}).get("global_keyprefix", "")
    return Address(pool, prefix, _shown(pool()))


def _unconnected_channel(connection: Connection) -> Any:
    """A channel as kombu makes it for this connection, but for its constructor, which would ask the server."""
    transport: Any = connection.get_transport_cls()
    given = connection.transport_options or {}
    channel = transport.Channel.__new__(transport.Channel)
    channel.connection = SimpleNamespace(client=connection, default_port=transport.default_port)
    for name in channel.from_transport_options:
        if name in given:
            setattr(channel, name, given[name])
    return channel


def _of_backend(backend: Any) -> Address:
    def pool(**options: Any) -> Any:
        return _with_options(backend._get_pool(**backend.connparams), options)  # noqa: SLF001

    prefix = (backend.app.conf.result_backend_transport_options or {}).get("global_keyprefix", "")
    return Address(pool, prefix, _shown(pool()))


def _with_options(pool: Any, options: Mapping[str, Any]) -> Any:
    """Without redis-py's own repetitions and health checks: the journal has one try, and a limit in time."""
    unix = "path" in pool.connection_kwargs
    ours = {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "health_check_interval": 0, **_NAMELESS}
    ours |= {name: value for name, value in options.items() if not (unix and name == "socket_connect_timeout")}
    pool.connection_kwargs.update(ours)
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        sentinel.connection_pool.connection_kwargs.update(ours)  # asked first where the master is
    return pool


def _shown(pool: Any) -> str:
    given = pool.connection_kwargs
    if "path" in given:
        return f"unix://{given['path']}?db={given.get('db') or 0}"
    if "host" not in given:
        return f"sentinel {getattr(pool, 'service_name', '')}".strip()
    return f"redis://{given['host']}:{given.get('port', 6379)}/{given.get('db') or 0}"
