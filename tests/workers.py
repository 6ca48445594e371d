"""Real worker processes for the tests, and a look into the queues they read."""

import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import pytest
import redis
from amqp import Message as RawMessage
from amqp.exceptions import NotFound
from celery import current_app
from django.conf import settings
from django.db import connections
from kombu import Connection, Message, Queue

from django_taskops.journal.spool.folder import unread
from example_site.embedded import die_with_parent, postgres_database
from example_site.embedded_mariadb import mysql_database

T = TypeVar("T")

POLL_SECONDS = 0.02
EVENTUAL_SECONDS = 60  # a deadline, which costs nothing where all is well; machines may be slow
START_SECONDS = 60
STOP_SECONDS = 10
DRAIN = "taskops_drain"
running: list["Worker"] = []


def eventually(predicate: Callable[[], T | None], timeout: float = EVENTUAL_SECONDS, message: str = "") -> T:
    """Polls until the predicate returns something true, and returns that.

    An AssertionError or a missing row counts as "not yet". Fails with the last value or error after `timeout` seconds.
    """
    from django.core.exceptions import ObjectDoesNotExist

    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            last = value = predicate()
            if value:
                return value
        except (AssertionError, ObjectDoesNotExist) as error:
            last = error
        if time.monotonic() > deadline:
            pytest.fail(f"expected {message or _source(predicate)} within {timeout} s, last saw: {last!r}")
        time.sleep(POLL_SECONDS)


def _source(predicate: Callable[[], object]) -> str:
    code = predicate.__code__ if hasattr(predicate, "__code__") else None
    return f"{Path(code.co_filename).name}:{code.co_firstlineno} to hold" if code else repr(predicate)


@dataclass(frozen=True, slots=True)
class BrokerQueue:
    """What waits in one queue of the broker, a Redis, without consuming it."""

    name: str
    url: str = field(default_factory=lambda: str(settings.CELERY_BROKER_URL), repr=False)

    def __len__(self) -> int:
        return len(self.messages())

    def __bool__(self) -> bool:
        return True  # an empty queue is still a queue

    def messages(self) -> list[dict[str, Any]]:
        """The raw messages (`headers`, `properties`, `body` in base64), next to be consumed first."""
        with self._client() as client:
            keys = sorted(client.scan_iter(match=f"{self.name}*", _type="list"))  # one for each priority
            return [json.loads(raw) for key in keys for raw in reversed(client.lrange(key, 0, -1))]

    def task_ids(self) -> list[str]:
        return [message["headers"]["id"] for message in self.messages()]

    def drop(self) -> None:
        """Empties it."""
        with self._client() as client:
            for key in client.scan_iter(match=f"{self.name}*"):
                client.delete(key)

    def put(self, message: Mapping[str, Any]) -> None:
        """Delivers a raw message again, as a broker does after an acknowledgement was lost."""
        with self._client() as client:
            client.lpush(self.name, json.dumps(message))

    def remove(self) -> None:
        """Nothing of it stays in the broker. For a queue that nobody reads any more."""
        self.drop()

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


class RabbitQueue(BrokerQueue):
    """The same in a RabbitMQ, where nobody sees what a worker has fetched and not yet acknowledged."""

    __slots__ = ()

    def messages(self) -> list[dict[str, Any]]:
        """They are fetched and go back to their places, so that whoever fetches them next sees them as redelivered."""
        found = []
        with self._channel() as channel:
            fetch = Queue(self.name, channel=channel).get
            found += [_raw(message) for message in iter(fetch, None)]
        return found

    def drop(self) -> None:
        with self._channel() as channel:
            channel.queue_purge(self.name)

    def put(self, message: Mapping[str, Any]) -> None:
        with self._channel() as channel:
            properties = {name: value for name, value in message["properties"].items() if name != "delivery_info"}
            raw = RawMessage(b64decode(message["body"]), application_headers=message["headers"], **properties)
            channel.basic_publish(raw, exchange="", routing_key=self.name)

    def remove(self) -> None:
        with self._channel() as channel:
            channel.queue_delete(self.name)
            channel.exchange_delete(self.name)

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """What the block fetches and does not acknowledge goes back. It ends early where there is no such queue."""
        with suppress(NotFound), Connection(self.url) as connection:
            channel: Any = connection.channel()
            yield channel
            channel.close()


def _raw(message: Message) -> dict[str, Any]:
    """As kombu writes it into a list of Redis."""
    body: Any = message.body
    routed = {name: message.delivery_info[name] for name in ("exchange", "routing_key")}
    properties = {name: value for name, value in message.properties.items() if name != "application_headers"}
    return {
        "body": b64encode(body.encode() if isinstance(body, str) else bytes(body)).decode(),
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
        "headers": dict(message.headers),
        "properties": {**properties, "delivery_info": routed},
    }


