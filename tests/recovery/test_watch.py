"""Who has fallen silent, and what is no evidence of it."""

import pytest

from django_taskops.models import WorkerBeat
from django_taskops.recovery.reaper.watch import Watch

TIMEOUT = 60.0
STEP = 5.0


class Fleet:
    """Workers that beat every five seconds, as their rows tell, and one process that looks on."""

    def __init__(self) -> None:
        self.watch = Watch("own", TIMEOUT)
        self.now = 1000.0
        self.numbers = {"own": 1, "a": 1, "b": 1}

    def go_on(self, seconds: float, *, silent: tuple[str, ...] = (), looks: bool = True) -> None:
        """`silent` are those whose beats don't come through."""
        for _step in range(int(seconds / STEP)):
            self.now += STEP
            for boot in self.numbers.keys() - set(silent):
                self.numbers[boot] += 1
            if looks:
                self.look()

    def look(self) -> None:
        self.watch.look([WorkerBeat(boot_id=boot, number=number) for boot, number in self.numbers.items()], self.now)

    @property
    def silent(self) -> set[str]:
        return {boot for boot in (*self.numbers, "unknown") if self.watch.is_silent(boot)}

    def name(self, *boots: str) -> None:
        self.watch.name(boots)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_who_does_not_beat_for_the_timeout_is_silent(fleet: Fleet) -> None:
    fleet.go_on(120)
    assert fleet.silent == set()
    fleet.go_on(55, silent=("a",))
    assert "a" not in fleet.silent
    fleet.go_on(10, silent=("a",))
    assert fleet.silent == {"a"}
    assert fleet.watch.silence("a") == 65


def test_who_beats_again_is_not_silent_any_more(fleet: Fleet) -> None:
    fleet.go_on(120)
    fleet.go_on(70, silent=("a",))
    fleet.go_on(5)
    assert "a" not in fleet.silent


def test_nobody_is_judged_before_beats_have_come_through_for_the_timeout(fleet: Fleet) -> None:
    fleet.go_on(60, silent=("a", "b"))
    assert not fleet.watch.trusted
    assert fleet.silent == set()
    fleet.go_on(10, silent=("a", "b"))
    assert fleet.silent == {"a", "b"}


def test_while_no_beats_come_through_nobody_is_silent(fleet: Fleet) -> None:
    """An outage of the database, or of Redis: it silences the one that looks on as well."""
    fleet.go_on(120)
    fleet.go_on(300, silent=("own", "a", "b"))
    assert fleet.silent == set()
    fleet.go_on(10, silent=("b",))
    assert fleet.silent == set()
    fleet.go_on(60, silent=("b",))
    assert fleet.silent == {"b"}


def test_a_short_delay_is_no_outage_and_silences_nobody(fleet: Fleet) -> None:
    fleet.go_on(120)
    fleet.go_on(25, silent=("own", "a", "b"))
    fleet.go_on(5)
    assert fleet.watch.trusted
    assert fleet.silent == set()


def test_one_that_was_stopped_itself_begins_anew(fleet: Fleet) -> None:
    fleet.go_on(120)
    fleet.go_on(600, silent=("own", "a"), looks=False)
    fleet.go_on(5, silent=("a",))
    assert fleet.silent == set()
    fleet.go_on(65, silent=("a",))
    assert fleet.silent == {"a"}
    assert fleet.watch.silence("a") == 65


def test_rows_that_are_gone_are_forgotten(fleet: Fleet) -> None:
    fleet.go_on(120)
    del fleet.numbers["a"]
    fleet.go_on(5)
    fleet.numbers["a"] = 1
    fleet.go_on(5, silent=("a",))
    assert "a" not in fleet.silent


def test_one_that_only_others_have_named_is_silent_since_then(fleet: Fleet) -> None:
    """A worker may have started a task before its first beat comes through."""
    fleet.go_on(300)
    fleet.name("unknown")
    fleet.go_on(55)
    fleet.name("unknown")
    assert fleet.silent == set()
    fleet.go_on(5)
    assert fleet.silent == {"unknown"}
    fleet.name()
    fleet.go_on(5)
    assert fleet.silent == set()


def test_its_first_beat_is_a_sign_of_life(fleet: Fleet) -> None:
    fleet.go_on(300)
    fleet.name("c")
    fleet.go_on(55)
    fleet.numbers["c"] = 1
    fleet.go_on(50, silent=("c",))
    assert fleet.silent == set()
