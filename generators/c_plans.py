"""The plans for groups of devices as a table in C: the order that is proved, to be executed.

Only plans that are marked sound are written. A move's conditions about states (what a device may do
there, whether it failed) become a mask of states, so that nothing is decided about states in C.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vfio_migration.generators import names
from vfio_migration.generators.c_engine import comment, switch, word
from vfio_migration.generators.compiled import Compiled
from vfio_migration.model import Mistake, SpecError
from vfio_migration.model.plan import Move, Plan, Plans

_MAX_STATES: Final = 32


def plan_values(compiled: Compiled, plans: Plans) -> tuple[str, str]:
    """Return what is declared in the header and what is defined in the source.

    Raises:
        SpecError: A mask of states would not fit, or two names become one.
    """
    if len(compiled.states) > _MAX_STATES:
        problem = f"have masks of {_MAX_STATES} states"
        hint = f"the table has {len(compiled.states)}"
        raise SpecError([Mistake("--plans", None, problem, hint)])
    sound = [plan for plan in plans.plans if plan.sound]
    names.distinct([("plan", plan.name, _constant(plan)) for plan in sound], "C")
    return "\n".join(_declared(sound)), "\n".join(_defined(compiled, sound))


def _constant(plan: Plan) -> str:
    return f"PREFIX_PLAN_{names.constant(plan.name)}"


def _declared(plans: list[Plan]) -> Iterator[str]:
    yield ""
    yield "/* Plans for groups of devices that do DMA to each other. In a phase each device to"
    yield " * which a move applies makes it, in any order; it is over when none applies to any. */"
    yield "enum prefix_plan {"
    for at, plan in enumerate(plans):
        comma = "," if at + 1 < len(plans) else ""
        yield f"    {_constant(plan)} = {at}{comma} /* {comment(plan.summary)} */"
    yield "};"
    yield f"#define PREFIX_PLANS {len(plans)}u"
    yield ""
    yield "enum prefix_move {"
    yield "    PREFIX_MOVE_NOTHING = 0, /* no move applies */"
    yield "    PREFIX_MOVE_REQUEST = 1, /* ask for *target; one step at a time, or all of them */"
    yield "    PREFIX_MOVE_RESET = 2"
    yield "};"
    yield ""
    yield "/* How many phases a plan has, and what one is called. */"
    yield "unsigned prefix_plan_phases(enum prefix_plan plan);"
    yield "const char *prefix_plan_phase_name(enum prefix_plan plan, unsigned phase);"
    yield ""
    yield "/* What a device in `state` does in a phase of a plan. */"
    yield "enum prefix_move prefix_plan_move(enum prefix_plan plan, unsigned phase, uint64_t flags,"
    yield "                                  uint32_t state, enum prefix_state *target);"
    yield ""
    yield "/* Whether a plan is for a group of devices with these flags words. A group of one has"
    yield " * no peers, and no limit. */"
    yield "bool prefix_plan_allows(enum prefix_plan plan, const uint64_t *flags, unsigned devices);"


def _defined(compiled: Compiled, plans: list[Plan]) -> Iterator[str]:
    phases = [phase for plan in plans for phase in plan.phases]
    moves = [move for phase in phases for move in phase.moves]
    limits = [limit for plan in plans for limit in plan.limits]
    yield ""
    yield "/* A move applies to a device whose flags have `needs` and not one of `lacks`, in a"
    yield " * state of the mask; the first that does decides. */"
    yield "static const struct plan_move {"
    yield "    uint64_t needs, lacks;"
    yield "    uint32_t states;"
    yield "    uint8_t target;"
    yield "    uint8_t kind;"
    yield f"}} plan_moves[{len(moves)}] = {{"
    for move in moves:
        yield f"    {_move(compiled, move)},"
    yield "};"
    yield ""
    yield "/* Where the moves of each phase end, the phases of each plan, the limits of each. */"
    yield _ends("phase_ends", [len(phase.moves) for phase in phases])
    yield _ends("plan_ends", [len(plan.phases) for plan in plans])
    yield "static const struct plan_limit {"
    yield "    uint64_t lacks;"
    yield "    uint32_t count;"
    yield f"}} plan_limits[{max(len(limits), 1)}] = {{"
    for limit in limits:
        yield f"    {{ {_bits(compiled, (limit.lacks,))}, {limit.count} }},"
    if not limits:
        yield "    { 0, 0 },"
    yield "};"
    yield _ends("limit_ends", [len(plan.limits) for plan in plans])
    yield _FUNCTIONS
    names_ = [(str(at), phase.name) for at, phase in enumerate(phases)]
    yield from switch("plan_phase_name(unsigned phase)", "phase", names_, storage="static ")
    yield """\
