"""People at the desk. Imports no models at its top: pytest may load it before Django is set up."""

from collections.abc import Callable

import pytest
from django.test import Client

LogIn = Callable[..., Client]

VIEWER = ("view_taskrun", "view_deadletter", "view_auditentry")


@pytest.fixture(autouse=True)
def quiet_journal(use_sources: Callable[..., None]) -> None:
    """Pages say what the recorder sees: nothing of other tests, unless the test makes sources of its own."""
    use_sources()


@pytest.fixture
def log_in(database: str) -> LogIn:
    """Logs in a member of the staff with just these permissions on our tables."""
    from django.contrib.auth.models import Permission, User

    def with_permissions(*codenames: str, name: str = "maria") -> Client:
        user = User.objects.create_user(name, is_staff=True)
        ours = Permission.objects.filter(content_type__app_label="taskops", codename__in=codenames)
        user.user_permissions.set(ours)
        assert user.user_permissions.count() == len(codenames)
        client = Client()
        client.force_login(user)
        return client

    return with_permissions


@pytest.fixture
def desk(database: str) -> Client:
    """A superuser."""
    from django.contrib.auth.models import User

    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client
