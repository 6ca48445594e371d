"""Order files as they come in: CSV with one line per product. Pure: no database, no tasks."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict

COLUMNS = ("order", "buyer", "email", "sku", "quantity")
ORDER_NUMBER = re.compile(r"[A-Z]{1,4}-\d{1,10}")


class Row(TypedDict):
    """One line of a file, as text; plain JSON, since it travels as a task's argument."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFile:
    """Rows by order number, in the file's order, and the lines that belong to no order."""

    orders: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedItem:
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedOrder:
    number: str
    buyer: str
    email: str
    items: list[OrderedItem]


class MalformedOrder(Exception):
    """An order has lines that nobody can read; only whoever wrote the file can mend it."""

    def __init__(self, number: str, problems: list[Problem]) -> None:
        # All arguments to the base: the exception is rebuilt from them in another process.
        super().__init__(number, problems)
        self.number = number
        self.problems = problems

    def __str__(self) -> str:
        lines = "; ".join(f"line {problem.line}: {problem.text}" for problem in self.problems)
        return f"order {self.number}: {lines}"


def read_order_file(lines: Iterable[str]) -> OrderFile:
    """Sort a file's lines by order, so that a bad line harms its own order only."""
    content = OrderFile()
    reader = csv.DictReader(lines, restkey="", restval="")
    for cells in reader:
        row = Row(line=reader.line_num, cells=_text_cells(cells))
        number = row["cells"]["order"]
        if ORDER_NUMBER.fullmatch(number):
            content.orders.setdefault(number, []).append(row)
        else:
            content.problems.append(Problem(line=row["line"], text=f"no order number: {number!r}"))
    return content


def _text_cells(cells: dict[str, str]) -> dict[str, str]:
    return {column: (cells.get(column) or "").strip() for column in COLUMNS}


def parse_order(number: str, rows: list[Row]) -> ParsedOrder:
    """Raises MalformedOrder, naming every bad line."""
    problems = [problem for row in rows if (problem := _problem(row))]
    if problems:
        raise MalformedOrder(number, problems)
    first = rows[0]["cells"]
    items = [OrderedItem(sku=row["cells"]["sku"], quantity=int(row["cells"]["quantity"])) for row in rows]
    return ParsedOrder(number=number, buyer=first["buyer"], email=first["email"], items=items)


def _problem(row: Row) -> Problem | None:
    cells = row["cells"]
    empty = [column for column in COLUMNS if not cells[column]]
    if empty:
        return Problem(line=row["line"], text=f"nothing in column {', '.join(empty)}")
    quantity = cells["quantity"]
    if not (quantity.isascii() and quantity.isdigit() and int(quantity) > 0):
        return Problem(line=row["line"], text=f"expected a quantity, got {quantity!r}")
    return None
