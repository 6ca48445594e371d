"""Secrets behind tokens: nothing of them is seen, and everything comes back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_taskops.capture.redaction import Parameters, Secrets
from django_taskops.recovery.editing.masking import MAX_DEPTH, BadToken, Masks, Misplaced, TooDeep, Vault, reveal
from django_taskops.recovery.editing.written_json import canonical, read, written

SECRETS = Secrets(("password", "token", "authorization"), frozenset({"card"}))
NAMES = st.one_of(
    st.sampled_from(["password", "Pass-Word", "card", "note", "", "[redacted 1]", "authorization"]), st.text()
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["[redacted]", "[redacted 1]", "x [redacted 2] y", '{"password": 1}', "password", "\ud800", "\0"]),
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=20)
PARAMETERS = st.builds(
    Parameters, names=st.lists(NAMES, max_size=3), surplus=NAMES.filter(bool) | st.just(""), trusted=st.booleans()
)
MASKS = st.builds(Masks, secrets=st.just(SECRETS), parameters=PARAMETERS, all_secret=st.booleans())


@given(MASKS, st.lists(VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_hidden_comes_back_as_it_was(masks: Masks, args: list[Any], kwargs: dict[str, Any]) -> None:
    vault = Vault()
    shown: list[Any] = [masks.args(args, vault), masks.kwargs(kwargs, vault)]

    assert canonical(reveal(shown, vault)) == canonical([args, kwargs])
    assert canonical(reveal(read(written(shown)), vault)) == canonical([args, kwargs])


@given(MASKS, st.lists(VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_was_not_touched_is_as_it_was_shown(masks: Masks, args: list[Any], kwargs: dict[str, Any]) -> None:
    vault = Vault()
    shown: list[Any] = [masks.args(args, vault), masks.kwargs(kwargs, vault)]
    count = len(vault.hidden)
    again = [masks.args(shown[0], vault, known=True), masks.kwargs(shown[1], vault, known=True)]

    assert canonical(again) == canonical(shown)
    assert len(vault.hidden) == count


@given(VALUES, st.sampled_from(["password", "PASSWORD", "user_password_2", "card"]), VALUES)
def test_no_secret_is_seen(around: Any, name: str, filler: Any) -> None:
    secret = {name: ["s3cr3t-value", filler]}
    vault = Vault()
    shown = Masks(secrets=SECRETS).kwargs(
        {"a": [around, secret], "b": ["Authorization", "s3cr3t-value"], "c": json.dumps({"x": secret})}, vault
    )

    assert "s3cr3t-value" not in written(shown)


@given(VALUES)
def test_what_is_written_is_printable_and_reads_as_it_was(value: Any) -> None:
    text = written(value)

    assert all(character == "\n" or character.isprintable() for character in text)
    text.encode()
    assert canonical(read(text)) == canonical(value)


def masked(value: dict[str, Any]) -> tuple[Masks, Vault, dict[str, Any]]:
    masks, vault = Masks(secrets=SECRETS), Vault()
    return masks, vault, masks.kwargs(value, vault)


def test_a_token_stands_for_its_value_where_it_is_moved() -> None:
    masks, vault, shown = masked({"password": "one", "token": {"deep": 2}, "note": "seen"})
    assert shown == {"password": "[redacted 1]", "token": "[redacted 2]", "note": "seen"}
    moved = {"token": shown["password"], "deeper": {"api_password": [shown["token"], "new"]}}

    again = masks.kwargs(moved, vault, known=True)
    assert again == {"token": "[redacted 1]", "deeper": {"api_password": "[redacted 3]"}}
    assert reveal(again, vault) == {"token": "one", "deeper": {"api_password": [{"deep": 2}, "new"]}}


@pytest.mark.parametrize(
    "typed", ["[redacted 9]", "[redacted]", "x [redacted 1]", "[redacted 1] ", "[redacted 01]", "[redacted x]"]
)
def test_what_only_looks_like_a_token_is_an_error(typed: str) -> None:
    masks, vault, _shown = masked({"password": "one"})
    for place in ("note", "password"):
        with pytest.raises(BadToken):
            masks.kwargs({place: typed}, vault, known=True)
        with pytest.raises(BadToken):
            masks.kwargs({place: [{"x": typed}]}, vault, known=True)


def test_a_secret_is_not_had_by_moving_its_token_to_where_values_are_seen() -> None:
    masks, vault, shown = masked({"password": "one"})
    for place in ({"note": shown["password"]}, {"note": [shown["password"]]}, {"x": ["password", 1, "[redacted 1]"]}):
        with pytest.raises(Misplaced):
            masks.kwargs(place, vault, known=True)
    assert masks.kwargs({"pair": ["password", shown["password"]]}, vault, known=True)


def test_a_guess_of_a_secret_does_not_tell_whether_it_is_right() -> None:
    masks, vault, _shown = masked({"password": "one"})

    assert masks.kwargs({"password": "one"}, vault, known=True) == {"password": "[redacted 2]"}
    assert masks.kwargs({"password": "two"}, vault, known=True) == {"password": "[redacted 3]"}


def test_text_that_is_masked_for_its_look_may_stand_anywhere() -> None:
    masks, vault, shown = masked({"log": '{"password": "x"}'})

    assert masks.kwargs({"note": [shown["log"]]}, vault, known=True) == {"note": ["[redacted 1]"]}


def test_what_is_nested_too_deeply_is_said_so() -> None:
    value: Any = 1
    for _level in range(MAX_DEPTH + 1):
        value = [value]
    for place in ("note", "password"):
        with pytest.raises(TooDeep):
            masked({place: value})
