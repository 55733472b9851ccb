"""Two tables compared: what changed, and who can still work with whom.

The definitions of compatibility are data (`definitions`); `behaviour` states what a client sees of
a table, `compatibility` decides a definition by explicit-state search, `confirm` runs each
distinguishing sequence on live engines, `changes` lists rows and requests that differ, and `report`
puts it all together.
"""
