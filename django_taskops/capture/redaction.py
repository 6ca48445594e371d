"""Values as people may see them: plain JSON of bounded size, secrets masked before they leave the process."""

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from inspect import Parameter, signature
from pathlib import PurePath
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from celery.exceptions import SoftTimeLimitExceeded

from ..conf import conf
from ..events import JSON
from .text import COLUMN, storable

MASK = "[redacted]"
NOT_SHOWN = "[not shown]"
MAX_CHARS = 1000
MAX_VALUES = 500
MAX_DEPTH = 12
MAX_INT_BITS = 1024
MAX_REPR_ITEMS = 1000
MAX_SECONDS = 0.05  # for the values' own code

_LIKE_JSON = re.compile(r"\s*[{\[]").match
_CHEAP_TO_COUNT = ("builtins", "collections", "array", "numpy")
_QUICK = ("builtins", "collections", "datetime", "decimal", "pathlib", "uuid")
_PLAIN = (datetime, date, clock_time, timedelta, Decimal, UUID, PurePath)


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a task names its positional arguments. `surplus` is the name of `*args`; `trusted` is False where a
    decorator stands in between, which may take away or add some, so that the places say nothing."""

    names: Sequence[str] = ()
    surplus: str = ""
    trusted: bool = True

    def name_of(self, place: int) -> str:
        return self.names[place] if place < len(self.names) else self.surplus


def parameters_of(task: Any) -> Parameters:
    """The parameters of the task's own function; none where they can't be known."""
    known = _parameters.get(task.__class__)  # Celery makes a class for each task; `type` would see its proxy
    if known is None:
        known = _parameters[task.__class__] = _read_parameters(task)
    return known


_parameters: WeakKeyDictionary[type, Parameters] = WeakKeyDictionary()


def _read_parameters(task: Any) -> Parameters:
    function = getattr(task, "__wrapped__", None) or type(task).run.__get__(task)
    try:
        outer, inner = signature(function, follow_wrapped=False), signature(function)
    except (TypeError, ValueError):
        return Parameters()
    parameters = inner.parameters.values()
    surplus = [p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL]
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return Parameters(
        names=[p.name for p in parameters if p.kind in positional],
        surplus=surplus[0] if surplus else "",
        trusted=outer == inner,
    )


def display_args(args: Sequence[Any], parameters: Parameters, sensitive: Iterable[str] = ()) -> list[JSON]:
    """Positional arguments, masked by the names that the task's signature gives them; all of them, where the names
    can't be trusted and one of them is secret."""
    view = _View(sensitive)
    hidden = not parameters.trusted and any(map(view.is_secret, (*parameters.names, parameters.surplus)))
    shown: list[JSON] = []
    for place, value in enumerate(args):
        if view.is_used_up():
            shown.append(f"… {len(args) - place} more")
            break
        shown.append(view.of(value, parameters.name_of(place), hidden=hidden))
    return shown


def display(value: Any, sensitive: Iterable[str] = ()) -> JSON:
    """Any value as JSON that each database stores: cut visibly, secrets masked. Never raises for what is in it."""
    return _View(sensitive).of(value)


