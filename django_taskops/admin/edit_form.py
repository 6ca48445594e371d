"""The form of an edited requeue: JSON with its secrets hidden, where and when it goes, and what else is asked."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..exceptions import NotRequeueable
from ..models import DeadLetter
from ..recovery import preflight
from ..recovery.editing import BadEdit, Edit, Original, edited
from ..recovery.editing.written_json import written
from ..recovery.message import LONGEST_COUNTDOWN, Changes
from .forms import AttemptsForm

FEWEST_ROWS, MOST_ROWS = 4, 30
CODE = {"class": "taskops-editor", "spellcheck": "false", "autocomplete": "off", "autocapitalize": "off"}


class EditForm(AttemptsForm):
    """`edit` and `changes` are what is to be sent, once the form is valid. `added` are secrets that were typed before
    and are hidden since."""

    args = forms.CharField(label=_("Arguments"), strip=False, widget=forms.Textarea(attrs=CODE))
    kwargs = forms.CharField(label=_("Keyword arguments"), strip=False, widget=forms.Textarea(attrs=CODE))
    queue = forms.CharField(label=_("Queue"), max_length=255, required=False)
    countdown = forms.FloatField(
        label=_("Countdown, in seconds"),
        min_value=0,
        max_value=LONGEST_COUNTDOWN,
        required=False,
        widget=forms.NumberInput(attrs={"class": "taskops-number", "step": "any"}),
    )
    mark = forms.CharField(required=False)
    draft = forms.CharField(max_length=255, required=False)

    def __init__(
        self, data: Any = None, *, letter: DeadLetter, original: Original, added: tuple[Any, ...] = (), **options: Any
    ) -> None:
        options.setdefault("initial", {})
        shown = {"args": written(original.args), "kwargs": written(original.kwargs), "mark": original.mark}
        options["initial"] = {**shown, **options["initial"]}
        super().__init__(data, **options)
        self.fields["queue"].widget.attrs["placeholder"] = original.queue
        for part in ("args", "kwargs"):
            lines = str(self[part].value() or "").count("\n") + 1
            self.fields[part].widget.attrs["rows"] = min(max(lines, FEWEST_ROWS), MOST_ROWS)
        self._letter, self._original, self._added = letter, original, added
        self.edit: Edit | None = None
        self.changes: Changes | None = None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if cleaned.get("mark") != self._original.mark:
            raise forms.ValidationError(
                _("What is hidden in this message has changed since the page was made. Begin again from the letter.")
            )
        if "args" in cleaned and "kwargs" in cleaned:
            self._read(cleaned)
        if not self.errors:
            self._review(cleaned)
        return cleaned

    def masked(self) -> dict[str, str]:
        """The arguments as they may be shown again: what was typed in the place of a secret is hidden."""
        if self.edit is None:
            return {}
        args, kwargs = self.edit.shown
        return {"args": written(args), "kwargs": written(kwargs)}

    def _read(self, cleaned: Mapping[str, Any]) -> None:
        try:
            self.edit = edited(self._original, cleaned["args"], cleaned["kwargs"], self._added)
        except BadEdit as error:
            for part, sentence in error.sentences.items():
                self.add_error(part, sentence)

    def _review(self, cleaned: Mapping[str, Any]) -> None:
        """Refuses what a requeue would refuse, as far as one can tell beforehand."""
        assert self.edit is not None
        try:
            self.changes = Changes.checked(
                attempts=cleaned["attempts"],
                args=self.edit.args,
                kwargs=self.edit.kwargs,
                queue=cleaned["queue"] or None,
                countdown=cleaned["countdown"],
            )
            refused = preflight.review([self._letter], self.changes).get(self._letter.pk)
        except NotRequeueable as error:
            refused = error
        if refused and not (cleaned["force"] and refused.code in preflight.FORCEABLE):
            self.add_error(None, _refusal(refused))


def _refusal(refused: NotRequeueable) -> str:
    if refused.code in preflight.FORCEABLE:
        return gettext("%(why)s. Tick “Force it” to send it all the same.") % {"why": refused.detail.rstrip(".")}
    return refused.detail
