"""The options by which the operator answers for what nothing on the wire shows."""

from __future__ import annotations

import json

from support.migration_harness import SPEC, Harness
from vfio_migration.model.plan import default_plans

PLANS = default_plans(SPEC)


def without_p2p(harness: Harness) -> None:
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name, capabilities="STOP_COPY,PRE_COPY")


def test_the_command_line_has_an_option_for_every_assertion(cli, harness: Harness):
    without_p2p(harness)
    for row in PLANS.assertions:
        for command in ("migrate", "save", "restore"):
            assert row.option in cli(command, "--help").out
    ran = cli("migrate", "s0", "d0", "s1", "d1", "--no-peer-dma", "--dry-run")
    assert ran.status == 0
    ran = cli("migrate", "s0", "d0", "s1", "d1")
    assert ran.status == 1
    assert "  or give --no-peer-dma, if you can answer for it" in ran.err
    ran = cli("migrate", "s0", "d0", "s1", "d1", "--no-peer-dma", "--json")
    assert ran.status == 0
    assert json.loads(ran.out.splitlines()[-1])["asserted"] == ["no_peer_dma"]


def test_people_see_what_was_taken_on_trust(cli, harness: Harness):
    without_p2p(harness)
    ran = cli("migrate", "s0", "d0", "s1", "d1", "--no-peer-dma")
    assert "taken on trust: No device of the group does DMA to another device of it." in ran.out
    assert "  on trust     no_peer_dma\n" in ran.out
