"""The demo's tables, from plain values to rich's renderables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from example_site.accounts import Difference, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a dead letter after the causes were mended."""

    task: str
    subject: str
    status: str
    state: str
    effects: str
    accepted: bool  # healed with everything that follows, or given up for a stated reason


def totals(runs: Iterable[Run]) -> Table:
    """One line per task name: how its runs ended."""
    table = _table("The day, task by task", "task", "succeeded", "after a retry", "died", "waits for an earlier step")
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    for name, same in sorted(by_name.items()):
        table.add_row(escape(name), *(str(count or "") for count in _counts(same)))
    return table


def _counts(runs: Sequence[Run]) -> tuple[int, int, int, int]:
    succeeded = [run for run in runs if run.state == "SUCCESS"]
    upstream = [run for run in runs if run.waits_upstream]
    died = [run for run in runs if run.letters and run.state != "SUCCESS"]
    return len(succeeded), sum(1 for run in succeeded if run.trouble), len(died), len(upstream)


def retried(runs: Iterable[Run]) -> Table:
    """The runs that got through in the end."""
    table = _table("Retried, and then it worked", "task", "for", "attempts", "what went wrong before")
    for run in runs:
        if run.state == "SUCCESS" and run.trouble:
            table.add_row(escape(run.name), escape(run.subject), str(run.attempts), escape(", ".join(run.trouble)))
    return table


def died(runs: Iterable[Run]) -> Table:
    """The runs with a dead letter that still waits for a person."""
    table = _table("Died, and why", "task", "for", "reason", "attempts", "error")
    for run in runs:
        if "open" in run.letters:
            table.add_row(
                escape(run.name), escape(run.subject), escape(run.reason), str(run.attempts), escape(run.error)
            )
    return table


def healed(outcomes: Iterable[Outcome]) -> Table:
    """The dead letters after the requeue."""
    table = _table("The dead letters afterwards", "task", "for", "letter", "run", "what exists now", "")
    for outcome in outcomes:
        mark = "ok" if outcome.accepted else "NOT HEALED"
        cells = (outcome.task, outcome.subject, outcome.status, outcome.state, outcome.effects, mark)
        table.add_row(*map(escape, cells))
    return table


def unaccounted(found: Iterable[Difference]) -> Table:
    """The tasks on which the demo's own count and the database differ."""
    table = _table("Not accounted for", "task id", "task", "difference")
    for difference in found:
        table.add_row(escape(difference.task_id), escape(difference.name), escape(difference.text))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
