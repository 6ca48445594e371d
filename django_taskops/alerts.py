"""Ready-made alerts, to be switched on in an AppConfig.ready: models have to be loaded."""

from .recovery.alerts import InvalidAlert, mail_admins, post_to_webhook
from .recovery.channels import AlertNotSent

__all__ = ["AlertNotSent", "InvalidAlert", "mail_admins", "post_to_webhook"]
