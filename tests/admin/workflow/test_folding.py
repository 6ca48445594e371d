"""What of a large workflow is shown."""

from hypothesis import given

from django_taskops.admin.workflow.folding import MAX_TILES, fold, tiles
from django_taskops.admin.workflow.graph import link
from django_taskops.admin.workflow.records import Record
from tests.admin.workflow.outlines import failed, outline, record, told
from tests.admin.workflow.test_graph import rows


def group_of(size: int, *failing: int) -> list[Record]:
    return [(failed if index in failing else record)(str(index), "", "g", index) for index in range(size)]


def test_a_dozen_members_are_shown_each() -> None:
    assert outline(group_of(12)) == f"group[{' | '.join(map(str, range(12)))}]"


def test_of_a_thousand_members_the_failed_ones_and_the_present_one_are_shown() -> None:
    records = [*group_of(1000, 7, 900), record("body", "999", "g")]

    assert outline(records, here="500") == "chord[7! | 500 | 900! | 997 SUCCESS] > body"


def test_of_many_failed_ones_the_first_are_named() -> None:
    failing = range(100, 200)

    assert outline(group_of(1000, *failing)) == "group[100! | 101! | 102! | 103! | 104! | 95 FAILURE | 900 SUCCESS]"


def test_a_branch_counts_as_its_worst_run() -> None:
    records = group_of(100)
    records += [failed("then", "50"), record("after", "51", state="STARTED")]

    assert outline(records) == "group[50 > then! | 1 STARTED | 98 SUCCESS]"


def test_of_a_long_chain_the_ends_the_failed_step_and_the_present_one_are_shown() -> None:
    chain = [record(str(number), str(number - 1)) for number in range(100)]
    chain[50] = failed("50", "49")

    assert outline(chain, here="70") == ("0 > 1 > 2 > 47 SUCCESS > 50! > 19 SUCCESS > 70 > 26 SUCCESS > 97 > 98 > 99")


def test_a_large_picture_stays_small_and_shows_the_present_run() -> None:
    """Ten chains of ten, each step of which has started ten others."""
    records = [record("start")]
    for lane in range(10):
        for step in range(10):
            name = f"{lane}-{step}"
            records.append(record(name, f"{lane}-{step - 1}" if step else "start"))
            records += [record(f"{name}-{number}", name) for number in range(10)]
    flow = fold(link(records), "7-7-7")

    assert tiles(flow) <= MAX_TILES
    assert "7-7-7" in told(flow)


@given(rows())
def test_nothing_is_counted_twice_or_left_out(records: list[Record]) -> None:
    assert tiles(fold(link(records), "a")) == len(records)
