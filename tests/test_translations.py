"""What is shipped in Chinese: complete, compiled, and on the pages."""

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from gettext import GNUTranslations
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

import django_taskops
from django_taskops.journal.base import Backlog
from tests.admin.pages import Page
from tests.factories import (
    AuditEntryFactory,
    DeadLetterFactory,
    QuarantinedEntryFactory,
    RecorderFactory,
    TaskAttemptFactory,
    TaskRunFactory,
)
from tests.services import unavailable
from tests.sources import FakeSource, published, waiting
from tests.sources import entries as waiting_entries

PACKAGE = Path(django_taskops.__file__).parent
MESSAGES = Path("locale", "zh_Hans", "LC_MESSAGES")
LINE = re.compile(r'(?:(?P<keyword>msg\w+(?:\[\d\])?) )?(?P<text>".*")')
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%%|</?\w+>")


@dataclass(kw_only=True)
class Entry:
    """One message of a .po file, as its lines have it: keywords, and what a translator still has to look at."""

    texts: dict[str, str] = field(default_factory=dict)
    fuzzy: bool = False

    @property
    def id(self) -> tuple[str, str, str]:
        return (self.texts.get("msgctxt", ""), self.texts["msgid"], self.texts.get("msgid_plural", ""))

    @property
    def key(self) -> str:
        """What gettext looks it up by."""
        context, text, _plural = self.id
        return f"{context}\x04{text}" if context else text

    @property
    def source(self) -> str:
        """Chinese has one form, which stands for many."""
        return self.texts.get("msgid_plural") or self.texts["msgid"]

    @property
    def translated(self) -> str:
        return self.texts["msgstr[0]" if "msgid_plural" in self.texts else "msgstr"]


def read(catalogue: Path) -> Iterator[Entry]:
    """The messages in use, without the header."""
    for block in catalogue.read_text(encoding="utf-8").split("\n\n"):
        lines = block.splitlines()
        entry, keyword = Entry(fuzzy=any(line.startswith("#,") and "fuzzy" in line for line in lines)), ""
        for line in lines:
            if found := LINE.fullmatch(line):
                keyword = found["keyword"] or keyword
                entry.texts[keyword] = entry.texts.get(keyword, "") + ast.literal_eval(found["text"])
        if entry.texts.get("msgid"):
            yield entry


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return list(read(PACKAGE / MESSAGES / "django.po"))


def test_the_catalogue_has_the_strings_of_the_package_and_no_others(
    entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("xgettext") is None or shutil.which("msguniq") is None:
        unavailable("expected gettext on PATH; install it to look for strings that are not translated")
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("locale", "__pycache__"))
    (copy / "locale").mkdir()
    monkeypatch.chdir(copy)
    call_command("makemessages", locale=["zh_Hans"], verbosity=0)

    assert {entry.id for entry in entries} == {entry.id for entry in read(copy / MESSAGES / "django.po")}


def test_every_string_is_translated(entries: list[Entry]) -> None:
    assert len(entries) > 200
    assert [entry.id for entry in entries if entry.fuzzy or not entry.translated] == []


def test_placeholders_and_tags_stay_as_they_are(entries: list[Entry]) -> None:
    for entry in entries:
        assert sorted(PLACEHOLDER.findall(entry.translated)) == sorted(PLACEHOLDER.findall(entry.source)), entry.id


def test_the_catalogue_says_nothing_of_who_made_it_where() -> None:
    text = (PACKAGE / MESSAGES / "django.po").read_text(encoding="utf-8")

    assert not re.search(r"-Date:|-Translator:|FULL NAME|@|^#: /", text, re.MULTILINE)
    assert "#~" not in text


def test_what_is_compiled_is_what_was_translated(entries: list[Entry]) -> None:
    with (PACKAGE / MESSAGES / "django.mo").open("rb") as file:
        compiled: dict[Any, str] = {key: text for key, text in vars(GNUTranslations(file))["_catalog"].items() if key}

    assert compiled == {
        (entry.key, 0) if "msgid_plural" in entry.texts else entry.key: entry.translated for entry in entries
    }


@pytest.fixture
def reader(database: str, request: pytest.FixtureRequest) -> Client:
    """A superuser whose browser asks for the language that the test names."""
    from django.contrib.auth.models import User

    client = Client(headers={"Accept-Language": request.param})
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.mark.parametrize("reader", ["zh-hans", "zh-CN,zh;q=0.9,en;q=0.8"], indirect=True)
def test_the_list_of_dead_letters_is_in_chinese(reader: Client) -> None:
    letter = DeadLetterFactory(run__exhausted=True)
    page = reader.get(reverse("admin:taskops_deadletter_changelist"))
    text = Page(page).text

    assert letter.task_id in text
    for words in ("任务运维", "死信", "待处理", "重试次数已用尽", "重新入队…", "丢弃…"):
        assert words in text


@pytest.mark.parametrize("reader", ["zh-hans"], indirect=True)
def test_no_page_falls_back_to_english(reader: Client, entries: list[Entry], use_sources: Callable[..., None]) -> None:
    """A string that was looked up too early, when the language was not known yet, would stand there in English."""
    newest = waiting_entries(b"unreadable", published())
    use_sources(
        FakeSource(holding=waiting(newest=newest, dropped={"started": 1})),
        FakeSource(name="spool", holding=Backlog(refused="xx")),
        FakeSource(name="other", error=OSError("xx")),
    )
    RecorderFactory(spool=True, silent=True)
    quarantined = QuarantinedEntryFactory()
    letter = DeadLetterFactory(run__exhausted=True)
    TaskAttemptFactory(run=letter.run, retried=True)
    root = letter.run.task_id
    TaskRunFactory.create_batch(20, parent_id=root, root_id=root, group_id="g", group_index=1)
    entry = AuditEntryFactory(letter=letter)
    phrases = [entry.source for entry in entries if " " in entry.source and not PLACEHOLDER.search(entry.source)]
    rows = (("taskrun", letter.run), ("deadletter", letter), ("auditentry", entry), ("quarantinedentry", quarantined))
    addresses = [
        reverse("admin:taskops_recorder_changelist"),
        *(reverse(f"admin:taskops_{model}_changelist") for model, _row in rows),
        *(reverse(f"admin:taskops_{model}_change", args=[row.pk]) for model, row in rows),
        *(reverse(f"admin:taskops_deadletter_{verb}") + f"?letter={letter.pk}" for verb in ("requeue", "discard")),
        reverse("admin:taskops_deadletter_restore") + f"?letter={letter.pk}",
        reverse("admin:taskops_deadletter_edit", args=[letter.pk]),
        reverse("admin:taskops_deadletter_runs"),
        reverse("admin:index"),
    ]
    for address in addresses:
        text = Page(reader.get(address)).text
        assert "任务" in text, address
        assert [phrase for phrase in phrases if phrase in text] == [], address
