"""Print the statements that make or update romancy's PostgreSQL schema: ``python -m romancy.storage.migrate``.

For databases where the application's role may not create tables: have what is printed executed by one that may, and
open the App with ``migrate=False``.
"""

from __future__ import annotations

import argparse
import sys

from romancy.errors import StorageError
from romancy.storage.postgres_schema import script
from romancy.storage.postgres_settings import settings_of


def main() -> int:
    """Print the statements, as one transaction."""
    parser = argparse.ArgumentParser(prog="python -m romancy.storage.migrate", description=__doc__)
    parser.add_argument("--schema", default="romancy", help="where the tables are (default: romancy)")
    parser.add_argument("--after", type=int, default=0, help="the version that the schema has (default: 0, none)")
    arguments = parser.parse_args()
    try:
        schema = settings_of("postgresql://", schema=arguments.schema).schema
    except StorageError as error:
        parser.error(str(error))
    sys.stdout.write(f"BEGIN;\n\n{script(schema, after=arguments.after)}\nCOMMIT;\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