def broker_client() -> redis.Redis:
    return redis.Redis.from_url(settings.CELERY_BROKER_URL)


@contextmanager
def publishing_to(url: str) -> Iterator[None]:
    """In this process, the broker at `url` is the app's, to publish to and to speak with workers."""
    before = current_app.conf.broker_url
    _set_broker(url)
    try:
        yield
    finally:
        _set_broker(before)


def _set_broker(url: str) -> None:
    """kombu keeps a pool for each address; the app keeps the one that it has found first."""
    app: Any = current_app
    if app.conf.broker_url != url:
        app.conf["CELERY_BROKER_URL"] = url  # before 5.7 a name without prefix gives way to the settings
        app._pool = app.amqp._producer_pool = None


def hang_up(app: Any) -> None:
    """Closes the connections of the app's result backend in this thread, which is given another: dropped, a Redis would
    leave them to the garbage collector. Results that outlive it would connect it once more as they go."""
    if hasattr(app.backend, "result_consumer"):
        app.backend.result_consumer.stop()
        app.backend.result_consumer.cancel_for = lambda _task_id: None
        app.backend.client.connection_pool.disconnect()


def journal_streams(queue: str) -> list[str]:
    """The keys of the streams that the worker of that queue writes its events to."""
    return [f"{queue}:{{0}}:{name}" for name in ("events", "endings")]


def new_queue(broker: str = "") -> BrokerQueue:
    """At the broker of that URL, else at the tests' Redis."""
    return queue_at(broker or settings.CELERY_BROKER_URL, f"test-{uuid4().hex}")


def queue_at(broker: str, name: str) -> BrokerQueue:
    return RabbitQueue(name, broker) if broker.startswith("amqp") else BrokerQueue(name, broker)


