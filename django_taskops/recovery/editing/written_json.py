"""JSON as a person reads and writes it: nothing cut, what can't be seen escaped, and errors that say where."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _

from ...events import JSON

_NOT_ASCII = re.compile(r"[^\n -~]")


class NotJSON(Exception):
    """`str()` is a sentence for people, in their language."""


def written(value: JSON) -> str:
    """`value` on as many lines as it takes. Characters that nobody sees, and those that no page can hold, are
    escaped: they come back as they were."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return _NOT_ASCII.sub(lambda found: _escaped(found[0]), text)


def canonical(value: JSON) -> str:
    """Equal for equal values alone: `1`, `1.0` and `true` are three."""
    return json.dumps(value)


def read(text: str, *, odd_numbers: bool = False) -> JSON:
    """Raises NotJSON. `odd_numbers` allows NaN and Infinity, which Python's JSON has."""
    try:
        value: JSON = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_odd if odd_numbers else _no_number,
            parse_float=_odd if odd_numbers else _float,
            parse_int=_int,
        )
    except json.JSONDecodeError as error:
        where = {"line": error.lineno, "column": error.colno, "problem": error.msg}
        raise NotJSON(_("not JSON at line %(line)d, column %(column)d: %(problem)s") % where) from error
    except RecursionError as error:
        raise NotJSON(_("nested too deeply")) from error
    return value


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJSON(_("the name “%(name)s” comes twice in one object") % {"name": twice[:100]})
    return found


def _no_number(text: str) -> float:
    raise NotJSON(_("%(text)s is not JSON: write a number, null or a string") % {"text": text})


def _odd(text: str) -> float:
    return float(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NotJSON(_("the number %(text)s is too large") % {"text": text[:40]})
    return number


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:  # Python reads 4,300 digits
        raise NotJSON(_("the number %(text)s… is too long") % {"text": text[:20]}) from error
