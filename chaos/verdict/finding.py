"""What a rule says where it does not hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` names the task, the letter or the process."""

    about: str
    says: str

    def __str__(self) -> str:
        return f"{self.about}: {self.says}"
