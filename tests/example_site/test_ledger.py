"""The file that all processes of the demo write."""

import multiprocessing
from pathlib import Path

import pytest
from celery.signals import after_task_publish, task_postrun

from example_site import ledger
from example_site.ledger import Ledger

WRITERS, LINES = 4, 200


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "ledger"
    monkeypatch.setenv(ledger.VARIABLE, str(file))
    return file


def test_a_ledger_that_nobody_wrote_is_empty(path: Path) -> None:
    assert not Ledger.read(path).published


def test_what_is_appended_is_read_again(path: Path) -> None:
    ledger._published("shop.task", headers={"id": "1"})
    ledger._ended(task_id="1", state="RETRY")
    ledger._published("shop.task", headers={"id": "1"})
    ledger._ended(task_id="1", state=None)
    read = Ledger.read(path)
    assert (read.names, read.published, read.ended) == ({"1": "shop.task"}, {"1": 2}, {"1": ["RETRY", "-"]})
    assert read.verdict("1") is None


def test_lines_of_several_processes_do_not_mix(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert Ledger.read(path).published == {str(number): LINES for number in range(WRITERS)}


def _write(number: int) -> None:
    for _ in range(LINES):
        ledger._published("shop.task", headers={"id": str(number)})


def test_nothing_is_recorded_unless_the_demo_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ledger.VARIABLE, raising=False)
    before = len(after_task_publish.receivers or ()), len(task_postrun.receivers or ())
    ledger.connect()
    assert (len(after_task_publish.receivers or ()), len(task_postrun.receivers or ())) == before
