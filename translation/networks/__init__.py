"""Modules without losses."""
