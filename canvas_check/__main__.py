"""Takes the scenarios from the source distribution of the Celery that is installed here, runs them twice, compares."""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import redis

from example_site.embedded import redis_server

ROOT = Path(__file__).parents[1]
SCENARIOS = "t/integration/test_canvas.py"
LEAST = 100
"""Scenarios that must have run: far fewer are a sign that something is wrong with the run itself."""

FEWEST_RUNS = 500
"""Rows that the app must have written meanwhile."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="canvas_check", description=__doc__)
    parser.add_argument("--only", default="", help="a pytest -k expression: fewer scenarios, and no least number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="canvas-check-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sources = _sources(folder)
        chosen = [SCENARIOS, *(["-k", options.only] if options.only else [])]
        alone = _run(sources, folder / "alone", chosen, beside=False)
        beside = _run(sources, folder / "beside", chosen, beside=True)
        recorded = int((folder / "beside" / "recorded").read_text())
        if different := _different(alone, beside):
            print("once more, since some of them fail now and then by themselves:", *different, sep="\n", flush=True)
            alone |= _run(sources, folder / "alone again", different, beside=False)
            beside |= _run(sources, folder / "beside again", different, beside=True)
    return _judge(alone, beside, recorded, partly=bool(options.only))


def _sources(folder: Path) -> Path:
    """Celery's source distribution, unpacked."""
    wanted = f"celery=={version('celery')}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder), wanted], check=True)
    (archive,) = folder.glob("celery-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def _run(sources: Path, folder: Path, chosen: Sequence[str], *, beside: bool) -> dict[str, str]:
    """The outcome of each chosen scenario, by the name that pytest has for it. Celery itself is the installed one: that
    of its sources is moved out of the way."""
    folder.mkdir()
    packaged = sources / "celery"
    if packaged.exists():
        packaged.rename(sources / "celery_not_imported")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", *chosen, "-q", "-p", "no:cacheprovider", "-p", "celery.contrib.pytest"]
    command += ["-p", "no:django", "-p", "no:xdist", f"--junitxml={report}"]
    command += ["-p", "canvas_check.beside"] if beside else []
    with _open_redis(folder) as port:
        environment = {
            **os.environ,
            "TEST_BROKER": f"redis://127.0.0.1:{port}/1",
            "TEST_BACKEND": f"redis://127.0.0.1:{port}/2",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
            "CANVAS_CHECK_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join([str(sources), str(ROOT)]),
        }
        print(f"{'with' if beside else 'without'} the app:", flush=True)
        subprocess.run(command, cwd=sources, env=environment, check=False)
    return _outcomes(report)


@contextmanager
def _open_redis(folder: Path) -> Iterator[int]:
    """The port of a Redis without a password, which the scenarios expect; nobody but this machine can reach it."""
    with redis_server(folder) as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("requirepass", "")
        yield int(urlsplit(url).port or 0)


def _outcomes(report: Path) -> dict[str, str]:
    cases = ET.parse(report).getroot().iter("testcase")
    return {_name(case): _outcome(case) for case in cases}


def _name(case: ET.Element) -> str:
    _module, _, group = (case.get("classname") or "").partition("test_canvas.")
    return "::".join(filter(None, (SCENARIOS, group, case.get("name"))))


def _outcome(case: ET.Element) -> str:
    found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
    return "passed" if found is None else found.tag


def _different(alone: Mapping[str, str], beside: Mapping[str, str]) -> list[str]:
    return sorted(name for name in alone.keys() | beside.keys() if alone.get(name) != beside.get(name))


def _judge(alone: dict[str, str], beside: dict[str, str], recorded: int, *, partly: bool) -> int:
    different = _different(alone, beside)
    for name in different:
        print(f"{name}: {alone.get(name)} without the app, {beside.get(name)} with it")
    passed = sum(outcome == "passed" for outcome in beside.values())
    print(f"Celery {version('celery')}: {len(beside)} scenarios, {passed} passed, {recorded} runs recorded")
    print(f"{len(different)} differ with the app")
    enough = partly or (passed >= LEAST and recorded >= FEWEST_RUNS)
    if not enough:
        print(f"expected at least {LEAST} scenarios that pass and {FEWEST_RUNS} runs")
    return int(bool(different) or not enough)


if __name__ == "__main__":
    raise SystemExit(main())
