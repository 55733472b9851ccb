"""The time line can be read: nothing stands on anything else, for any group the plans are for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from support.plan_walk import NAMES, mixtures, pairs
from support.readable_plan import assert_joined, assert_readable
from support.samples import sampled
from vfio_migration.diagrams import PlanView, migration_view
from vfio_migration.diagrams.drawing.shapes import elide, in_columns
from vfio_migration.diagrams.plan.layout import lay_out_plan

LONG = "/var/lib/libvirt/qemu/domain-17-a-guest-with-a-rather-long-name/vfio-user"


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=range(1, 9), ids=lambda count: f"{count}devices")
def views(request, spec, name) -> list[PlanView]:
    """The plans of every mixture of so many devices."""
    return [migration_view(spec, pairs(group, LONG), name) for group in mixtures(request.param)]


@sampled(11)
def test_any_group_is_readable(views):
    for view in views:
        layout = lay_out_plan(view)
        assert_readable(layout)
        assert_joined(layout)
        xs = [(flow.stage, flow.line.start[0]) for flow in layout.flows]
        assert len(set(xs)) == len(xs), "each stream has its own place"


def test_nothing_is_lost_on_the_way_to_the_page(views):
    for view in views:
        layout = lay_out_plan(view)
        for index, lane in enumerate(view.lanes):
            bars = [bar for bar in layout.bars if bar.lane == index]
            hops = [hop for stage in view.stages for hop in stage.path(index)]
            assert [bar.state.name for bar in bars] == [lane.state, *(hop.to for hop in hops)]
            assert [bar.box.left for bar in bars] == sorted(bar.box.left for bar in bars)
        assert [hop.hop for hop in layout.hops] == [
            hop
            for index in range(len(view.lanes))
            for stage in view.stages
            for hop in stage.path(index)
        ]
        assert [(flow.stage, flow.device) for flow in layout.flows] == [
            (stage.number, device) for stage in view.stages for device in stage.flows
        ]
        assert [column.stage for column in layout.columns] == list(view.stages)


@sampled(2)
def test_time_runs_to_the_right(views):
    """What happens in a stage is drawn in its column, and columns follow each other."""
    for view in views:
        layout = lay_out_plan(view)
        for one, two in pairwise(layout.columns):
            assert one.box.right == two.box.left
        columns = {column.stage.number: column.box for column in layout.columns}
        for part in (*layout.hops, *layout.flows):
            box = columns[part.stage]
            assert box.left < part.line.start[0] < box.right
            assert box.left < part.line.end[0] <= box.right
        for bar in layout.bars:
            if bar.stage:
                assert columns[bar.stage].left < bar.box.left <= columns[bar.stage].right


def test_marks_are_where_they_belong(views):
    for view in views:
        layout = lay_out_plan(view)
        columns = {column.stage.number: column.box for column in layout.columns}
        assert layout.no_return.start[0] == layout.no_return.end[0] == columns[view.no_return].left
        (shade,) = layout.downtime
        assert shade.left == columns[view.downtime.first].left
        assert columns[view.downtime.last].left < shade.right <= columns[view.downtime.last].right
        for index, lane in enumerate(view.lanes):
            runs = [
                bar.box
                for bar in layout.bars
                if bar.lane == index and bar.state.name in ("RUNNING", "RUNNING_P2P")
            ]
            if lane.side == "source":
                assert all(box.left < shade.left for box in runs), "no source runs again"
            # Every destination runs by the end of it, and arrives there within it.
            elif runs:
                assert runs[-1].left <= shade.right or runs[-2].left <= shade.right
        held = [(stage.holder, columns[stage.number]) for stage in view.stages]
        for stretch in layout.journal:
            assert all(
                stretch.box.left <= box.x <= stretch.box.right
                for holder, box in held
                if holder == stretch.holder
            )


def test_a_plan_without_marks_is_readable_too(spec):
    view = migration_view(spec, pairs((7, 7)))
    bare = replace(view, downtime=None, no_return=None, idle=())
    layout = lay_out_plan(bare)
    assert_readable(layout)
    assert (layout.downtime, layout.no_return) == ((), None)
    assert not {"downtime", "no_return"} & {sample.kind for sample in layout.samples}
    empty = replace(bare, stages=())
    assert_readable(lay_out_plan(empty))


def test_downtime_without_an_end_reaches_to_the_edge(spec):
    view = migration_view(spec, pairs((7, 7)))
    layout = lay_out_plan(replace(view, downtime=replace(view.downtime, last=None)))
    assert_readable(layout)
    assert layout.downtime[0].right >= max(bar.box.right for bar in layout.bars)


def test_the_checks_above_can_fail(spec):
    layout = lay_out_plan(migration_view(spec, pairs((7, 7))))
    bar = layout.bars[0]
    moved = replace(bar, box=replace(bar.box, x=bar.box.x + 60))
    with pytest.raises(AssertionError):
        assert_readable(replace(layout, bars=(moved, *layout.bars[1:])))
    hop = layout.hops[0]
    with pytest.raises(AssertionError):
        assert_joined(replace(layout, hops=(replace(hop, head=hop.head + 1), *layout.hops[1:])))
    flow = layout.flows[0]
    lost = replace(flow, tail=flow.tail + 1)
    with pytest.raises(AssertionError):
        assert_joined(replace(layout, flows=(lost, *layout.flows[1:])))


def test_legend_explains_what_is_there_and_nothing_else(spec, name):
    for group in ((1,), (3, 3), (7, 5), (7, 7)):
        view = migration_view(spec, pairs(group), name)
        kinds = [sample.kind for sample in lay_out_plan(view).samples]
        operations = [kind.operation for kind in kinds if not isinstance(kind, str)]
        assert operations == [row.name for row in view.operations]
        used = {hop.kind for stage in view.stages for hop in stage.hops}
        named = {kind for kind in kinds if isinstance(kind, str)}
        assert named == used | {"session", "flow", "downtime", "no_return"}
        assert len(kinds) == len(set(kinds))


# --- words that must fit ---


def test_eliding_keeps_the_end():
    assert elide("/run/a.sock", 20) == "/run/a.sock"
    assert elide("/run/vfio-user/guest-17/net0.sock", 24) == "…/guest-17/net0.sock"
    assert elide("/run/vfio-user/a-name-without-an-end.sock", 20) == "…without-an-end.sock"
    for length in range(2, 40):
        assert len(elide(LONG, length)) <= length


def test_two_names_that_end_alike_are_distinguished_by_their_number(spec):
    view = migration_view(spec, pairs((7, 7)))
    same = replace(view, lanes=tuple(replace(lane, label=LONG) for lane in view.lanes))
    labels = [text.text for text in lay_out_plan(same).texts if "…" in text.text]
    assert [label[0] for label in labels] == ["1", "2", "1", "2"]


def test_lists_take_as_few_rows_as_fit():

    def places(*widths: float, last: float = 0) -> tuple[int, list[float]]:
        return in_columns(widths, [width + last for width in widths], 75)

    assert places() == (0, [])
    assert places(10, 10, 10) == (1, [0, 25, 50])
    assert places(60, 10, 10) == (2, [0, 0, 62.5])
    assert places(60, 10, 10, last=10) == (3, [0, 0, 0]), "the last column needs more"
    assert places(60, 60) == (2, [0, 0])
    assert places(600, 60) == (2, [0, 0]), "what fits nowhere stands in one column"
