"""How runs hang together: each shape is what a real worker leaves in the tables, see also tests/lifecycle."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_taskops.admin.workflow.graph import link
from django_taskops.admin.workflow.records import Node, Record
from tests.admin.workflow.outlines import failed, never, outline, record

SHAPES: dict[str, tuple[Sequence[Record], str]] = {
    "a chain": ([record("c", "b"), record("a"), record("b", "a")], "a > b > c"),
    "a chain whose second step failed": (
        [record("a"), failed("b", "a"), never("d", "b", 2), never("c", "b", 1)],
        "a > b! > (c) > (d)",
    ),
    "a group": ([record("b", "", "g", 1), record("a", "", "g", 0)], "group[a | b]"),
    "a chord": ([record("a", "", "g", 0), record("b", "", "g", 1), record("c", "b", "g")], "chord[a | b] > c"),
    "a chord with a failed member": (
        [record("a", "", "g", 0), failed("b", "", "g", 1), never("c", "b", 1, "g"), never("d", "b", 2)],
        "chord[a | b!] > (c) > (d)",
    ),
    "a chord in a chain": (
        [record("a"), record("b", "a", "g", 0), record("c", "a", "g", 1), record("d", "b", "g"), record("e", "d")],
        "a > chord[b | c] > d > e",
    ),
    "a chain in the header of a chord": (
        [record("a"), record("b", "a", "g", 0), record("c", "", "g", 1), record("d", "c", "g")],
        "chord[a > b | c] > d",
    ),
    "a failed chain in the header of a chord in a chain": (
        [
            record("start"),
            failed("a", "start"),
            never("b", "a", 1, "g", 0),
            record("c", "start", "g", 1),
            never("d", "a", 2, "g"),
            never("e", "a", 3),
        ],
        "start > chord[a! > (b) | c] > (d) > (e)",
    ),
    "a chord whose last step bears the group": (
        [record("a", "", "g", 0), record("b", "", "g", 1), record("c", "b"), record("d", "c", "g")],
        "chord[a | b] > c > d",
    ),
    "a group of chains, one of which failed": (
        [record("a"), record("b", "a", "g", 0), record("c"), failed("d", "c"), never("e", "d", 1, "g", 1)],
        "group[a > b | c > d! > (e)]",
    ),
    "a chord in the header of a chord": (
        [
            record("a", "", "in", 0),
            record("b", "", "in", 1),
            record("c", "b", "out", 0),
            record("d", "", "out", 1),
            record("e", "d", "out"),
        ],
        "chord[chord[a | b] > c | d] > e",
    ),
    "a chord in the header of a chord, failed": (
        [
            record("a", "", "in", 0),
            failed("b", "", "in", 1),
            never("c", "b", 1, "out", 0),
            record("d", "", "out", 1),
            never("e", "b", 2, "out"),
        ],
        "chord[chord[a | b!] > (c) | d] > (e)",
    ),
    "a chord whose body is a chord": (
        [record("a", "", "g", 0), record("b", "a", "h", 0), record("c", "a", "h", 1), record("d", "c", "g")],
        "chord[a] > chord[b | c] > d",
    ),
    "a chord that never ran": (
        [failed("a"), never("b", "a", 1, "", 0), never("c", "a", 2, "", 1), never("d", "a", 3), never("e", "a", 4)],
        "a! > chord[(b) | (c)] > (d) > (e)",
    ),
    "two callbacks": ([record("a"), record("b", "a", "g", 0), record("c", "a", "g", 1)], "a > group[b | c]"),
    "what a task has started": ([record("a"), record("b", "a"), record("c", "a"), record("d", "c")], "a > [b | c > d]"),
    "a retried member is its own parent": (
        [record("a", "a", "g", 0), record("b", "", "g", 1), record("c", "a", "g")],
        "chord[a | b] > c",
    ),
    "a replaced step is its own parent": (
        [record("a"), record("b", "b", root_id="a"), record("c", "b")],
        "a > b > c",
    ),
    "runs whose parents are gone": ([record("b", "a"), record("d", "c")], "[b | d]"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_is_told_from_the_rows(shape: str) -> None:
    records, expected = SHAPES[shape]

    assert outline(records) == expected
    assert outline(reversed(records)) == expected


def test_what_a_run_started_stands_in_the_order_in_which_it_was_sent() -> None:
    later, earlier = datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
    records = [record("a"), record("b", "a", enqueued_at=later), record("c", "a", enqueued_at=earlier)]

    assert outline(records) == "a > [c | b]"


IDS = st.sampled_from(["", "a", "b", "c", "d", "e", "f"])
GROUPS = st.sampled_from(["", "g", "h"])


@st.composite
def rows(draw: st.DrawFn) -> list[Record]:
    """Rows that contradict each other in any way."""
    ids = draw(st.lists(IDS.filter(bool), unique=True, min_size=1))
    return [
        record(
            task_id,
            draw(IDS),
            draw(GROUPS),
            draw(st.none() | st.integers(0, 3)),
            root_id=draw(IDS),
            seen=draw(st.integers(0, 3)),
            reason=draw(st.sampled_from(["", "upstream_failed"])),
        )
        for task_id in ids
    ]


@given(rows())
def test_each_run_has_one_place_whatever_the_rows_say(records: list[Record]) -> None:
    found = [node.record.task_id for node in _all(link(records)) if node.record]

    assert sorted(found) == sorted(record.task_id for record in records)


def _all(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _all(list(node.next))


def test_depth_is_no_danger() -> None:
    chain = [record(str(number), str(number - 1)) for number in range(5_000)]
    split = [record(f"x{number}", str(number)) for number in range(0, 5_000, 2)]
    nested = [record(f"n{number}", f"n{number - 1}", f"g{number}", 0) for number in range(3_000)]
    chords = [
        record(f"c{number}", f"c{number - number % 3 - 1}", f"k{number // 3}", None if number % 3 == 2 else number % 3)
        for number in range(3_000)
    ]

    for records in (chain, [*chain, *split], nested, chords):
        assert outline(records, here="2000")
