"""`make demo` and `make demo-check`: starts everything on loopback, runs the shop's day, and stops everything again."""

import argparse
import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from example_site import embedded, ledger, places
from example_site.processes import ProcessEnded, Processes, own_processes

if TYPE_CHECKING:
    from example_site.story import Story

PREFERRED_PORT = 8000
START_SECONDS = 60
# What a run leaves in its folder; the next one begins without it.
LEFT_BEHIND = ("db.sqlite3*", "beat-schedule*", "ledger", "inbox", "mail", "media")
# Enough for a table where the output is a file or a pipe that has no width.
PLAIN_WIDTH = 140


class AlreadyRunning(RuntimeError):
    """Another demo uses the same folder."""


def main() -> int:
    """0: all went well; 1: the check found something; 130: interrupted."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    _leave_when_asked()
    try:
        return _run(console, check=options.check)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    except (AlreadyRunning, ProcessEnded, embedded.ServiceUnavailable) as error:
        console.print(str(error), markup=False)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="example_site.demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="heal what died, account for every task, and end")
    return parser.parse_args()


def _leave_when_asked() -> None:
    # SIGINT too: a shell starts what runs in its background with that one ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup asks
        signal.signal(signal.SIGHUP, _leave)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run(console: Console, *, check: bool) -> int:
    folder = places.data() / "check" if check else places.data()
    with _alone_in(folder), embedded.redis_server(folder) as redis_url, own_processes(folder) as processes:
        _clear(folder)
        address = f"http://127.0.0.1:{_free_port(0 if check else PREFERRED_PORT)}/"
        _set_environment(folder, redis_url, address)
        password = _prepare_site()
        story = _story(console, processes, folder)
        _start_everything(console, processes, address)
        story.run_day()
        return _check(story) if check else _serve(story, address, password)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"Another demo runs in {folder}: stop it first.") from None
        yield


def _clear(folder: Path) -> None:
    for path in [path for pattern in LEFT_BEHIND for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _free_port(preferred: int) -> int:
    with socket.socket() as probe:
        # As the web server will: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _set_environment(folder: Path, redis_url: str, address: str) -> None:
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "example_site.settings",
        "EXAMPLE_SITE_DATA": str(folder.resolve()),
        "EXAMPLE_SITE_SECRET_KEY": secrets.token_urlsafe(40),
        "EXAMPLE_SITE_SUPPLIER_URL": f"{address}supplier/",
        "REDIS_URL": redis_url,
        ledger.VARIABLE: str((folder / "ledger").resolve()),
    }


def _prepare_site() -> str:
    """The password of the login that may do everything."""
    import django
    from django.core.management import call_command

    django.setup()
    from example_site import celery  # noqa: F401 shared tasks publish through the current app: this one

    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User

    password = secrets.token_urlsafe(9)
    admin, _ = User.objects.get_or_create(username="admin", defaults={"is_staff": True, "is_superuser": True})
    admin.set_password(password)
    admin.save()
    return password


def _story(console: Console, processes: Processes, folder: Path) -> "Story":
    from example_site.story import Story

    story = Story(console=console, processes=processes, ledger_file=folder / "ledger")
    story.begin()
    return story


def _start_everything(console: Console, processes: Processes, address: str) -> None:
    port = address.rstrip("/").rpartition(":")[2]
    celery = ("-m", "celery", "--app", "example_site.celery")
    processes.start("web", "-m", "example_site.manage", "runserver", "--noreload", f"127.0.0.1:{port}")
    processes.start("worker", *celery, "worker", "--pool=prefork", "--concurrency=2", "--loglevel=INFO")
    processes.start("beat", *celery, "beat", "--pidfile=", "--loglevel=INFO")
    with console.status("Starting the web server, a worker with two processes, and beat"):
        ready = processes.wait_until(lambda: _answers(f"{address}supplier/") and _worker_answers(), START_SECONDS)
    if not ready:
        raise embedded.ServiceUnavailable(f"Expected the site and its worker to answer within {START_SECONDS} seconds.")
    console.print(f"The shop runs; its logs are in {processes.folder}", markup=False, soft_wrap=True)


def _answers(url: str) -> bool:
    with suppress(URLError, OSError), build_opener(ProxyHandler({})).open(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _worker_answers() -> bool:
    from celery import current_app

    return bool(current_app.control.ping(timeout=0.5))


def _check(story: "Story") -> int:
    story.heal()
    story.close()
    if not story.trouble:
        story.console.print("[bold green]Every task is accounted for, and what could heal has healed.[/]")
        return 0
    for sentence in story.trouble:
        story.console.print(f"- {sentence}", markup=False)
    story.console.print(f"Logs: {story.processes.folder}", markup=False, soft_wrap=True)
    story.console.print("[bold red]The check failed.[/]")
    return 1


def _serve(story: "Story", address: str, password: str) -> int:
    lines = (
        f"Admin        {address}admin/",
        f"Orders       {address}",
        f"Login        admin, password {password}",
        f"Dead letters {story.open_letters()} are open. Mend the causes with the button at the end of the page of",
        "             orders, then requeue them in the admin.",
        "Ctrl-C stops everything.",
    )
    story.console.print(Panel(escape("\n".join(lines)), title="The demo is ready", expand=False))
    with suppress(KeyboardInterrupt):
        while True:
            story.processes.check()
            time.sleep(0.5)
    story.console.print("Stopping.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
