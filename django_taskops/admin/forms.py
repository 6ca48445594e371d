"""What a person says with a decision: why, and of a requeue how many attempts, and what to send by force."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from .pins import pinned_in

MAX_STARTS = 10_000
EACH = "each"
"""The value of `force` that means all letters of the decision, listed or not."""

ATTEMPTS = (
    ("fresh", _("The task's own policy, from the start")),
    ("once", _("One attempt, no retry")),
    ("count", _("At most this many attempts")),
)


class WhyForm(forms.Form):
    """The reason that goes into the audit entry. `needs_why` is False where it may be left out."""

    why = forms.CharField(label=_("Why"), max_length=1000, widget=forms.Textarea(attrs={"rows": 2, "cols": 60}))

    def __init__(self, data: Any = None, *, needs_why: bool = False, **options: Any) -> None:
        super().__init__(data, **options)
        self.fields["why"].required = needs_why


class AttemptsForm(WhyForm):
    attempts = forms.ChoiceField(label=_("Attempts"), choices=ATTEMPTS, initial="fresh", required=False)
    starts = forms.IntegerField(
        label=_("Attempts, at most"),
        min_value=1,
        max_value=MAX_STARTS,
        required=False,
        localize=False,
        widget=forms.NumberInput(attrs={"class": "taskops-number"}),
    )
    force = forms.CharField(required=False, max_length=200_000)

    def clean(self) -> dict[str, Any]:
        """`attempts` as `recovery.requeue` wants it: a number is never taken for granted, nor left out in silence."""
        cleaned: dict[str, Any] = super().clean() or {}
        chosen, starts = cleaned.get("attempts") or "fresh", cleaned.get("starts")
        if "starts" in self.errors:
            return cleaned
        if chosen == "count" and starts is None:
            self.add_error("starts", _("Say how many attempts, from 1 up."))
        elif chosen != "count" and starts is not None:
            self.add_error("starts", _("Choose “At most this many attempts” with it, or leave the number empty."))
        cleaned["attempts"] = starts if chosen == "count" else chosen
        return cleaned

    @property
    def chosen_attempts(self) -> str:
        return str(self["attempts"].value() or "fresh")

    def clean_force(self) -> frozenset[int] | str:
        """The letters that were listed beside the box, so that nothing is forced that was not seen."""
        given = self.cleaned_data["force"].strip()
        if given in (EACH, "on"):
            return EACH
        return frozenset(pinned_in(given))
