"""Imports run one way: what pyproject.toml says, and what import-linter cannot see of packages that are not ours."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "django_taskops"


def test_the_import_contracts_hold() -> None:
    """In a process of its own: it sets up logging for itself, and takes ours away."""
    pytest.importorskip("importlinter.cli", reason="expected import-linter; install the extra `lint`")
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"

    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("module", sorted(PACKAGE.glob("capture/*.py")), ids=lambda path: path.name)
def test_capture_never_reaches_the_orm(module: Path) -> None:
    reached = [name for name in _imported(module) if name.startswith("django.db")]

    assert reached == []


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_conf_reads_the_setting(module: Path) -> None:
    if module == PACKAGE / "conf.py":
        return
    named = [
        node.lineno for node in ast.walk(_parsed(module)) if isinstance(node, ast.Attribute) and node.attr == "TASKOPS"
    ]

    assert named == []


def _imported(module: Path) -> Iterator[str]:
    for node in ast.walk(_parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))