@dataclass(slots=True, kw_only=True)
class Worker:
    """A `celery worker` in its own process group, so that nothing of it outlives the test."""

    name: str
    queue: BrokerQueue
    log: Path
    process: subprocess.Popen[bytes]
    asked_to_stop: bool = False

    @classmethod
    def start(
        cls,
        queue: BrokerQueue,
        log: Path,
        arguments: list[str],
        environment: Mapping[str, str],
        app: str = "tests.celery_app",
    ) -> "Worker":
        name = f"{queue.name}@tests"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", name, *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                cwd=Path(__file__).parents[1],
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
            )
        worker = cls(name=name, queue=queue, log=log, process=process)
        running.append(worker)
        try:
            worker.wait_for_log(f"{name} ready.", START_SECONDS)
        except BaseException:
            worker.stop()
            raise
        return worker

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """The processes of its pool."""
        return [child for child in self._descendants() if not _is_drain(child)]

    def drains(self) -> list[psutil.Process]:
        """The process that drains its journal, if it is its turn."""
        return [child for child in self._descendants() if _is_drain(child)]

    def _descendants(self) -> list[psutil.Process]:
        return list(psutil.Process(self.pid).children(recursive=True))

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def log_tail(self) -> str:
        return self.log_text()[-20_000:]

    def wait_for_log(self, text: str, timeout: float = EVENTUAL_SECONDS) -> None:
        def logged() -> bool:
            seen = text in self.log_text()
            if not seen and self.process.poll() is not None:
                pytest.fail(f"worker {self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            return seen

        eventually(logged, timeout, f"{text!r} in the log of {self.name}")

    def kill(self) -> None:
        """SIGKILL to the main process, its pool and its drain at once, as when a machine goes away."""
        drains = self.drains()
        os.killpg(self.pid, signal.SIGKILL)
        _end(drains)
        self.process.wait()

    def settle(self) -> None:
        """Empties its queue and waits until it is idle; stops it when that takes too long."""
        self.queue.drop()
        deadline = time.monotonic() + STOP_SECONDS
        while self.process.poll() is None and not self._is_idle():
            if time.monotonic() > deadline:
                self.stop()

    def _is_idle(self) -> bool:
        """It has nothing to do, and the journal of its queue holds nothing that would be written later."""
        with publishing_to(self.queue.url):
            inspect = current_app.control.inspect([self.name], timeout=2, limit=1)
            idle = all((asked() or {}).get(self.name) == [] for asked in (inspect.active, inspect.reserved))
        return idle and not journal_holds(self.queue.name)

    def ask_to_stop(self) -> None:
        """Once: the second SIGTERM would be a cold shutdown."""
        if self.process.poll() is None and not self.asked_to_stop:
            self.asked_to_stop = True
            self.process.terminate()

    def end(self) -> None:
        """Leaves nothing of it behind, and waits for nothing. Does nothing where it was stopped."""
        if self not in running:
            return
        running.remove(self)
        drains = []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # it starts no other from now on
            drains = self.drains()
        _end_group(self.pid)
        _end(drains)  # it would write into the tables of the next test
        self.process.wait()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """A warm shutdown, a SIGKILL when that takes longer than `timeout` seconds. Does nothing the second time."""
        if self not in running:
            return
        running.remove(self)
        drains = self.drains() if self.process.poll() is None else []
        self.ask_to_stop()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            _end_group(self.pid)
            _end(drains)  # after a cold shutdown it would write into the tables of the next test


def journal_holds(queue: str) -> bool:
    """Events of the worker of that queue wait: in the streams, in the broker's Redis or the result backend's, or in the
    spool that all tests share. They need not be applied in the order in which they happened."""
    for url in (settings.CELERY_BROKER_URL, settings.CELERY_RESULT_BACKEND):
        with redis.Redis.from_url(url) as client:
            if any(client.xlen(key) for key in journal_streams(queue)):
                return True
    return any(unread(folder) for folder in Path(os.environ["TASKOPS_TEST_SPOOL"]).glob(f"{queue}-*"))


def _is_drain(process: psutil.Process) -> bool:
    try:
        return DRAIN in process.cmdline()
    except psutil.Error:  # it ends just now
        return False


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    eventually(lambda: all(map(_has_ended, processes)), STOP_SECONDS, f"{processes} to end")


def _has_ended(process: psutil.Process) -> bool:
    """Or waits for its parent to take note, which for an orphan may be a second later."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass(slots=True, kw_only=True)
class WorkerStarter:
    """Starts workers on the databases that this test run created, and ends them all in `end_all`."""

    folder: Path
    started: list[Worker] = field(default_factory=list)

    def __call__(
        self,
        *,
        database: str | None = None,
        queue: BrokerQueue | None = None,
        queues: Sequence[str] = (),
        pool: str = "prefork",
        concurrency: int = 2,
        arguments: Sequence[str] = (),
        taskops: Mapping[str, Any] | None = None,
        celery: Mapping[str, Any] | None = None,
        extra_env: Mapping[str, str] | None = None,
        app: str = "tests.celery_app",
    ) -> Worker:
        """Returns when the worker is ready. It reads `queue` (else the test's own) and `queues`.

        `app` is where its Celery app is found. `taskops` and `celery` (keys in lower case) are settings for this
        worker only; both must fit into JSON. Its broker is that of its queue: for the test's own the one that `celery`
        names, else the one that the test has.
        """
        celery = celery or {}
        broker = celery.get("broker_url") or current_app.conf.broker_url
        queue = queue or queue_at(broker, os.environ["TASKOPS_TEST_QUEUE"])
        if queue.url != settings.CELERY_BROKER_URL:
            celery = {"broker_url": queue.url, **celery}
        options = ["--pool", pool, "--concurrency", str(concurrency), "--loglevel", "INFO"]
        options += ["--without-mingle", "--without-gossip"]  # a second of waiting for other workers at each start
        options += ["--queues", ",".join([queue.name, *queues]), *arguments]
        own = {"DATABASE": database} if database else {}
        environment = _worker_environment(queue, {**settings.TASKOPS, **own, **(taskops or {})}, celery)
        log = self.folder / f"worker-{len(self.started)}.log"
        worker = Worker.start(queue, log, options, {**environment, **(extra_env or {})}, app)
        self.started.append(worker)
        return worker

    def end_all(self) -> None:
        """Without a shutdown, which takes seconds: a test that is about one asks for it."""
        for worker in self.started:
            worker.end()

    def stop_all(self) -> None:
        """By a warm shutdown: what has begun comes to its end."""
        for worker in self.started:
            worker.ask_to_stop()
        for worker in self.started:
            worker.stop()


def _worker_environment(queue: BrokerQueue, taskops: Mapping[str, Any], celery: Mapping[str, Any]) -> dict[str, str]:
    """What makes tests.settings, read in another process, mean the databases that this test run created."""
    environment = {
        "TASKOPS_TEST_QUEUE": queue.name,
        "TASKOPS_TEST_SETTINGS": json.dumps(dict(taskops)),
        "TASKOPS_TEST_CELERY": json.dumps(dict(celery)),
        "TASKOPS_TEST_SQLITE": str(connections["sqlite"].settings_dict["NAME"]),
    }
    if connections["default"].vendor == "postgresql":
        name = str(connections["default"].settings_dict["NAME"])
        environment["DATABASE_URL"] = postgres_database(os.environ["DATABASE_URL"], name)
    if connections["mariadb"].vendor == "mysql":
        name = str(connections["mariadb"].settings_dict["NAME"])
        environment["MYSQL_URL"] = mysql_database(os.environ["MYSQL_URL"], name)
    return environment
