"""Emulated peers: what vfio-user servers and clients that we did not write do, one habit a peer.

`base` is a small server of its own that keeps to the specification; nothing of ours is in it.
`servers` has a class for each habit of a server, whose docstring names the project, the file and
the function that it was seen in. `running` runs a server, with any number of habits, in a process
of its own. `clients` has the message sequences of clients.
"""

from __future__ import annotations
