"""What a person may edit of a letter's message, with its secrets hidden, and what the message is to be afterwards.

Nothing is written here: the letter and its envelope stay as they are.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from hashlib import sha256
from typing import Any

from celery import current_app
from django.utils.translation import gettext as _
from kombu.utils import json as celery_json

from ...capture.envelope import Envelope
from ...capture.redaction import parameters_of, secrets_of
from ...events import JSON
from ...exceptions import NotRequeueable
from ...models import DeadLetter
from ..message import JSON_TYPE, envelope_of
from ..preflight import envelope_refusal
from .masking import BadToken, Hidden, Masks, Misplaced, TooDeep, Vault, reveal
from .written_json import NotJSON, canonical, read, written

MAX_CHARS = 200_000


class BadEdit(Exception):
    """What was typed can't be sent: a sentence for people for each of "args" and "kwargs" that is wrong."""

    def __init__(self, sentences: Mapping[str, str]) -> None:
        self.sentences = sentences
        super().__init__(*sentences.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The arguments of a message, masked. `known` is False where this process does not know the task, so that all its
    arguments are hidden. `mark` changes with what the tokens stand for."""

    args: list[JSON]
    kwargs: dict[str, JSON]
    hidden: tuple[Hidden, ...] = field(repr=False)
    masks: Masks = field(repr=False)
    known: bool
    odd_numbers: bool
    queue: str
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`args` and `kwargs` are None where they are as they were. `shown` are both, masked; `added` the values typed in
    the place of secrets, behind the tokens after those of the original."""

    args: Sequence[Any] | None = field(repr=False)
    kwargs: dict[str, Any] | None = field(repr=False)
    shown: tuple[list[JSON], dict[str, JSON]]
    added: tuple[JSON, ...] = field(repr=False)


def original_of(letter: DeadLetter) -> Original:
    """Raises NotRequeueable, with a sentence that says why the arguments can't be edited."""
    if refusal := envelope_refusal(letter):
        raise refusal
    envelope = envelope_of(letter)
    args, kwargs = _arguments(envelope)
    task = current_app.tasks.get(envelope.headers.get("task") or "")
    masks, vault = _masks(task), Vault()
    try:
        shown = masks.args(args, vault), masks.kwargs(kwargs, vault)
        size = max(len(written(part)) for part in shown)
    except (TooDeep, RecursionError) as error:
        raise _not_editable(_("they are nested too deeply")) from error
    if size > MAX_CHARS:
        words = {"count": f"{size:,}", "max": f"{MAX_CHARS:,}"}
        raise _not_editable(_("they are %(count)s characters long, more than the %(max)s that a page can take") % words)
    return Original(
        args=shown[0],
        kwargs=shown[1],
        hidden=tuple(vault.hidden),
        masks=masks,
        known=task is not None,
        odd_numbers=_has_odd_numbers([args, kwargs]),
        queue=envelope.queue or envelope.routing_key,
        mark=sha256(canonical([letter.pk, *shown]).encode()).hexdigest()[:32],
    )


def edited(original: Original, args: str, kwargs: str, added: Sequence[JSON] = ()) -> Edit:
    """What was typed, as JSON with tokens; `added` are the values that an earlier look at it has hidden. Raises
    BadEdit."""
    vault = Vault([*original.hidden, *(Hidden(value, secret=True) for value in added)])
    masks, shown, values, wrong = original.masks, {}, {}, {}
    for part, text, kind, mask, before in (
        ("args", args, list, masks.args, original.args),
        ("kwargs", kwargs, dict, masks.kwargs, original.kwargs),
    ):
        try:
            shown[part] = _masked(mask, _typed(text, kind, original), vault)
            is_as_before = canonical(shown[part]) == canonical(before)
            values[part] = None if is_as_before else _for_celery(shown[part], vault)
        except _Wrong as error:
            wrong[part] = str(error)
    if wrong:
        raise BadEdit(wrong)
    new = tuple(hidden.value for hidden in vault.hidden[len(original.hidden) :])
    return Edit(args=values["args"], kwargs=values["kwargs"], shown=(shown["args"], shown["kwargs"]), added=new)


def difference(original: Original, edit: Edit) -> dict[str, list[str]]:
    """The lines of a unified diff for what is different, by "args" and "kwargs". Secrets are masked in both."""
    before: dict[str, JSON] = {"args": original.args, "kwargs": original.kwargs}
    after: dict[str, JSON] = dict(zip(before, edit.shown, strict=True))
    return {
        part: list(_diff(before[part], after[part]))
        for part in before
        if canonical(before[part]) != canonical(after[part])
    }


def _diff(before: JSON, after: JSON) -> Iterator[str]:
    lines = unified_diff(written(before).split("\n"), written(after).split("\n"), lineterm="")
    for place, line in enumerate(lines):
        if place > 1:  # after the names of two files
            yield line


def _arguments(envelope: Envelope) -> tuple[list[JSON], dict[str, JSON]]:
    """As plain JSON: kombu's own marks for dates and the like stay as they are written."""
    if envelope.content_type != JSON_TYPE:
        kind = envelope.content_type or "?"
        raise _not_editable(_("only JSON can be edited, and this message is %(type)s") % {"type": kind})
    try:
        args, kwargs, _embed = json.loads(envelope.body.decode(envelope.content_encoding or "utf-8"))
    except RecursionError as error:
        raise _not_editable(_("they are nested too deeply")) from error
    except (ValueError, TypeError, LookupError) as error:
        raise _not_editable(_("the message can't be read: %(error)s") % {"error": type(error).__name__}) from error
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise _not_editable(_("the message holds no list and object of arguments"))
    return args, kwargs


def _has_odd_numbers(value: JSON) -> bool:
    """True with NaN or an infinity, which Python's JSON has and others have not."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return True
    return False


def _not_editable(why: str) -> NotRequeueable:
    return NotRequeueable("not_editable", _("The arguments can't be edited: %(why)s.") % {"why": why})


def _masks(task: Any) -> Masks:
    if task is None:
        return Masks(secrets=secrets_of(), all_secret=True)
    sensitive = task.taskops.sensitive if hasattr(task, "taskops") else ()
    return Masks(secrets=secrets_of(sensitive), parameters=parameters_of(task))


class _Wrong(Exception):
    """A sentence for people."""


def _typed(text: str, kind: type, original: Original) -> Any:
    if len(text) > 2 * MAX_CHARS:
        raise _Wrong(_("more than %(max)s characters") % {"max": f"{2 * MAX_CHARS:,}"})
    try:
        value = read(text, odd_numbers=original.odd_numbers)
    except NotJSON as error:
        raise _Wrong(str(error)) from error
    if not isinstance(value, kind):
        raise _Wrong(_("expected %(expected)s, got %(got)s") % {"expected": _kind(kind()), "got": _kind(value)})
    return value


def _kind(value: JSON) -> str:
    names = {list: _("a list"), dict: _("an object"), str: _("a string"), bool: _("true or false")}
    return _("null") if value is None else names.get(type(value), _("a number"))


def _masked(mask: Callable[..., Any], typed: Any, vault: Vault) -> Any:
    try:
        return mask(typed, vault, known=True)
    except BadToken as error:
        text = _("“%(token)s” stands for nothing here: a token is a whole value, and one of those that were shown")
        raise _Wrong(text % {"token": error.text[:60]}) from error
    except Misplaced as error:
        text = _("%(token)s can't stand there, where people would see its value: only in a place that is masked")
        raise _Wrong(text % {"token": error.text}) from error
    except (TooDeep, RecursionError) as error:
        raise _Wrong(_("nested too deeply")) from error


def _for_celery(shown: JSON, vault: Vault) -> Any:
    """With dates and the like as Python has them, so that they are written as they were."""
    try:
        return celery_json.loads(canonical(reveal(shown, vault)))
    except Exception as error:  # whatever the decoders of kombu and of the project raise
        words = {"error": type(error).__name__}
        raise _Wrong(_("a value with “__type__” can't be read: %(error)s") % words) from error
