"""The message of a re-run: that of the letter's envelope, changed where the decision says so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from celery import current_app
from kombu.serialization import loads
from kombu.utils import json

from ..capture import headers as own
from ..capture.call import describe, with_envelope
from ..capture.envelope import Envelope
from ..capture.sealing import Undecryptable
from ..capture.text import storable
from ..events import Call
from ..exceptions import EnvelopeError, NotRequeueable
from ..models import DeadLetter
from . import canvas

LONGEST_COUNTDOWN = 366 * 24 * 3600

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a person wants to be different. None keeps what the envelope says; `starts` None is the task's policy."""

    starts: int | None
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    queue: str | None
    countdown: float | None

    @classmethod
    def checked(
        cls,
        *,
        attempts: str | int,
        args: Any = None,
        kwargs: Any = None,
        queue: Any = None,
        countdown: Any = None,
    ) -> "Changes":
        """Raises NotRequeueable with code "bad_option"."""
        changes = {"args": args, "kwargs": kwargs, "queue": queue, "countdown": countdown}
        starts = {"fresh": None, "once": 1}.get(attempts, attempts) if isinstance(attempts, str) else attempts
        if starts is not None and (isinstance(starts, bool) or not isinstance(starts, int) or starts < 1):
            raise _bad_option("attempts", "'fresh', 'once' or a count from 1", attempts)
        for name, (expected, accepts) in _RULES.items():
            if changes[name] is not None and not accepts(changes[name]):
                raise _bad_option(name, expected, changes[name])
        return cls(starts=starts, **changes)

    def as_payload(self) -> dict[str, Any]:
        """All that is different but the arguments, for `from_payload`, and for people to read."""
        given = {"attempts": self.starts, "queue": self.queue, "countdown": self.countdown}
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Changes":
        starts, queue, countdown = (payload.get(name) for name in ("attempts", "queue", "countdown"))
        return cls(starts=starts, args=None, kwargs=None, queue=queue, countdown=countdown)

    @property
    def edits(self) -> bool:
        return self.args is not None or self.kwargs is not None

    def described(self, call: Call, envelope: Envelope) -> Call:
        """`call` as it looks with these changes, carrying the envelope that is sent."""
        fields: dict[str, Any] = {name: getattr(call, name) for name in Call.__dataclass_fields__}
        args, kwargs = (self.edits and arguments_of(envelope)) or ((), {})
        task = current_app.tasks.get(envelope.headers["task"])
        seen = describe(envelope.headers, args, kwargs, task=task, queue=envelope.queue, priority=call.priority)
        kept = () if self.edits else ("args", "kwargs")
        fields |= {name: value for name, value in seen.items() if name not in (*kept, "periodic_task", "trace_id")}
        del fields["envelope"], fields["envelope_error"]
        return with_envelope(fields, envelope)


def _is_countdown(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST_COUNTDOWN


def _is_queue(value: object) -> bool:
    """Without what no message and no table can hold."""
    return isinstance(value, str) and bool(value) and storable(value, len(value)) == value


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "args": ("a list or tuple", lambda value: isinstance(value, (list, tuple))),
    "kwargs": (
        "a dict with names",
        lambda value: isinstance(value, Mapping) and all(isinstance(n, str) for n in value),
    ),
    "queue": ("the name of a queue", _is_queue),
    "countdown": ("seconds from 0 to a year", _is_countdown),
}


class NewId(NamedTuple):
    """The identity of a re-run that can't have the old one."""

    task_id: str
    publication: str

    @classmethod
    def fresh(cls) -> "NewId":
        return cls(str(uuid4()), own.new_publication())


def message_for(
    letter: DeadLetter, follows: canvas.Following, generation: int, changes: Changes, moved: NewId | None
) -> Envelope:
    """Each call makes another send, with a nonce of its own. Raises NotRequeueable where the envelope can't be read or
    can't be changed like that."""
    original = follows.envelope or envelope_of(letter)
    if not original.headers.get("task"):
        raise NotRequeueable("no_task", "not re-runnable: its message names no task; its bytes are kept as they came")
    headers = _fresh_headers(letter, original.headers, generation, changes, moved)
    if groups := canvas.joined_groups(letter, follows):
        headers[own.JOINED] = list(groups)
    envelope = original.sent_anew(**headers)
    envelope = replace(envelope, properties=fresh_properties(envelope))
    if changes.queue is not None:
        envelope = envelope.routed_to(changes.queue)
    return _edited(envelope, changes) if changes.edits else envelope


