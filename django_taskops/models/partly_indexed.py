"""Tables with indexes of some of their rows only."""

from typing import Any

from django.core.checks import CheckMessage
from django.db import models

CONDITION_IGNORED = "models.W037"


class PartlyIndexed(models.Model):
    """MySQL and MariaDB index every row, and Django warns of that for each table. Nobody needs to be: the columns of
    such an index begin with those of its condition where they tell few rows from many, so that it serves there too."""

    class Meta:
        abstract = True

    @classmethod
    def check(cls, **kwargs: Any) -> list[CheckMessage]:
        return [message for message in super().check(**kwargs) if message.id != CONDITION_IGNORED]
