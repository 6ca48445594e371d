"""docs/lifecycle.md says what the cases here show, no more and no less."""

from pathlib import Path

from tests.lifecycle.cases import CASES, STAGED, Ending

PAGE = Path(__file__).parents[2] / "docs" / "lifecycle.md"


def test_the_page_says_what_is_shown() -> None:
    lines = PAGE.read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    told = {name: cells for name, *cells in rows if name != "how it ends"}

    assert {name: _without_what_celery_says(cells) for name, cells in told.items()} == {
        name: _cells(ending) for name, ending in {**CASES, **STAGED}.items()
    }
    assert all(celery for celery, *_ in told.values())


def _without_what_celery_says(cells: list[str]) -> list[str]:
    return [cell.strip("`") for cell in cells[1:]]


def _cells(ending: Ending) -> list[str]:
    return [ending.state, ending.reason, str(ending.starts), "yes" if ending.letter else "no"]
