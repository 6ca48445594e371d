"""Any text is stored, and two ids never become one."""

from hypothesis import given
from hypothesis import strategies as st

from django_taskops.capture.text import storable, storable_id

ANY_TEXT = st.text(st.characters())  # lone surrogates and NUL included


@given(text=ANY_TEXT, limit=st.integers(1, 300))
def test_any_text_becomes_one_that_a_database_stores_within_the_limit(text: str, limit: int) -> None:
    stored = storable(text, limit)

    assert len(stored) <= limit
    assert "\x00" not in stored
    stored.encode("utf-8")


def test_what_is_cut_says_so() -> None:
    assert storable("x" * 300) == "x" * 254 + "…"
    assert storable("a\x00b\udce9") == "a\\x00b\\udce9"
    assert storable(None) == ""


def test_an_id_up_to_255_characters_stays_as_it_is() -> None:
    for task_id in ("a/b c", "x" * 255, "订单-1"):
        assert storable_id(task_id) == task_id


def test_longer_ids_that_differ_at_their_end_stay_apart() -> None:
    first, second = storable_id("x" * 300 + "1"), storable_id("x" * 300 + "2")

    assert len(first) == 255
    assert first != second
    assert storable_id("x" * 300 + "1") == first
