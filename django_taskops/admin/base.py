"""What the three admins share: read-only pages and lists whose cost does not grow with their tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise
from django.utils.text import capfirst

from .filters import StatusFilter
from .paginator import CappedPaginator
from .search import SearchForm

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin


class TaskOpsChangeList(ChangeList):
    """Newest first, always: another order would sort the whole table."""

    model_admin: "ReadOnlyAdmin"
    search_form_class = SearchForm

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        self.title = str(capfirst(self.opts.verbose_name_plural))

    def get_filters(self, request: HttpRequest) -> Any:
        """Raises IncorrectLookupParameters for a parameter that is none of our filters: no lookups by hand."""
        offered = {getattr(list_filter, "parameter_name", None) for list_filter in self.list_filter}
        if unknown := set(self.get_filters_params()) - offered:
            raise IncorrectLookupParameters(f"expected some of {offered}, got {unknown}")
        return super().get_filters(request)

    @property
    def everywhere(self) -> str:
        """Where a search that found nothing may go on: the same in all statuses; "" where none is left out."""
        if not self.query or StatusFilter not in self.list_filter or StatusFilter.parameter_name in self.params:
            return ""
        return self.get_query_string({"status": StatusFilter.ALL})

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        return self.model_admin.listed(request, super().get_queryset(request, exclude_parameters))


class ReadOnlyAdmin(_ModelAdmin):
    """Nobody adds, changes or deletes by hand; Django's view permission shows, being staff alone shows nothing."""

    list_deferred: ClassVar[Sequence[str]] = ()  # columns that may be large
    empty_text: ClassVar[str | Promise] = ""

    list_max_show_all = 0
    list_per_page = 100
    ordering = ("-pk",)
    paginator = CappedPaginator
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    sortable_by = ()

    class Media:
        css = {"all": ["taskops/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return TaskOpsChangeList

    def listed(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The rows with what the list shows of each."""
        return rows.defer(*self.list_deferred)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """None: the page is a template of ours, not a form."""
        return []

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        return super().change_view(request, object_id, *args, **kwargs)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        context.update(self.page(request, kwargs["obj"]))
        return super().render_change_form(request, context, *args, **kwargs)

    def page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What the page of `row` shows, for its template."""
        raise NotImplementedError