def within(value: JSON, limit: int) -> JSON:
    """`value`, or where its JSON is longer than `limit` bytes the start of that, cut visibly."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    encoded = text.encode()
    if len(encoded) <= limit:
        return value
    return encoded[: max(limit - len("…".encode()), 0)].decode(errors="ignore") + "…"


def is_whole(shown: JSON) -> bool:
    """False where a part of the value is masked or cut, as far as one can see."""
    text = json.dumps(shown, ensure_ascii=False)
    return MASK not in text and "…" not in text


def _flat(name: str) -> str:
    """`cardNumber`, `card-number` and `CARD_NUMBER` are one name."""
    return name.translate(_SEPARATORS).lower()


_SEPARATORS = str.maketrans("", "", "-_ ")


def secrets_of(sensitive: Iterable[str] = ()) -> "Secrets":
    """The names whose values are masked: those of the setting, and those that a task declares."""
    return _secrets(tuple(conf.REDACT), tuple(sensitive))


@lru_cache(maxsize=64)
def _secrets(patterns: tuple[str, ...], sensitive: tuple[str, ...]) -> "Secrets":
    return Secrets(tuple(map(_flat, patterns)), frozenset(map(_flat, sensitive)))


class Secrets:
    """Which names are secret; it remembers the latest thousand."""

    def __init__(self, patterns: tuple[str, ...], sensitive: frozenset[str]) -> None:
        self._patterns = patterns
        self._sensitive = sensitive
        self.hold = lru_cache(maxsize=1024)(self._hold)

    def _hold(self, name: str) -> bool:
        flat = _flat(name[:COLUMN])
        return flat in self._sensitive or any(pattern in flat for pattern in self._patterns)

    def may_be_in(self, text: str) -> bool:
        """True for a text that may be JSON with secrets in it."""
        return _LIKE_JSON(text) is not None and self.spoken_of(text)

    def spoken_of(self, text: str) -> bool:
        """True where a text names anything secret."""
        flat = _flat(text)
        return any(name in flat for name in (*self._patterns, *self._sensitive))


class _View:
    """One value being rendered, with what is left of its budget."""

    def __init__(self, sensitive: Iterable[str]) -> None:
        self._secrets = secrets_of(sensitive)
        self.is_secret = self._secrets.hold
        self._left = MAX_VALUES
        self._until = time.monotonic() + MAX_SECONDS

    def is_used_up(self, *values: Any) -> bool:
        """True where nothing more of the containers that are among `values` is shown."""
        return self._left <= 0 or self._is_late(*values)

    def _is_late(self, *values: Any) -> bool:
        """The time counts where one of them may have slow code of its own: a busy machine is no reason to leave out the
        others."""
        return time.monotonic() > self._until and any(type(value).__module__ not in _QUICK for value in values)

    def of(self, value: Any, name: str = "", depth: int = 0, *, hidden: bool = False) -> JSON:
        try:
            self._left -= 1
            if self._left < 0:
                return "…"
            if hidden or (name and self.is_secret(name)):
                return MASK
            if self._is_late(value):
                return f"<{type(value).__name__}>"
            if value.__class__ is str:  # the usual case, at once
                return self._text(value)
            return self._render(value, depth)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001 the value's own code runs here
            return f"<{type(value).__name__}: {type(error).__name__} while it was rendered>"

    def _render(self, value: Any, depth: int) -> JSON:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, Enum):
            return _number(value)
        if isinstance(value, str) and not isinstance(value, Enum):
            return self._text(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return f"<{len(value)} bytes>"
        if depth >= MAX_DEPTH:
            return "…"
        return self._compound(value, depth)

    def _compound(self, value: Any, depth: int) -> JSON:
        if value.__class__ is dict:
            return self._mapping(value, depth)
        if is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name, None) for field in fields(value)}
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            value = dict(zip(value._fields, value, strict=False))
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        return _cut(str(value) if isinstance(value, _PLAIN) else self._repr(value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> JSON:
        shown: dict[str, JSON] = {}
        for count, (key, item) in enumerate(value.items()):
            if self.is_used_up(value, key):
                shown["…"] = f"{len(value) - count} more"
                break
            name = key if isinstance(key, str) else str(key)
            shown[storable(name[: COLUMN + 1])] = self.of(item, name, depth + 1)
        return shown

    def _items(self, value: Any, depth: int) -> JSON:
        shown: list[JSON] = []
        name = ""  # of a pair such as ("Authorization", "Bearer …")
        for item in value:
            if self.is_used_up(value):
                shown.append(f"… {len(value) - len(shown)} more")
                break
            shown.append(self.of(item, name, depth + 1))
            name = item if len(value) == 2 and isinstance(item, str) else ""
        return shown

    def _text(self, text: str) -> str:
        """JSON in a text is looked into: what can't be, or is nested too deeply, and speaks of a secret, is masked."""
        if not self._secrets.may_be_in(text):
            return _cut(text)
        try:
            return _cut(json.dumps(self.of(json.loads(text)), ensure_ascii=False))
        except (ValueError, RecursionError):
            return MASK

    def _repr(self, value: Any) -> str:
        """A repr is opaque: where it speaks of a secret, all of it is masked. It may take any time: large containers,
        and all that comes when the time is used up, are only named."""
        name = type(value).__name__
        if hasattr(value, "_result_cache") or time.monotonic() > self._until:
            return f"<{name}>"  # a queryset would ask the database
        if type(value).__module__ in _CHEAP_TO_COUNT and isinstance(value, Sized) and len(value) > MAX_REPR_ITEMS:
            return f"<{name} of {len(value)}>"
        text = repr(value)
        if self._secrets.spoken_of(text[: 100 * MAX_CHARS]):
            return f"<{name}: {MASK}>"
        return text


def _number(value: float) -> JSON:
    if isinstance(value, int):
        return int(value) if value.bit_length() <= MAX_INT_BITS else f"<int of {value.bit_length()} bits>"
    return float(value) if math.isfinite(value) else str(float(value))


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return storable(text, MAX_CHARS * 6)
    return f"{storable(text[:MAX_CHARS], MAX_CHARS * 6)}… ({len(text) - MAX_CHARS:,} more characters)"
