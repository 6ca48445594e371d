"""Puts a message on the broker as it is."""

from typing import Any

from celery import Celery
from kombu import Queue

from ..capture.envelope import Envelope

RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
"""One more try, for a pooled connection that has died since it was last used."""


def publish(app: Celery, envelope: Envelope, *, declare_unknown: bool = False) -> None:
    """Raises what the broker's client raises. The body goes out byte for byte.

    A queue that the project declares is declared as it says; `declare_unknown` declares any other as a plain one.
    """
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            envelope.body,
            exchange=envelope.exchange,
            routing_key=envelope.routing_key,
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            compression=envelope.compression or None,
            headers=dict(envelope.headers),
            declare=_declared(app, envelope.queue, unknown=declare_unknown),
            retry=True,
            retry_policy=RETRY_POLICY,
            **envelope.properties,
        )


def _declared(app: Celery, queue: str, *, unknown: bool) -> list[Queue]:
    queues: Any = app.amqp.queues
    if queue in queues:
        return [queues[queue]]
    return [Queue(queue, exchange="", routing_key=queue)] if unknown else []
