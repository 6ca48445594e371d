"""Where things stand in the picture, and how much of a name there is room for."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_taskops.admin.workflow import across, down
from django_taskops.admin.workflow.fitting import fit, fit_name
from django_taskops.admin.workflow.folding import NEVER_RAN, SEVERITY
from django_taskops.admin.workflow.picture import SIGNS, TILE_HEIGHT, Picture, PlacedFrame, PlacedTile
from django_taskops.admin.workflow.tiles import COUNTED, NEVER_RAN_TONE, Frame, Row, Tile
from django_taskops.states import TaskState

TILE = Tile(name="shop.price", status="Succeeded")
NEVER = Tile(name="shop.mail", status="Never ran", tone=NEVER_RAN_TONE)

Draw = Callable[[Row], Picture]
draws = pytest.mark.parametrize("draw", [across.draw, down.draw])

tile_or_frame = st.recursive(
    st.just(TILE),
    lambda parts: st.builds(
        Frame,
        label=st.sampled_from(["", "Group of 2 members"]),
        lanes=st.lists(st.lists(parts, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=12,
)


@draws
@given(row=st.lists(tile_or_frame, min_size=1, max_size=4).map(tuple))
def test_no_tile_covers_another_and_all_are_in_the_picture(draw: Draw, row: Row) -> None:
    picture = draw(row)

    assert len(picture.tiles) == _number_of_tiles(row)
    for place, tile in enumerate(picture.tiles):
        assert tile.x >= 0
        assert tile.y >= 0
        assert tile.x + tile.width <= picture.width
        assert tile.y + TILE_HEIGHT <= picture.height
        assert not any(_overlap(tile, other) for other in picture.tiles[place + 1 :])


@draws
@given(row=st.lists(tile_or_frame, min_size=1, max_size=4).map(tuple))
def test_a_frame_lies_behind_those_in_it(draw: Draw, row: Row) -> None:
    frames = draw(row).frames

    for place, frame in enumerate(frames):
        assert not any(_holds(other, frame) for other in frames[place + 1 :])


@draws
def test_what_leads_to_what_never_ran_is_dashed(draw: Draw) -> None:
    group = Frame(label="Group of 2 members", lanes=((NEVER,), (NEVER,)))

    assert [line.dashed for line in draw((TILE, TILE)).lines] == [False]
    assert [line.dashed for line in draw((TILE, NEVER)).lines] == [True]
    assert all(line.dashed for line in draw((TILE, group)).lines)


@draws
def test_nothing_leads_to_what_stands_apart(draw: Draw) -> None:
    assert draw((Frame(label="", lanes=((TILE,), (TILE,)), apart=True),)).lines == []


def test_a_narrow_picture_of_nested_groups_fits_a_phone() -> None:
    group = Frame(label="Chord of 2 members", lanes=((TILE, TILE), (TILE,)))
    nested = Frame(label="Chord of 2 members", lanes=((group, TILE), (TILE,)))

    assert down.draw((TILE, nested, TILE)).width <= 320


def test_of_a_dotted_name_the_end_is_kept() -> None:
    assert fit_name("shop.orders.tasks.write_invoice", 150) == "…tasks.write_invoice"
    assert fit_name("shop.write_invoice", 150) == "shop.write_invoice"


@given(st.text(max_size=1000), st.integers(20, 300))
def test_a_text_of_any_length_fits(name: str, room: int) -> None:
    assert len(fit_name(name, room)) <= room / 4 + 1
    assert fit(name, 1000) == name or len(name) > 900


def test_each_status_has_words_a_sign_and_a_place() -> None:
    statuses = {*TaskState.values, NEVER_RAN}

    assert set(SIGNS) == set(COUNTED) == set(SEVERITY) == statuses


def _number_of_tiles(row: Row) -> int:
    return sum(sum(map(_number_of_tiles, part.lanes)) if isinstance(part, Frame) else 1 for part in row)


def _overlap(one: PlacedTile, other: PlacedTile) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + TILE_HEIGHT
        and other.y < one.y + TILE_HEIGHT
    )


def _holds(one: PlacedFrame, other: PlacedFrame) -> bool:
    return (
        one.x < other.x
        and one.y < other.y
        and one.x + one.width > other.x + other.width
        and one.y + one.height > other.y + other.height
    )
