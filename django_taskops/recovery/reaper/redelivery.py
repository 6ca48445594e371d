"""By when a broker delivers again what a lost worker has not acknowledged."""

from datetime import timedelta
from typing import Any

from celery import Celery

from ..broker import RABBITMQ

REDIS = "redis"
RESTORE_SECONDS = 100  # kombu looks for what to restore at every tenth of its rounds, which take ten seconds
HEARTBEAT_SECONDS = 120
OTHER_SECONDS = 3600


def longest_wait(app: Celery) -> timedelta:
    """From now on. Redis: the visibility timeout and up to 100 s, RabbitMQ: until it misses the heartbeats."""
    with app.connection_for_read() as connection:
        kind = connection.transport.driver_type
        options: dict[str, Any] = connection.transport_options or {}
        channel = getattr(connection.get_transport_cls(), "Channel", None)
    if kind == RABBITMQ:
        return timedelta(seconds=2 * (app.conf.broker_heartbeat or HEARTBEAT_SECONDS))
    usual = getattr(channel, "visibility_timeout", None) or OTHER_SECONDS
    seconds = float(options.get("visibility_timeout") or usual)
    return timedelta(seconds=seconds + (RESTORE_SECONDS if kind == REDIS else 0))
