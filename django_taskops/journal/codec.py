"""Events, beats and chords as bytes: one line of JSON, and after it the envelope as it is.

What equals its default is left out. Keys that this release does not know are passed over, those that are missing have
their default: a journal may hold events of the release before and of the next one.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from ..events import Beat, Call, Chord, Event, EventKind, Executor, Held, Outcome, Record
from ..exceptions import TaskOpsError

VERSION = 1


class UnreadableEvent(TaskOpsError, ValueError):
    """The bytes are no record of this release."""


def encode(record: Record) -> bytes:
    """Raises TypeError or ValueError for what JSON can't hold; capture makes no such events."""
    if isinstance(record, Event):
        return _encode_event(record)
    known = _BEAT if isinstance(record, Beat) else _CHORD
    line = _given(record, known) | {"format": VERSION, "kind": record.kind}
    return _dumps(line).encode("ascii")


def _encode_event(event: Event) -> bytes:
    call = event.call
    line = _given(event, _EVENT) | {"version": VERSION, "at": event.at.isoformat()}
    for name, known in _PARTS.items():
        if (part := getattr(event, name)) is not None:
            line[name] = _given(part, known)
    text = _dumps(line).encode("ascii")
    return text if call is None or call.envelope is None else b"%b\n%b" % (text, call.envelope)


def decode(data: bytes, position: int = 0) -> Record:
    """The event, at `position` of its journal, the beat or the chord. Raises UnreadableEvent."""
    line, separator, envelope = data.partition(b"\n")
    try:
        given = json.loads(line.decode("ascii"))
        if given["kind"] == Beat.kind:
            return _beat(given)
        if given["kind"] == Chord.kind:
            return _chord(given)
        if separator:
            given["call"]["envelope"] = envelope
        return _event(given, position)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableEvent(f"expected an event, got {data[:80]!r}: {error!r}") from error


def _event(given: dict[str, Any], position: int) -> Event:
    given.pop("version", None)  # it says what is there; what is there says it as well
    given["position"] = position
    given["kind"] = EventKind(given["kind"])
    given["at"] = _instant(given["at"])
    for name, maker in _MAKERS.items():
        if (part := given.get(name)) is not None:
            given[name] = maker(**_part(part, _NAMES[name]))
    event = Event(**_known_only(given, _EVENT_NAMES))
    _check(event)
    return event


def _beat(given: dict[str, Any]) -> Beat:
    """Raises ValueError for what no row could hold."""
    for name in ("at", "started_at"):
        given[name] = _instant(given[name])
    for name in ("queues", "tasks"):
        if given.get(name) is not None:
            given[name] = tuple(map(str, given[name]))
    for name in ("running", "reserved"):
        given[name] = tuple(Held(*map(str, held[:3])) for held in given.get(name, ()))
    beat = Beat(**_known_only(given, _BEAT_NAMES))
    for name, length in (("boot_id", 36), ("worker", 255), ("host", 255), ("pool", 64), ("version", 100)):
        _check_text(name, getattr(beat, name), length)
    if not beat.boot_id or beat.number.__class__ is not int or beat.seconds <= 0:
        raise ValueError(f"expected a boot id, a number and seconds, got {beat.boot_id!r}, {beat.number!r}")
    return beat


def _chord(given: dict[str, Any]) -> Chord:
    """Raises ValueError for what no row could hold."""
    given["at"] = _instant(given["at"])
    given["members"] = _members(given["members"])
    chord = Chord(**_known_only(given, _CHORD_NAMES))
    for name in ("group_id", "body", "body_id"):
        _check_text(name, getattr(chord, name), 255)
    return chord


def _members(given: list[Any]) -> tuple[Any, ...]:
    return tuple(_members(member) if isinstance(member, list) else str(member) for member in given)


def _check(event: Event) -> None:
    """What tells events apart, since not every database refuses what can't be."""
    for name, length in _LENGTHS:
        _check_text(name, getattr(event, name), length)
    for name, limit in _LIMITS:
        number = getattr(event, name)
        if not (number.__class__ is int and 0 <= number < limit):
            raise ValueError(f"{name}: expected a number from 0 to {limit - 1}, got {number!r}")


def _check_text(name: str, text: str, length: int) -> None:
    if len(text) > length or "\x00" in text:
        raise ValueError(f"{name}: expected at most {length} characters and no NUL, got {text[:80]!r}")


_LENGTHS = (("task_id", 255), ("task_name", 255), ("publication", 32), ("delivery", 36))
_LIMITS = (("generation", 2**31), ("nesting", 2**15), ("retries", 2**31), ("cause_generation", 2**31))


def _given(part: Any, known: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    found = {}
    for name, default in known:
        value = getattr(part, name)
        if value is not default and value != default:
            found[name] = value
    return found


def _part(given: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    for name in _INSTANTS:
        if name in given:
            given[name] = _instant(given[name])
    if "frames" in given:
        given["frames"] = tuple(given["frames"])
    return _known_only(given, names)


def _known_only(given: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return given if given.keys() <= names else {name: given[name] for name in names & given.keys()}


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"expected an instant with its time zone, got {text!r}")
    return instant


def _known(part: type, *without: str) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.default) for field in fields(part) if field.name not in without)


_INSTANTS = ("eta", "expires", "retry_at")
_MAKERS: Mapping[str, type[Any]] = {"call": Call, "executor": Executor, "outcome": Outcome}
_PARTS = {"call": _known(Call, "envelope"), "executor": _known(Executor), "outcome": _known(Outcome)}
_NAMES = {name: frozenset(field.name for field in fields(maker)) for name, maker in _MAKERS.items()}
_EVENT = _known(Event, "at", "position", *_PARTS)
_BEAT = _known(Beat)
_BEAT_NAMES = frozenset(field.name for field in fields(Beat))
_CHORD = _known(Chord)
_CHORD_NAMES = frozenset(field.name for field in fields(Chord))
_EVENT_NAMES = frozenset(field.name for field in fields(Event))
_dumps = json.JSONEncoder(separators=(",", ":"), default=datetime.isoformat).encode
