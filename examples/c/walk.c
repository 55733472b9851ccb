/* Two devices are migrated in one program, on the engine that `generate c --plans` writes. Each
 * holds a number as its state; the group follows the plans that are proved, phase by phase. No
 * socket is used: what a client would send is a call here. */
#include <stdio.h>

#include "vfio_v2.h"

#define DEVICES 2

struct device {
    const char *name;
    uint64_t flags;
    struct vfio_v2_engine engine;
    unsigned state;   /* what is migrated; it changes while the device runs */
    unsigned stream;  /* the open data session, as far as it was read or written */
    bool complete;    /* the end of the stream was reached */
};

static int take(void *context, enum vfio_v2_arc arc, enum vfio_v2_effect effect)
{
    struct device *device = context;

    printf("    %s: %s\n", device->name, vfio_v2_arc_name(arc));
    if (effect == VFIO_V2_EFFECT_OPENS) {
        device->complete = false;
    }
    if (arc == VFIO_V2_ARC_RESUMING_TO_STOP) { /* the moment of judgement */
        if (!device->complete) {
            return VFIO_V2_FAILED_FOR_GOOD;
        }
        device->state = device->stream;
    }
    return 0;
}

static int reset(void *context, enum vfio_v2_state to)
{
    struct device *device = context;

    printf("    %s: reset to %s\n", device->name, vfio_v2_state_name(to));
    device->state = 0;
    return 0;
}

static const struct vfio_v2_calls calls = { take, reset, NULL };

/* Lead a group through the phases of a plan: each device that has a step to make makes it, one arc at a time. */
static int follow(enum vfio_v2_plan plan, struct device *group, unsigned first, unsigned end)
{
    for (unsigned phase = first; phase < end; phase++) {
        printf("  %s\n", vfio_v2_plan_phase_name(plan, phase));
        for (bool moved = true; moved;) {
            moved = false;
            for (unsigned at = 0; at < DEVICES; at++) {
                struct device *device = &group[at];
                const enum vfio_v2_state here = vfio_v2_present_state(&device->engine);
                enum vfio_v2_state target = here;
                struct vfio_v2_step step;
                int error = 0;

                switch (vfio_v2_plan_move(plan, phase, device->flags, here, &target)) {
                case VFIO_V2_MOVE_REQUEST:
                    if (vfio_v2_next_step(device->flags, here, target, &step) != VFIO_V2_ACCEPTED) {
                        return -VFIO_V2_EINVAL;
                    }
                    error = vfio_v2_set_state(&device->engine, step.to);
                    moved = true;
                    break;
                case VFIO_V2_MOVE_RESET:
                    error = vfio_v2_reset(&device->engine);
                    moved = true;
                    break;
                case VFIO_V2_MOVE_NOTHING:
                    break;
                }
                if (error != 0) {
                    printf("    %s: error %d\n", device->name, -error);
                    return error;
                }
            }
        }
    }
    return 0;
}

static int follow_all(enum vfio_v2_plan plan, struct device *group)
{
    return follow(plan, group, 0, vfio_v2_plan_phases(plan));
}

int main(void)
{
    struct device source[DEVICES] = {
        { .name = "source disk", .flags = 7, .state = 41 },
        { .name = "source nic", .flags = 3, .state = 8 },
    };
    struct device destination[DEVICES] = {
        { .name = "destination disk", .flags = 7 },
        { .name = "destination nic", .flags = 3 },
    };
    const uint64_t flags[DEVICES] = { source[0].flags, source[1].flags };

    for (unsigned at = 0; at < DEVICES; at++) {
        if (vfio_v2_init(&source[at].engine, flags[at], &calls, &source[at]) != 0 ||
            vfio_v2_init(&destination[at].engine, flags[at], &calls, &destination[at]) != 0) {
            return 2;
        }
    }
    if (!vfio_v2_plan_allows(VFIO_V2_PLAN_SAVE, flags, DEVICES)) {
        return 2;
    }
    printf("the destination is prepared\n");
    if (follow_all(VFIO_V2_PLAN_PREPARE, destination) != 0) {
        return 1;
    }
    printf("the source pre-copies, and stops\n");
    if (follow(VFIO_V2_PLAN_SAVE, source, 0, 1) != 0) {
        return 1;
    }
    source[0].state++; /* it still runs */
    if (follow(VFIO_V2_PLAN_SAVE, source, 1, vfio_v2_plan_phases(VFIO_V2_PLAN_SAVE)) != 0) {
        return 1;
    }
    for (unsigned at = 0; at < DEVICES; at++) { /* the stream, to its final end */
        destination[at].stream = source[at].state;
        destination[at].complete = true;
    }
    printf("the destination takes over\n");
    if (follow_all(VFIO_V2_PLAN_RESUME, destination) != 0) {
        return 1;
    }
    for (unsigned at = 0; at < DEVICES; at++) {
        printf("%s: %s with %u\n", destination[at].name,
               vfio_v2_state_name(vfio_v2_present_state(&destination[at].engine)),
               destination[at].state);
    }
    return 0;
}
