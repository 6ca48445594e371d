"""The shop's day as the demo tells it: run it, show what died, mend the causes, requeue, account for every task.

Import it after Django is set up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from celery import current_app
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db.models import QuerySet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from django_taskops.exceptions import TaskOpsError
from django_taskops.models import DeadLetter, TaskRun
from django_taskops.recovery import discard, requeue
from example_site import accounts, ledger, places, report
from example_site.accounts import Run
from example_site.ledger import Ledger
from example_site.processes import Processes
from example_site.shop import day
from example_site.shop.models import Invoice, Order, Product, Report

DAY_SECONDS = 120
DATABASE_SECONDS = 30
# Nobody can repair these here: whoever wrote the order has to send it again.
GIVEN_UP = {"MalformedOrder": "the buyer was asked to send the order again"}


@dataclass(slots=True, kw_only=True)
class Story:
    """One run of the demo; `trouble` collects what should not be."""

    console: Console
    processes: Processes
    ledger_file: Path
    earlier: frozenset[str] = frozenset()  # what a database that is used again knows from before
    trouble: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what an earlier demo left in the shop and in its queue. The history of tasks stays."""
        self.earlier = frozenset(TaskRun.objects.values_list("task_id", flat=True))
        current_app.control.purge()
        day.begin()

    def run_day(self) -> None:
        self.console.rule("The orders of the day")
        day.start_work()
        self._wait("Tasks of the day", self._settled, DAY_SECONDS)
        self._wait("Database", lambda: not self._differences(), DATABASE_SECONDS)
        runs = self.runs()
        if not any(run.trouble and run.state == "SUCCESS" for run in runs):
            self.trouble.append("no task got through by a retry: the samples were made so that some would")
        self.console.print(report.totals(runs), report.retried(runs), report.died(runs))

    def heal(self) -> None:
        """Mend the causes, decide on each open letter, and wait until the requeued ones have healed."""
        self.console.rule("Mending the causes")
        done = day.fix_causes()
        for sentence in done:
            self.console.print(f"- {sentence}", markup=False)
        letters = list(self._letters().filter(status="open").order_by("pk"))
        if not letters:
            self.trouble.append("no task died: the samples were made so that some would")
        for letter in letters:
            self._decide(letter, why="; ".join(done))
        self._wait("Requeued tasks", self._settled, DAY_SECONDS)
        self._wait("Letters", lambda: not self._letters().filter(status="requeued").exists(), DATABASE_SECONDS)
        self._show_healed(letters)

    def close(self) -> None:
        """Wait for a nightly report over all invoices, stop beat, and compare the demo's count with the database."""
        self.console.rule("Accounting for every task")
        self._wait("Nightly report", _reported, DAY_SECONDS)
        self.processes.stop("beat")
        self._wait("Last tasks", self._settled, DAY_SECONDS)
        self._wait("Database", lambda: not self._differences(), DATABASE_SECONDS)
        self._show_accounts()

    def runs(self) -> list[Run]:
        rows = TaskRun.objects.prefetch_related("attempts", "dead_letters").order_by("pk")
        return [_run(row) for row in rows if row.task_id not in self.earlier]

    def open_letters(self) -> int:
        return self._letters().filter(status="open").count()

    def _decide(self, letter: DeadLetter, *, why: str) -> None:
        """Requeue the letter, unless only somebody else can repair the cause."""
        admin = User.objects.get(username="admin")
        try:
            if reason := GIVEN_UP.get(_short(letter.run.exception_type)):
                discard(letter, by=admin, reason=reason)
            else:
                sent = requeue(letter, by=admin, reason=why)
                ledger.requeued(sent.task_id, letter.task_name)
        except TaskOpsError as error:
            self.trouble.append(f"{letter}: {error}")

    def _letters(self) -> QuerySet[DeadLetter]:
        return DeadLetter.objects.exclude(task_id__in=self.earlier).select_related("run")

    def _ledger(self) -> Ledger:
        return Ledger.read(self.ledger_file)

    def _settled(self) -> bool:
        return not self._ledger().unsettled()

    def _differences(self) -> list[accounts.Difference]:
        return accounts.differences(self._ledger(), self.runs())

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        began = time.monotonic()
        with self._progress() as progress:
            line = progress.add_task(what)

            def shown() -> bool:
                counted = self._ledger()
                ended = sum(map(len, counted.ended.values()))
                progress.update(line, total=counted.published.total(), completed=ended)
                return condition()

            in_time = self.processes.wait_until(shown, seconds)
        took = time.monotonic() - began
        self.console.print(f"{what}: {'done' if in_time else 'NOT DONE'} after {took:.1f} s")
        if not in_time:
            self.trouble.append(f"{what.lower()}: not done within {seconds:g} seconds")

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    def _show_healed(self, letters: list[DeadLetter]) -> None:
        outcomes = [outcome(letter) for letter in letters]
        self.console.print(report.healed(outcomes))
        self.trouble += [f"{item.task} for {item.subject} did not heal" for item in outcomes if not item.accepted]

    def _show_accounts(self) -> None:
        counted, runs = self._ledger(), self.runs()
        found = accounts.differences(counted, runs)
        if found:
            self.console.print(report.unaccounted(found))
            self.trouble.append(f"{len(found)} task(s) not accounted for")
        ids, sends = len(counted.published), counted.published.total()
        known = sum(1 for run in runs if run.task_id in counted.published)
        waiting = sum(1 for run in runs if run.waits_upstream)
        self.console.print(
            f"{ids} tasks were published, in {sends} sends; the database has {known} of them, and {waiting} steps that "
            "wait behind a task that was given up."
        )


