"""The line on all our pages that says when what they show is not what happens."""

from typing import Any

from django import template
from django.template import RequestContext

from ..models import QuarantinedEntry
from ..projection.status import recent_status

register = template.Library()


@register.inclusion_tag("admin/taskops/includes/banner.html", takes_context=True)
def recorder_banner(context: RequestContext) -> dict[str, Any]:
    """Red where the recorder is blind, amber where something lies in its quarantine, else nothing."""
    status = recent_status()
    user = context["request"].user
    return {
        "blind": status.blind,
        "quarantined": status.quarantined,
        "may_view_recorder": user.has_perm("taskops.view_recorder"),
        "may_view_quarantine": user.has_perm("taskops.view_quarantinedentry"),
        "on_panel": "recorder_status" in context,
        "on_list": "cl" in context and context["cl"].model is QuarantinedEntry,
    }
