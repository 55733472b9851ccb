"""The command line: one command per question a user asks.

Each command imports the rooms it needs when it runs, so that `route` never waits for z3.
"""
