"""Rows as the student sees them, and a page about a set of records."""
