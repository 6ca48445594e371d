"""A test that measures time runs while no other does, and does not wait for ever for its turn."""

from concurrent.futures import ThreadPoolExecutor
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from threading import Event

import pytest

from tests.turns import turn
from tests.workers import eventually


def test_others_share_the_machine_and_one_alone_has_his_turn_before_those_who_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKOPS_TEST_TURNS", str(tmp_path))
    ended, order = [Event(), Event()], list[str]()

    def run(name: str, until: Event | None, *, alone: bool = False) -> None:
        with turn(alone=alone):
            order.append(name)
            assert until is None or until.wait(30)

    with ThreadPoolExecutor(4) as tests:
        both = [tests.submit(run, "shared", end) for end in ended]
        eventually(lambda: len(order) == 2)
        alone = tests.submit(run, "alone", None, alone=True)
        eventually(lambda: _is_held(tmp_path / "queue"))
        later = tests.submit(run, "later", None)
        for end in ended:
            assert not alone.done()
            end.set()
        for each in (*both, alone, later):
            each.result(30)

    assert order == ["shared", "shared", "alone", "later"]


def _is_held(file: Path) -> bool:
    with file.open("w") as opened:
        try:
            flock(opened, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return True
    return False
