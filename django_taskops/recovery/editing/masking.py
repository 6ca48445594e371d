"""Hides secrets in JSON behind numbered tokens, for a person who edits it, and puts them back. Pure.

A token stands for its value wherever it is moved, as long as it would be masked there: else a secret could be had by
moving it to a place whose values people see. What looks like a token and was in the data before is hidden too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...capture.redaction import Parameters, Secrets
from ...events import JSON
from ...exceptions import TaskOpsError

MAX_DEPTH = 100
_LIKE_A_TOKEN = re.compile(r"\[redacted[^\[\]]{0,30}\]").search
_TOKEN = re.compile(r"\[redacted ([1-9][0-9]{0,6})\]").fullmatch


class BadToken(TaskOpsError):
    """A token that stands for nothing, in a text that is to be revealed."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(f"expected a token of this message as a value of its own, got {text!r}")


class Misplaced(TaskOpsError):
    """A token in a place whose values people see."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        super().__init__(f"{text} can't stand in {name!r}: values are shown there")


class TooDeep(TaskOpsError):
    """Nested deeper than anybody can edit."""

    def __init__(self) -> None:
        super().__init__(f"nested deeper than {MAX_DEPTH} levels")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A value behind a token. `secret` where it is one by the name of its place; what is masked for its own look may
    stand anywhere."""

    value: JSON
    secret: bool


class Vault:
    """What the tokens stand for, from 1 on."""

    def __init__(self, hidden: Iterable[Hidden] = ()) -> None:
        self.hidden = list(hidden)

    def hide(self, value: JSON, *, secret: bool) -> str:
        self.hidden.append(Hidden(value, secret))
        return f"[redacted {len(self.hidden)}]"

    def find(self, text: JSON) -> Hidden | None:
        """What the token `text` stands for; None where it is none."""
        match = _TOKEN(text) if isinstance(text, str) else None
        number = int(match[1]) if match else 0
        return self.hidden[number - 1] if 0 < number <= len(self.hidden) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Which places are secret. `all_secret` where nobody can tell which arguments are."""

    secrets: Secrets
    parameters: Parameters = field(default_factory=Parameters)
    all_secret: bool = False

    def args(self, args: Sequence[JSON], vault: Vault, *, known: bool = False) -> list[JSON]:
        """Positional arguments with their secrets put into `vault`. `known`: tokens of the vault are in it already."""
        masking = _Masking(self.secrets, vault, known=known)
        parameters = self.parameters
        named = (*parameters.names, parameters.surplus)
        if self.all_secret or (not parameters.trusted and any(map(self.secrets.hold, filter(None, named)))):
            return [masking.secret(value) for value in args]
        return [masking.of(value, parameters.name_of(place), 1) for place, value in enumerate(args)]

    def kwargs(self, kwargs: Mapping[str, JSON], vault: Vault, *, known: bool = False) -> dict[str, JSON]:
        """The same for keyword arguments."""
        masking = _Masking(self.secrets, vault, known=known)
        if self.all_secret:
            return {name: masking.secret(value) for name, value in kwargs.items()}
        return masking.mapping(kwargs, 0)


def reveal(shown: JSON, vault: Vault) -> JSON:
    """`shown` with the values that its tokens stand for."""
    if (hidden := vault.find(shown)) is not None:
        return hidden.value
    if isinstance(shown, list):
        return [reveal(item, vault) for item in shown]
    if isinstance(shown, dict):
        return {name: reveal(item, vault) for name, item in shown.items()}
    return shown


class _Masking:
    def __init__(self, secrets: Secrets, vault: Vault, *, known: bool) -> None:
        self._secrets = secrets
        self._vault = vault
        self._known = known

    def of(self, value: JSON, name: str, depth: int) -> JSON:
        if name and self._secrets.hold(name):
            return self.secret(value, depth)
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, list):
            return list(self._items(value, name, _deeper(depth)))
        return self.mapping(value, _deeper(depth)) if isinstance(value, dict) else value

    def secret(self, value: JSON, depth: int = 0) -> JSON:
        """Hides all of it. What was typed in the place of a secret is one too, and may hold tokens."""
        self._check(value, depth)
        if self._known and self._vault.find(value) is not None:
            return value
        return self._vault.hide(reveal(value, self._vault) if self._known else value, secret=True)

    def mapping(self, value: Mapping[str, Any], depth: int) -> dict[str, JSON]:
        return {name: self.of(item, name, depth + 1) for name, item in value.items()}

    def _items(self, value: Sequence[JSON], place: str, depth: int) -> Iterator[JSON]:
        name = ""  # of a pair such as ("Authorization", "Bearer …")
        for item in value:
            yield self.of(item, name, depth + 1) if name else self._item(item, place, depth + 1)
            meant = self._meant(item)
            name = meant if len(value) == 2 and isinstance(meant, str) else ""

    def _item(self, item: JSON, place: str, depth: int) -> JSON:
        return self._text(item, place) if isinstance(item, str) else self.of(item, "", depth)

    def _meant(self, item: JSON) -> JSON:
        hidden = self._vault.find(item) if self._known else None
        return item if hidden is None else hidden.value

    def _text(self, text: str, name: str) -> str:
        if self._known and (hidden := self._vault.find(text)) is not None:
            if hidden.secret:
                raise Misplaced(text, name)
            return text
        if _LIKE_A_TOKEN(text) is not None:
            if self._known:
                raise BadToken(text)
            return self._vault.hide(text, secret=False)
        return self._vault.hide(text, secret=False) if self._secrets.may_be_in(text) else text

    def _check(self, value: JSON, depth: int) -> None:
        """Raises TooDeep, and BadToken for what looks like a token and is none."""
        if isinstance(value, (list, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                self._check(item, _deeper(depth))
        elif self._known and isinstance(value, str) and _LIKE_A_TOKEN(value) and self._vault.find(value) is None:
            raise BadToken(value)


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise TooDeep
    return depth + 1
