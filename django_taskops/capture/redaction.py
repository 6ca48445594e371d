"""Values as people may see them: plain JSON of bounded size, secrets masked before they leave the process."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import Parameter, signature
from pathlib import PurePath
from typing import Any
from uuid import UUID

from ..conf import conf
from ..events import JSON
from .text import storable

MASK = "[redacted]"
MAX_CHARS = 1000
MAX_VALUES = 500
MAX_DEPTH = 12
MAX_INT_BITS = 1024

_PLAIN = (datetime, date, time, timedelta, Decimal, UUID, PurePath)


def display_args(args: Sequence[Any], names: Sequence[str], sensitive: Iterable[str] = ()) -> list[JSON]:
    """Positional arguments, masked by the names that the task's signature gives them; surplus ones by no name."""
    view = _View(sensitive)
    return [view.of(value, names[place] if place < len(names) else "") for place, value in enumerate(args)]


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


def parameter_names(run: Any) -> list[str]:
    """The names of a task's positional parameters, [] where they can't be known."""
    try:
        parameters = signature(run).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]


class _View:
    """One value being rendered, with what is left of its budget."""

    def __init__(self, sensitive: Iterable[str]) -> None:
        self._patterns = [pattern.lower() for pattern in conf.REDACT]
        self._sensitive = frozenset(sensitive)
        self._left = MAX_VALUES

    def of(self, value: Any, name: str = "", depth: int = 0) -> JSON:
        if name and self._is_secret(name):
            return MASK
        self._left -= 1
        if self._left < 0:
            return "…"
        try:
            return self._render(value, depth)
        except Exception as error:  # noqa: BLE001 the value's own code runs here
            return f"<{type(value).__name__}: {type(error).__name__} while it was rendered>"

    def _is_secret(self, name: str) -> bool:
        flat = name.lower().replace("-", "_").replace(" ", "_")
        return name in self._sensitive or any(pattern in flat for pattern in self._patterns)

    def _render(self, value: Any, depth: int) -> JSON:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, Enum):
            return _number(value)
        if isinstance(value, str) and not isinstance(value, Enum):
            return _cut(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return f"<{len(value)} bytes>"
        if depth >= MAX_DEPTH:
            return "…"
        return self._render_compound(value, depth)

    def _render_compound(self, value: Any, depth: int) -> JSON:
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
            if self._left <= 0:
                shown["…"] = f"{len(value) - count} more"
                break
            name = key if isinstance(key, str) else str(key)
            shown[storable(name)] = self.of(item, name, depth + 1)
        return shown

    def _items(self, value: Any, depth: int) -> JSON:
        shown: list[JSON] = []
        for item in value:
            if self._left <= 0:
                shown.append(f"… {len(value) - len(shown)} more")
                break
            shown.append(self.of(item, "", depth + 1))
        return shown

    def _repr(self, value: Any) -> str:
        """A repr is opaque: where it speaks of a secret, all of it is masked."""
        text = repr(value)
        if any(pattern in text.lower() for pattern in self._patterns) or any(n in text for n in self._sensitive):
            return f"<{type(value).__name__}: {MASK}>"
        return text


def _number(value: float) -> JSON:
    if isinstance(value, int):
        return int(value) if value.bit_length() <= MAX_INT_BITS else f"<int of {value.bit_length()} bits>"
    return float(value) if math.isfinite(value) else str(float(value))


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return storable(text, MAX_CHARS * 6)
    return f"{storable(text[:MAX_CHARS], MAX_CHARS * 6)}… ({len(text) - MAX_CHARS:,} more characters)"
