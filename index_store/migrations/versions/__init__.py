"""Numbered migrations, only ever appended."""
