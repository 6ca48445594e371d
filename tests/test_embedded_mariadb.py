"""The private MariaDB: who gets it, what is said where there is none, and what its address means."""

from pathlib import Path

import pytest
from django.db import connections

from example_site import embedded_mariadb
from example_site.embedded import ServiceUnavailable


def test_a_given_mariadb_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYSQL_URL", "mysql://shop@db.example/shop")

    with embedded_mariadb.mariadb_server(tmp_path) as url:
        assert url == "mysql://shop@db.example/shop"


def test_where_it_is_not_installed_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MYSQL_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded_mariadb, "PROGRAMS", ("mariadbd",))

    with pytest.raises(ServiceUnavailable, match="Install MariaDB's server, or set MYSQL_URL"):
        embedded_mariadb.mariadb_server(tmp_path).__enter__()


def test_a_server_that_ends_while_starting_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MYSQL_URL", raising=False)
    monkeypatch.setattr(embedded_mariadb, "PROGRAMS", ("false",))
    monkeypatch.setattr(embedded_mariadb, "CLIENTS", ("true",))

    with pytest.raises(ServiceUnavailable, match="MariaDB to answer, got its exit with code 1"):
        embedded_mariadb.mariadb_server(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://shop:p%40ss@db.example:3307/orders", ("orders", "shop", "p@ss", "db.example", "3307")),
        ("mysql://root@localhost/taskops?unix_socket=/run/here", ("taskops", "root", "", "/run/here", "")),
    ],
)
def test_mysql_settings_reads_tcp_and_socket_addresses(url: str, expected: tuple[str, ...]) -> None:
    read = embedded_mariadb.mysql_settings(url)

    assert tuple(read[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")) == expected


def test_another_database_of_the_same_server_keeps_the_rest_of_the_address() -> None:
    url = "mysql://root@localhost/taskops?unix_socket=/run/here"

    assert embedded_mariadb.mysql_database(url, "other") == "mysql://root@localhost/other?unix_socket=/run/here"


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_mariadb_is_one_that_django_supports(database: str) -> None:
    connections[database].check_database_version_supported()

    assert connections[database].vendor == "mysql"