const char *prefix_plan_phase_name(enum prefix_plan plan, unsigned phase)
{
    return phase < prefix_plan_phases(plan) ? plan_phase_name(first_of(plan_ends, plan) + phase)
                                            : "unknown";
}"""


def _ends(name: str, lengths: list[int]) -> str:
    ends = [sum(lengths[: at + 1]) for at in range(len(lengths))]
    return f"static const uint16_t {name}[{len(ends)}] = {{ {', '.join(map(str, ends))} }};"


def _bits(compiled: Compiled, capabilities: tuple[str, ...]) -> str:
    return word(sum(compiled.spec.capability(name).value for name in capabilities))


def _move(compiled: Compiled, move: Move) -> str:
    spec = compiled.spec
    failed = spec.event("arc_failed_for_good").to
    mask = 0
    for at, row in enumerate(compiled.states):
        meant = (row.name == failed) == move.failed
        if meant and (move.may is None or spec.permits(row.name, move.may)):
            mask |= 1 << at
    needs, lacks = _bits(compiled, move.needs), _bits(compiled, move.lacks)
    kind = "PREFIX_MOVE_RESET" if move.event is not None else "PREFIX_MOVE_REQUEST"
    target = compiled.index(move.to) if move.to is not None else 0
    return f"{{ {needs}, {lacks}, {mask:#x}u, {target}, {kind} }}"


_FUNCTIONS: Final = """
static unsigned first_of(const uint16_t *ends, unsigned at)
{
    return at == 0 ? 0u : ends[at - 1u];
}

unsigned prefix_plan_phases(enum prefix_plan plan)
{
    return (unsigned)plan < PREFIX_PLANS ? plan_ends[plan] - first_of(plan_ends, plan) : 0u;
}

enum prefix_move prefix_plan_move(enum prefix_plan plan, unsigned phase, uint64_t flags,
                                  uint32_t state, enum prefix_state *target)
{
    const unsigned here = index_of(state);
    unsigned at, end;

    if (phase >= prefix_plan_phases(plan) || here == N) {
        return PREFIX_MOVE_NOTHING;
    }
    phase += first_of(plan_ends, plan);
    end = phase_ends[phase];
    for (at = first_of(phase_ends, phase); at < end; at++) {
        const struct plan_move *move = &plan_moves[at];

        if ((flags & move->needs) != move->needs || (flags & move->lacks) != 0 ||
            (move->states >> here & 1u) == 0) {
            continue;
        }
        if (move->kind == PREFIX_MOVE_RESET) {
            return PREFIX_MOVE_RESET;
        }
        if (move->target == here) {
            return PREFIX_MOVE_NOTHING;
        }
        *target = value_of(move->target);
        return PREFIX_MOVE_REQUEST;
    }
    return PREFIX_MOVE_NOTHING;
}

bool prefix_plan_allows(enum prefix_plan plan, const uint64_t *flags, unsigned devices)
{
    unsigned at, device;

    if ((unsigned)plan >= PREFIX_PLANS) {
        return false;
    }
    if (devices <= 1) {
        return true;
    }
    for (at = first_of(limit_ends, plan); at < limit_ends[plan]; at++) {
        uint32_t lacking = 0;

        for (device = 0; device < devices; device++) {
            lacking += (flags[device] & plan_limits[at].lacks) == 0 ? 1u : 0u;
        }
        if (lacking > plan_limits[at].count) {
            return false;
        }
    }
    return true;
}
"""
