"""A live server of anybody's, held against the tables: what `vfio-migration conform` does.

`checking.conform` does it all. `tested_server` speaks to the server, message by message, and has
each held against the tables as `check-trace` does; `suite_run` leads the device through the finite
suite of `model.suite`; `wire_cases` are what the text states of messages besides.
"""
