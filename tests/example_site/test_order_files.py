"""Order files, good and bad."""

import pytest

from example_site.shop.order_files import (
    COLUMNS,
    MalformedOrder,
    OrderedItem,
    OrderFile,
    Problem,
    parse_order,
    read_order_file,
)


def file_of(*lines: str) -> OrderFile:
    return read_order_file([",".join(COLUMNS), *lines])


def test_lines_of_one_order_become_one_order() -> None:
    content = file_of("A-1,Ann,a@example.com,MUG,2", "A-2,Bob,b@example.com,PEN,1", "A-1,Ann,a@example.com,TEA,3")
    order = parse_order("A-1", content.orders["A-1"])
    assert list(content.orders) == ["A-1", "A-2"]
    assert order.items == [OrderedItem(sku="MUG", quantity=2), OrderedItem(sku="TEA", quantity=3)]
    assert (order.buyer, order.email) == ("Ann", "a@example.com")


@pytest.mark.parametrize("number", ["", "../../etc", "A 1", "a-1"])
def test_a_line_without_an_order_number_is_reported_and_harms_nobody_else(number: str) -> None:
    content = file_of(f"{number},Ann,a@example.com,MUG,2", "A-2,Bob,b@example.com,PEN,1")
    assert list(content.orders) == ["A-2"]
    assert content.problems == [Problem(line=2, text=f"no order number: {number!r}")]


@pytest.mark.parametrize("quantity", ["three", "-1", "0", "1.5", "²"])
def test_a_quantity_must_be_a_positive_number(quantity: str) -> None:
    content = file_of(f"A-1,Ann,a@example.com,MUG,{quantity}")
    with pytest.raises(MalformedOrder) as raised:
        parse_order("A-1", content.orders["A-1"])
    assert raised.value.problems == [Problem(line=2, text=f"expected a quantity, got {quantity!r}")]


def test_every_bad_line_of_an_order_is_named() -> None:
    content = file_of("A-1,Ann,a@example.com,MUG", "A-1,,a@example.com,TEA,1")
    with pytest.raises(MalformedOrder) as raised:
        parse_order("A-1", content.orders["A-1"])
    assert str(raised.value) == "order A-1: line 2: nothing in column quantity; line 3: nothing in column buyer"


def test_more_cells_than_columns_are_ignored() -> None:
    content = file_of("A-1,Ann,a@example.com,MUG,2,and,more")
    assert parse_order("A-1", content.orders["A-1"]).items == [OrderedItem(sku="MUG", quantity=2)]
