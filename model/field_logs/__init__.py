"""Logs that other programs write of a device's migration, line by line."""
