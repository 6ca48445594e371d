"""All that is needed to publish a message again, as one opaque versioned blob: a line of JSON, then the body as it is.
Nothing is ever unpickled here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from kombu import Message
from kombu.serialization import dumps
from kombu.utils import json

from ..conf import conf
from ..exceptions import EnvelopeError
from .sealing import seal, unseal

VERSION = 1
_PROPERTIES = ("priority", "delivery_mode", "correlation_id", "reply_to", "message_id", "type", "app_id", "user_id")


class PayloadTooLarge(EnvelopeError):
    """The body exceeds `PAYLOAD_MAX_BYTES`."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"payload of {size} bytes exceeds the limit of {limit}")


class Sender(NamedTuple):
    """How Celery sends a task that is published without saying how; `compression` a kombu name or ""."""

    serializer: str
    compression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message as it goes to the broker. `body` is in the task's own serializer; `compression` a kombu name or ""."""

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    exchange: str
    routing_key: str
    queue: str
    compression: str = ""
    app: str = ""  # the name of the Celery app whose worker has received it, "" where only its publisher has told it

    def to_bytes(self) -> bytes:
        """Raises PayloadTooLarge beyond the setting's limit."""
        if len(self.body) > conf.PAYLOAD_MAX_BYTES:
            raise PayloadTooLarge(len(self.body), conf.PAYLOAD_MAX_BYTES)
        named = {"version": VERSION} | {name: getattr(self, name) for name in _BESIDE_BODY}
        return seal(b"%b\n%b" % (_encode(named).encode("utf-8", "surrogatepass"), self.body))

    @classmethod
    def from_bytes(cls, blob: bytes | memoryview) -> "Envelope":
        """Raises EnvelopeError where `blob` is none of ours, of a newer version, or encrypted with another key."""
        line, _, body = unseal(bytes(blob)).partition(b"\n")
        try:
            named = json.loads(line.decode("utf-8", "surrogatepass"))
            version = named.pop("version")
            if version != VERSION:
                raise EnvelopeError(f"expected an envelope of version {VERSION}, got {version!r}")
            return cls(body=body, **{name: value for name, value in named.items() if name in _BESIDE_BODY})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EnvelopeError(f"expected an envelope, got {len(blob)} bytes that are none: {error}") from error

    def sent_anew(self, **headers: Any) -> "Envelope":
        """A copy for another send: `headers` replaced, and without what belongs to the send before."""
        kept = {name: value for name, value in self.headers.items() if not _is_of_one_send(name)}
        return replace(self, headers=kept | {"eta": None, "retries": 0} | headers)

    def routed_to(self, queue: str, **headers: Any) -> "Envelope":
        """A copy for `queue`, by way of the default exchange, with more `headers`."""
        return replace(self, exchange="", routing_key=queue, queue=queue, headers={**self.headers, **headers})


def _is_of_one_send(header: str) -> bool:
    """With `x-death`, RabbitMQ may drop a message that is published again as one that goes in a circle."""
    return header in ("eta", "retries", "x-death", "x-delivery-count") or header.startswith(_MARKS)


_MARKS = ("x-first-death-", "x-last-death-")
_encode = json.JSONEncoder().encode
_BESIDE_BODY = tuple(field.name for field in fields(Envelope) if field.name != "body")


def of_publish(
    body: Any, headers: Mapping[str, Any], properties: Mapping[str, Any], route: Mapping[str, str], sender: Sender
) -> Envelope:
    """What Celery is about to send, dumped as the task's serializer does it. Raises what that raises."""
    dumped: Any
    content_type, content_encoding, dumped = dumps(body, serializer=sender.serializer)
    return Envelope(
        body=dumped.encode(content_encoding) if isinstance(dumped, str) else dumped,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=_without_compression(headers),
        properties=_kept(properties),
        compression=headers.get("compression") or sender.compression,
        **route,
    )


def of_message(message: Message, exchange: str, routing_key: str, queue: str, app: str = "") -> Envelope:
    """A message as a worker received it, byte for byte."""
    body: Any = message.body
    return Envelope(
        body=body.encode(message.content_encoding or "utf-8") if isinstance(body, str) else bytes(body),
        content_type=message.content_type or "",
        content_encoding=message.content_encoding or "",
        headers=_without_compression(message.headers),
        properties=_kept(message.properties),
        exchange=exchange,
        routing_key=routing_key,
        queue=queue,
        compression=message.headers.get("compression") or "",
        app=app,
    )


def _without_compression(headers: Mapping[str, Any]) -> dict[str, Any]:
    """kombu says in a header how the body on the wire is compressed; ours is not, and is compressed anew."""
    return {name: value for name, value in headers.items() if name != "compression"}


def _kept(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: properties[name] for name in _PROPERTIES if properties.get(name) is not None}
