"""The catalog's numbered migrations, run by Alembic from inside the installed package."""
