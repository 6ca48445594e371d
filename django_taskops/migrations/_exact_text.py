"""An operation for migrations that create tables."""

from typing import Any

from django.db.migrations.operations.base import Operation

MARIADB = "utf8mb4_nopad_bin"
MYSQL = "utf8mb4_0900_bin"  # from 8.0.17 on


class ExactText(Operation):
    """Lets the tables that the app has by then hold any text and tell any two texts apart, as PostgreSQL and SQLite do.

    MySQL's and MariaDB's usual collations take "a", "A" and "a " for one text, and older character sets hold no emoji.
    Columns that are added to these tables later are like the others.
    """

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        pass

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:  # noqa: ARG002
        connection = schema_editor.connection
        if connection.vendor != "mysql":
            return
        collation = MARIADB if connection.mysql_is_mariadb else MYSQL
        for model in to_state.apps.get_app_config(app_label).get_models():
            if self.allow_migrate_model(connection.alias, model):
                table = schema_editor.quote_name(model._meta.db_table)  # noqa: SLF001 Django documents `_meta`
                schema_editor.execute(f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}")

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Nothing: what is told apart by now might be one text again."""

    def describe(self) -> str:
        return "Tell any two texts apart on MySQL and MariaDB"
