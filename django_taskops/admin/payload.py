"""What was called, for those who may see it: as code on a page, in short in a list."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Case, F, JSONField, OuterRef, QuerySet, Subquery, TextField, When
from django.db.models.functions import Cast, Length
from django.db.models.lookups import LessThanOrEqual
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from ..models import DeadLetter, TaskRun
from ..states import TaskState
from . import display

MAX_LISTED = 2000
"""Characters of JSON. What is longer stays in the database, and a list shows an ellipsis for it."""

IN_SHORT = 80
IN_TITLE = 500


def may_view(request: HttpRequest) -> bool:
    return bool(request.user.has_perm("taskops.view_payload"))


def context(request: HttpRequest, run: TaskRun) -> dict[str, Any]:
    """The call and the result, for those who may see them."""
    if not may_view(request):
        return {"may_view_payload": False}
    return {
        "may_view_payload": True,
        "call": display.call_as_code(run.task_name, run.args, run.kwargs),
        "arguments_unknown": run.args is None,
        "has_result": run.state == TaskState.SUCCESS,
        "result": display.code(run.result),
    }


def is_of(letter: DeadLetter, described: str) -> bool:
    """True where a run that was described at `described` shows the call of this letter: it was described by the send
    that died here, or by one before it of the same publish and by none since."""
    if not described:
        return True
    publish = f"{letter.publication}/"
    newest = f"{publish}{letter.generation:06}/~"  # after all that its send says
    return described.startswith(publish) and described < newest


def with_calls(runs: QuerySet[Any]) -> QuerySet[Any]:
    """Runs with what `in_short` reads."""
    annotated: QuerySet[Any] = runs.annotate(call_args=_bounded("args"), call_kwargs=_bounded("kwargs"))
    return annotated


def with_calls_of_runs(letters: QuerySet[Any]) -> QuerySet[Any]:
    """Letters with what `in_short` reads. Not a join: that would stay where the letters are only counted."""
    runs = with_calls(TaskRun.objects.filter(pk=OuterRef("run_id")).order_by())
    annotated: QuerySet[Any] = letters.annotate(
        call_args=Subquery(runs.values("call_args")),
        call_kwargs=Subquery(runs.values("call_kwargs")),
        call_described=Subquery(runs.values("described")),
    )
    return annotated


def _bounded(column: str) -> Case:
    short = LessThanOrEqual(Length(Cast(column, TextField())), MAX_LISTED)
    return Case(When(short, then=F(column)), output_field=JSONField())


def in_short(row: Any) -> SafeString | str:
    """The arguments on one line; "" where the call is not known, or that of another send than the letter's."""
    if row.call_args is None and row.call_kwargs is None:
        return ""
    if isinstance(row, DeadLetter) and not is_of(row, vars(row)["call_described"]):
        return ""
    return display.shortened(Truncator(_line(row.call_args, row.call_kwargs)).chars(IN_TITLE), IN_SHORT)


def _line(args: object, kwargs: object) -> str:
    shown = [repr(value) for value in args] if isinstance(args, list) else ["…" if args is None else f"*{args!r}"]
    if isinstance(kwargs, Mapping):
        shown += [
            f"{name}={value!r}" if name.isidentifier() else f"**{{{name!r}: {value!r}}}"
            for name, value in kwargs.items()
        ]
    elif kwargs is None:
        shown.append("**…")
    return f"({', '.join(shown)})"
