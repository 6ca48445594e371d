"""Django's command line for the example site: `python -m example_site.manage shell`."""

import os
import sys

from example_site import places


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_site.settings")
    from django.core.management import execute_from_command_line

    from example_site import celery  # noqa: F401 shared tasks publish through the current app: this one

    places.data().mkdir(parents=True, exist_ok=True)
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
