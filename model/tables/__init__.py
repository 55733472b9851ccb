"""Proposals as tables: each file says how one differs from a table that comes with the package."""