def outcome(letter: DeadLetter) -> report.Outcome:
    """What the letter, its run, the rest of its chain and the shop's files say now."""
    letter.refresh_from_db()
    run = TaskRun.objects.get(pk=letter.run_id)
    effects, complete = _effects(letter.task_name, _subject(run))
    resolved = letter.status == "resolved" and run.state == "SUCCESS" and complete
    given_up = letter.status == "discarded"
    return report.Outcome(
        task=letter.task_name,
        subject=_subject(run),
        status=letter.status,
        state=run.state,
        effects=GIVEN_UP[_short(run.exception_type)] if given_up else effects,
        accepted=resolved or given_up,
    )


def _effects(task_name: str, subject: str) -> tuple[str, bool]:
    """What exists now because of the task, and whether that is all there should be."""
    if task_name == "shop.resize_picture":
        product = Product.objects.get(sku=subject)
        exists = bool(product.thumbnail) and default_storage.exists(product.thumbnail.name or "")
        return ("thumbnail" if exists else "no thumbnail"), exists
    order = Order.objects.select_related("invoice").filter(number=subject).first()
    if order is None:
        return "no order", False
    invoice = hasattr(order, "invoice") and default_storage.exists(order.invoice.file.name or "")
    mail = order.confirmed_at is not None and _mailed(order)
    found = [name for name, exists in (("invoice", invoice), ("mail", mail)) if exists]
    return " and ".join(found) or "neither invoice nor mail", invoice and mail


def _mailed(order: Order) -> bool:
    subject = f"Subject: Order {order.number} is on its way\n"
    return any(subject in path.read_text() for path in places.mail().glob("*.log"))


def _reported() -> bool:
    newest = Report.objects.first()
    return newest is not None and newest.invoices == Invoice.objects.count()


def _run(row: TaskRun) -> Run:
    trouble = [
        _short(attempt.exception_type) or attempt.reason
        for attempt in row.attempts.all()
        if attempt.delivery != row.delivery
    ]
    return Run(
        task_id=row.task_id,
        name=row.task_name,
        subject=_subject(row),
        state=row.state,
        reason=row.reason,
        error=f"{_short(row.exception_type)}: {row.exception_message}",
        attempts=row.retries + 1,
        trouble=tuple(trouble),
        letters=tuple(letter.status for letter in row.dead_letters.all()),
    )


def _subject(row: TaskRun) -> str:
    return str(row.args[0]) if isinstance(row.args, list) and row.args else ""


def _short(exception_type: str) -> str:
    return exception_type.rpartition(".")[2]
