"""Tracebacks as the pages of this app show them."""

from django import template
from django.utils.safestring import SafeString

from ..admin.own_code import emphasised

register = template.Library()


@register.filter
def own_code(traceback: str) -> SafeString:
    """The frames of the project's own in bold."""
    return emphasised(traceback)
