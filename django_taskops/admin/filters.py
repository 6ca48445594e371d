"""Filters of the lists. None asks the database which values there are, each refuses a value it does not offer."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..capture.text import storable_id
from ..models import AuditAction
from ..states import REASON_CHOICES, DeadLetterReason, LetterStatus, TaskState

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

    Lookups = Iterable[tuple[str, StrOrPromise]]


class OfferedFilter(SimpleListFilter):
    """A filter whose value is one of those it offers; any other leads back to the whole list."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        if value not in self.accepted():
            raise IncorrectLookupParameters(f"{self.parameter_name}: expected one of {self.accepted()}, got {value!r}")
        return queryset.filter(self.condition(value))

    def accepted(self) -> list[str]:
        return [value for value, _label in self.lookup_choices]

    def condition(self, value: str) -> Q:
        return Q(**{str(self.parameter_name): value})


class StateFilter(OfferedFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        return TaskState.choices


class RunReasonFilter(OfferedFilter):
    title = _("reason")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        return REASON_CHOICES

    def condition(self, value: str) -> Q:
        """A success has no reason: saying so lets the database use the index of what is none."""
        return Q(reason=value) & ~Q(state=TaskState.SUCCESS)


class LetterReasonFilter(OfferedFilter):
    title = _("reason")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        return DeadLetterReason.choices


class ActionFilter(OfferedFilter):
    title = _("action")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        return AuditAction.choices


class StatusFilter(OfferedFilter):
    """What waits for a person, unless something else is asked for."""

    title = _("status")
    parameter_name = "status"
    ALL = "all"

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        return [choice for choice in LetterStatus.choices if choice[0] != LetterStatus.OPEN]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset.filter(status=LetterStatus.OPEN)
        return super().queryset(request, queryset)

    def accepted(self) -> list[str]:
        return [self.ALL, *LetterStatus.values]

    def condition(self, value: str) -> Q:
        return Q() if value == self.ALL else Q(status=value)

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        default, *others = super().choices(changelist)
        is_open = self.value() in (None, LetterStatus.OPEN)
        yield {**default, "selected": is_open, "display": _("Open (default)")}
        yield from others
        yield {
            "selected": self.value() == self.ALL,
            "query_string": changelist.get_query_string({str(self.parameter_name): self.ALL}),
            "display": _("All"),
        }


class SinceFilter(OfferedFilter):
    """Rows whose `field`, which has an index, is not older than an hour, a day, a week or a month."""

    parameter_name = "since"
    field: ClassVar[str]
    SPANS = {
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(days=7),
        "month": timedelta(days=30),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        return [
            ("hour", _("Past hour")),
            ("day", _("Past 24 hours")),
            ("week", _("Past 7 days")),
            ("month", _("Past 30 days")),
        ]

    def condition(self, value: str) -> Q:
        return Q(**{f"{self.field}__gte": timezone.now() - self.SPANS[value]})


class FinishedFilter(SinceFilter):
    title = _("when it finished")
    field = "finished_at"


class DiedFilter(SinceFilter):
    title = _("when it died")
    field = "died_at"


class DecidedFilter(SinceFilter):
    title = _("when")
    field = "at"


class ExactFilter(SimpleListFilter):
    """Rows with one value of an indexed field, for links from other pages. Shows itself only where it is in use."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> "Lookups":
        value = self.value()
        return [(value, value)] if value else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(**{str(self.parameter_name): storable_id(value)}) if value else queryset


class TaskFilter(ExactFilter):
    title = _("task")
    parameter_name = "task_name"


class WorkflowFilter(ExactFilter):
    title = _("workflow")
    parameter_name = "root_id"


class GroupFilter(ExactFilter):
    title = _("group")
    parameter_name = "group_id"