def envelope_of(letter: DeadLetter) -> Envelope:
    """Raises NotRequeueable where it can't be read."""
    try:
        return Envelope.from_bytes(letter.envelope or b"")
    except Undecryptable as error:
        raise NotRequeueable("undecryptable", f"not re-runnable: {error}") from error
    except EnvelopeError as error:
        raise NotRequeueable("envelope_unreadable", f"not re-runnable: {error}") from error


def arguments_of(envelope: Envelope) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """The arguments that are sent; None where reading them would run code, or they can't be read."""
    try:
        args, kwargs, _embed = loads(
            envelope.body, envelope.content_type, envelope.content_encoding, accept=_HARMLESS_TYPES
        )
    except Exception:  # noqa: BLE001 whatever the serializer raises
        return None
    return (args, kwargs) if isinstance(args, (list, tuple)) and isinstance(kwargs, Mapping) else None


_HARMLESS_TYPES = frozenset({JSON_TYPE, "application/x-yaml", "application/x-msgpack"})  # kombu loads YAML safely


def _bad_option(name: str, expected: str, got: object) -> NotRequeueable:
    return NotRequeueable("bad_option", f"{name}: expected {expected}, got {got!r}")


def _fresh_headers(
    letter: DeadLetter, old: Mapping[str, Any], generation: int, changes: Changes, moved: NewId | None
) -> dict[str, Any]:
    fresh: dict[str, Any] = {own.NONCE: own.new_publication(), own.GENERATION: generation}
    task_id = old.get("id") or letter.task_id  # the one that its run was given, where the message had none
    fresh["id"] = task_id
    if letter.publication:
        fresh[own.PUBLICATION] = letter.publication
    fresh |= {own.ATTEMPTS: changes.starts, "expires": renewed_expiry(old, changes.countdown or 0), own.DESCRIBE: True}
    if changes.countdown is not None:
        fresh["eta"] = (datetime.now(UTC) + timedelta(seconds=changes.countdown)).isoformat()
    if moved:
        fresh |= {"id": moved.task_id, own.PUBLICATION: moved.publication, own.REQUEUED_FROM: task_id}
        fresh["root_id"] = fresh["id"] if old.get("root_id") in (None, task_id) else old["root_id"]
    return fresh


def fresh_properties(envelope: Envelope) -> dict[str, Any]:
    """Those that go with its headers. `expiration` is in seconds, as kombu's `publish` takes it: RabbitMQ itself drops
    a message that is older."""
    fresh = dict(envelope.properties)
    if "correlation_id" in fresh:
        fresh["correlation_id"] = envelope.headers["id"]
    if expires := envelope.headers["expires"]:
        fresh["expiration"] = (datetime.fromisoformat(expires) - datetime.now(UTC)).total_seconds()
    return fresh


def renewed_expiry(headers: Mapping[str, Any], countdown: float) -> str | None:
    """As long from its start as the original had from its publish; none where that is not known, or it had no time."""
    expires, sent = headers.get("expires"), own.sent_at(headers)
    if not isinstance(expires, str) or sent is None:
        return None
    try:
        until = datetime.fromisoformat(expires)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    length = until - datetime.fromtimestamp(sent, UTC)
    if length <= timedelta(0):
        return None
    return (datetime.now(UTC) + timedelta(seconds=countdown) + length).isoformat()


def _edited(envelope: Envelope, changes: Changes) -> Envelope:
    if envelope.content_type != JSON_TYPE:
        raise NotRequeueable(
            "not_editable", f"only JSON arguments can be replaced, these are {envelope.content_type}: requeue as it is"
        )
    args, kwargs, embed = json.loads(envelope.body.decode(envelope.content_encoding))
    args = args if changes.args is None else list(changes.args)
    kwargs = kwargs if changes.kwargs is None else dict(changes.kwargs)
    shown = {"argsrepr": repr(args), "kwargsrepr": repr(kwargs)}
    try:
        body = json.dumps([args, kwargs, embed]).encode(envelope.content_encoding)
    except (TypeError, ValueError) as error:
        raise _bad_option("args, kwargs", "values that JSON can hold", error) from error
    return replace(envelope, body=body, headers={**envelope.headers, **shown})
