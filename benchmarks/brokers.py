"""The brokers as the driver sees them: servers of our own, since they are emptied often."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from kombu import Connection

from example_site.embedded import redis_server

QUEUE = "bench"


@dataclass(frozen=True, slots=True)
class RedisBroker:
    name = "redis"
    url: str
    client: redis.Redis
    process: psutil.Process
    version: str

    def reset(self) -> None:
        self.client.flushall()

    def queued(self) -> int:
        """Messages that no worker has fetched yet."""
        return int(self.client.llen(QUEUE))

    def is_empty(self) -> bool:
        """Nothing waits, neither in the queue nor fetched and not yet begun."""
        with self.client.pipeline() as pipeline:
            pipeline.llen(QUEUE)
            pipeline.hlen("unacked")
            return not any(pipeline.execute())


@contextmanager
def redis_broker(folder: Path) -> Iterator[RedisBroker]:
    folder.mkdir(exist_ok=True)
    with redis_server(folder) as url, redis.Redis.from_url(url) as client:
        server = client.info("server")
        yield RedisBroker(url, client, psutil.Process(server["process_id"]), str(server["redis_version"]))


@dataclass(frozen=True, slots=True)
class RabbitBroker:
    name = "rabbitmq"
    url: str
    connection: Connection
    process: psutil.Process
    version: str

    def reset(self) -> None:
        with self._channel() as channel:
            channel.queue_delete(QUEUE)

    def queued(self) -> int:
        with self._channel() as channel:
            return int(channel.queue_declare(QUEUE, passive=True).message_count)

    def is_empty(self) -> bool:
        """What a worker has fetched and not yet begun, nobody else can see here."""
        return self.queued() == 0

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        channel: Any = self.connection.channel()
        try:
            yield channel
        finally:
            channel.close()


Broker = RedisBroker | RabbitBroker
