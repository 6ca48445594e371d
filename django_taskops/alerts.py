"""Ready-made alerts, to be switched on in an AppConfig.ready: models have to be loaded."""

from .recovery.alerts import AlertNotSent, InvalidAlert, mail_admins, post_to_webhook

__all__ = ["AlertNotSent", "InvalidAlert", "mail_admins", "post_to_webhook"]
