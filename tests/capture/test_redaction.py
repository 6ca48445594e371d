"""Values for display: secrets masked, everything storable, nothing raises."""

import json
import time
from collections import deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from typing import Any, NoReturn

import pytest
from celery import shared_task
from django.contrib.auth.models import User
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from django_taskops.capture.redaction import MASK, Parameters, display, display_args, parameters_of, within

WEIRD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals()
    | st.datetimes(),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters()) | st.integers(), children),
    max_leaves=30,
)


@given(value=WEIRD)
def test_any_value_becomes_strict_json_without_nul(value: Any) -> None:
    text = json.dumps(display(value), allow_nan=False, ensure_ascii=False)

    assert "\\u0000" not in text
    text.encode("utf-8")


@pytest.mark.parametrize(
    "key", ["password", "PASSWORD", "db-password", "apiKey", "X-Api-Key", "session_id", "cardNumber", "pwd"]
)
def test_a_key_is_secret_by_a_part_of_its_name_at_any_depth(key: str) -> None:
    assert display([{"order": {key: "hunter2", "sku": "A1"}}]) == [{"order": {key: MASK, "sku": "A1"}}]


def test_positional_arguments_are_masked_by_the_signature_of_the_task() -> None:
    @shared_task(name="tests.charge")
    def charge(order: int, card_number: str, *tokens: object) -> None: ...

    assert display_args([7, "4111", "extra"], parameters_of(charge)) == [7, MASK, MASK]


def with_database(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def injected(*args: object) -> None:
        function("db", *args)

    return injected


def test_behind_a_decorator_that_adds_an_argument_no_place_can_be_trusted() -> None:
    @shared_task(name="tests.login")
    @with_database
    def login(db: str, password: str, user: str) -> None: ...

    @shared_task(name="tests.rename")
    @with_database
    def rename(db: str, old: str, new: str) -> None: ...

    assert display_args(["hunter2", "li"], parameters_of(login)) == [MASK, MASK]
    assert display_args(["a", "b"], parameters_of(rename)) == ["a", "b"]


def test_pairs_and_json_in_a_text_are_looked_into() -> None:
    assert display([["Authorization", "Bearer x"], ["Accept", "text"]]) == [["Authorization", MASK], ["Accept", "text"]]
    assert display('{"password": "hunter2", "n": 1}') == '{"password": "[redacted]", "n": 1}'
    assert display(' {"password": cut') == MASK
    assert display('{"note": "x"}', sensitive=("note",)) == '{"note": "[redacted]"}'


@pytest.mark.django_db
def test_a_queryset_is_named_and_not_asked(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert display([User.objects.all()]) == ["<QuerySet>"]


@pytest.mark.alone
def test_rendering_takes_no_longer_than_its_budget_however_slow_the_values_are() -> None:
    class Slow:
        def __repr__(self) -> str:
            deadline = time.monotonic() + 0.02
            while time.monotonic() < deadline:
                pass
            return "slow"

    started = time.monotonic()
    shown = display([Slow() for _ in range(500)])

    assert time.monotonic() - started < 0.5
    assert isinstance(shown, list)
    assert (shown[0], shown[-1]) == ("slow", "… 1 more")
    assert display(deque(range(10**6))) == "<deque of 1000000>"


def test_what_takes_its_time_beyond_the_budget_is_left_out_and_counted() -> None:
    shown = display(Slow())

    assert isinstance(shown, dict)
    assert len(shown) < 100
    assert shown["…"] == f"{10**9 - len(shown) + 1} more"
    assert display([Slow(), Slow(), 7, {"a": 1}])[1:] == ["<Slow>", 7, {"a": 1}]  # type: ignore[index]


class Slow(Mapping[int, int]):
    """Each look into it takes a millisecond."""

    def __getitem__(self, key: int) -> int:
        deadline = time.monotonic() + 0.001
        while time.monotonic() < deadline:
            pass
        return key

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return 10**9


def test_secrets_and_positional_arguments_count_as_other_values_do() -> None:
    many = list(range(100_000))

    @shared_task(name="tests.unlock")
    @with_database
    def unlock(db: str, password: str) -> None: ...

    assert len(json.dumps(display({f"session:{n}": n for n in many}))) < 20_000
    assert display_args(many, Parameters())[499:] == [499, "… 99500 more"]
    assert display_args(many, parameters_of(unlock))[499:] == [MASK, "… 99500 more"]


def test_declared_names_are_masked_exactly() -> None:
    assert display({"note": "secret plan", "notes": 1}, sensitive=("note",)) == {"note": MASK, "notes": 1}


def test_the_projects_patterns_replace_the_default_ones(settings: Settings) -> None:
    settings.TASKOPS = {"REDACT": ["salary"]}

    assert display({"salary_2026": 1, "password": "x"}) == {"salary_2026": MASK, "password": "x"}


@dataclass
class Customer:
    name: str
    password: str


def test_objects_are_shown_by_their_fields_or_not_at_all_where_their_text_speaks_of_a_secret() -> None:
    class Opaque:
        def __repr__(self) -> str:
            return "Opaque(token='abc')"

    point = namedtuple("point", "x secret")  # noqa: PYI024

    assert display(Customer("Li", "hunter2")) == {"name": "Li", "password": MASK}
    assert display(point(1, 2)) == {"x": 1, "secret": MASK}
    assert display(Opaque()) == f"<Opaque: {MASK}>"


def test_a_value_whose_own_code_raises_is_named_instead() -> None:
    class Broken:
        def __repr__(self) -> NoReturn:
            raise RuntimeError("no text")

    assert display({"x": Broken()}) == {"x": "<Broken: RuntimeError while it was rendered>"}


def test_an_object_that_does_not_even_say_its_class_is_named_instead() -> None:
    def bound_class(_self: object) -> NoReturn:
        raise RuntimeError("outside of a request")

    unbound = type("Unbound", (), {"__class__": property(bound_class)})

    assert display([unbound()]) == ["<Unbound: RuntimeError while it was rendered>"]


def test_a_text_like_json_that_is_nested_too_deeply_is_masked_where_it_speaks_of_a_secret() -> None:
    deep = "[" * 100_000

    assert display(deep + '"token"') == MASK
    assert display({"text": deep}) == {"text": "[" * 1000 + "… (99,000 more characters)"}


def test_large_values_are_cut_and_say_so() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)

    assert display("x" * 10_000_000) == "x" * 1000 + "… (9,999,000 more characters)"
    assert display(b"\x00" * 10) == "<10 bytes>"
    assert display(10**5000) == "<int of 16610 bits>"
    assert len(json.dumps(display(list(range(100_000))))) < 10_000
    assert len(json.dumps(display({str(n): n for n in range(100_000)}))) < 20_000
    assert json.dumps(display(cyclic))


def test_times_and_numbers_are_text_that_people_read() -> None:
    assert display(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02 00:00:00+00:00"
    assert display(Decimal("1.10")) == "1.10"
    assert display(float("nan")) == "nan"


def test_a_result_within_its_limit_stays_structured() -> None:
    assert within({"a": 1}, 100) == {"a": 1}
    assert within(["x" * 200], 10) == '["xxxxx…'
    assert within("订" * 100, 10) == "订订…"
