"""The demo's tables, as text."""

from dataclasses import replace
from io import StringIO

from rich.console import Console
from rich.table import Table

from example_site import report
from example_site.accounts import Difference, Run
from example_site.report import Outcome

DONE = Run(task_id="1", name="shop.price_order", subject="A-1", state="SUCCESS", reason="")
RETRIED = replace(DONE, task_id="2", subject="A-2", attempts=3, trouble=("SupplierTimeout", "SupplierNonsense"))
DEAD = replace(
    DONE,
    task_id="3",
    subject="A-3",
    state="FAILURE",
    reason="exhausted",
    error="SupplierUnavailable: HTTP 503",
    letters=("superseded", "open"),
)
WAITING = replace(DONE, task_id="4", state="FAILURE", reason="upstream_failed", letters=())
RUNS = [DONE, RETRIED, DEAD, WAITING]
HEALED = Outcome(
    task="shop.price_order", subject="A-3", status="resolved", state="SUCCESS", effects="invoice", accepted=True
)


def lines(table: Table) -> list[list[str]]:
    """The cells of each row, as a log without colours shows them."""
    console = Console(file=StringIO(), width=200)
    console.print(table)
    text = console.file.getvalue() if isinstance(console.file, StringIO) else ""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


def test_each_task_is_counted_once_by_how_it_ended() -> None:
    assert lines(report.totals(RUNS)) == [["shop.price_order", "2", "1", "1", "1"]]


def test_only_what_got_through_is_shown_as_retried() -> None:
    assert lines(report.retried(RUNS)) == [["shop.price_order", "A-2", "3", "SupplierTimeout, SupplierNonsense"]]


def test_what_died_is_shown_with_its_reason_and_error() -> None:
    row = ["shop.price_order", "A-3", "exhausted", "1", "SupplierUnavailable: HTTP 503"]
    assert lines(report.died(RUNS)) == [row]


def test_a_letter_that_did_not_heal_stands_out() -> None:
    stuck = replace(HEALED, status="superseded", state="FAILURE", accepted=False)
    assert [row[-1] for row in lines(report.healed([HEALED, stuck]))] == ["ok", "NOT HEALED"]


def test_differences_are_listed_by_task_id() -> None:
    difference = Difference(task_id="7", name="shop.task", text="still STARTED")
    assert lines(report.unaccounted([difference])) == [["7", "shop.task", "still STARTED"]]


def test_text_of_a_task_is_not_read_as_markup() -> None:
    assert lines(report.died([replace(DEAD, error="[bold]x[/bold] [/]")]))[0][-1] == "[bold]x[/bold] [/]"
