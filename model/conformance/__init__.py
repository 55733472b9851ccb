"""A recorded run, held against the tables."""
