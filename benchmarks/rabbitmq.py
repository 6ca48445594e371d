"""A RabbitMQ node of our own, as the driver sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from kombu import Connection

from example_site.embedded_rabbitmq import own_rabbitmq

from .brokers import RabbitBroker


@contextmanager
def rabbit_broker(folder: Path) -> Iterator[RabbitBroker]:
    """Raises ServiceUnavailable where RabbitMQ is not installed or does not start."""
    folder.mkdir(exist_ok=True)
    with own_rabbitmq(folder) as node, Connection(node.url) as connection:
        connection.connect()
        version = str(connection.connection.server_properties["version"])
        yield RabbitBroker(node.url, connection, psutil.Process(node.pid), version)
