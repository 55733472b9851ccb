/* Nanoseconds of one arc and of four, with the generated engine and with the kernel's function. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "engine.h"

#define ROUNDS 2000 /* short ones: the best of them was not interrupted */
#define TURNS 2000

/* As in the kernel, as far as the function looks. */
struct vfio_device {
    uint32_t migration_flags;
};
int kernel_next_state(struct vfio_device *device, unsigned from, unsigned to, unsigned *next);
int like_next_state(struct vfio_device *device, unsigned from, unsigned to, unsigned *next);

enum { STOP = 1, RUNNING = 2, RESUMING = 4, RUNNING_P2P = 5, PRE_COPY = 6, FLAGS = 7 };

static volatile unsigned taken;

static int take(void *device, enum engine_arc arc, enum engine_effect effect)
{
    (void)device;
    (void)effect;
    taken = arc;
    return 0;
}

static int reset(void *device, enum engine_state to)
{
    (void)device;
    taken = to;
    return 0;
}

static const struct engine_calls calls = { take, reset, 0 };

/* What a driver does around the kernel's function, and no more. */
typedef int next_state(struct vfio_device *, unsigned, unsigned, unsigned *);
struct driver {
    struct vfio_device vfio;
    unsigned state;
    int (*take)(void *device, enum engine_arc arc, enum engine_effect effect);
};

static int driver_set_state(struct driver *driver, unsigned target, next_state *ask)
{
    while (driver->state != target) {
        unsigned next;
        int result = ask(&driver->vfio, driver->state, target, &next);

        if (result) {
            return result;
        }
        result = driver->take(driver, (enum engine_arc)next, ENGINE_EFFECT_NONE);
        if (result) {
            return result;
        }
        driver->state = next;
    }
    return 0;
}

__attribute__((noinline)) static int kernel_set_state(struct driver *driver, unsigned target)
{
    return driver_set_state(driver, target, kernel_next_state);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

#define MEASURE(best, turn)                                                                        \
    do {                                                                                           \
        const double begun = now();                                                                \
        double took;                                                                               \
        int at;                                                                                    \
        for (at = 0; at < TURNS; at++) {                                                           \
            turn;                                                                                  \
        }                                                                                          \
        took = (now() - begun) / TURNS;                                                            \
        best = took < best ? took : best;                                                          \
    } while (0)

static int cells_differ(void)
{
    static const uint32_t sets[] = { 1, 3, 5, 7 };
    int differ = 0;
    unsigned set, from, to;

    for (set = 0; set < 4; set++) {
        for (from = 0; from < 8; from++) {
            for (to = 0; to < 10; to++) {
                struct vfio_device device = { sets[set] };
                struct engine_step step;
                unsigned kernel = 99, like = 99;
                const int theirs = kernel_next_state(&device, from, to, &kernel);
                const int alike = like_next_state(&device, from, to, &like);
                const enum engine_refusal why = engine_next_step(sets[set], from, to, &step);

                differ += theirs != alike || theirs != -engine_refusal_errno(why);
                differ += theirs == 0 && (kernel != like || kernel != step.to);
            }
        }
    }
    return differ;
}

int main(void)
{
    double next[3] = { 1e9, 1e9, 1e9 }, one[2] = { 1e9, 1e9 }, four[2] = { 1e9, 1e9 };
    struct driver driver = { { FLAGS }, RUNNING, take };
    struct engine_engine engine;
    int round;

    if (engine_init(&engine, FLAGS, &calls, 0) != 0) {
        return 1;
    }
    for (round = 0; round < ROUNDS; round++) {
        unsigned to = 0;
        struct engine_step step;

        MEASURE(next[0], kernel_next_state(&driver.vfio, PRE_COPY, RESUMING, &to); taken = to);
        MEASURE(next[1], like_next_state(&driver.vfio, PRE_COPY, RESUMING, &to); taken = to);
        MEASURE(next[2], engine_next_step(FLAGS, PRE_COPY, RESUMING, &step); taken = step.to);
        MEASURE(one[0], kernel_set_state(&driver, RUNNING_P2P); kernel_set_state(&driver, RUNNING));
        MEASURE(one[1], engine_set_state(&engine, RUNNING_P2P); engine_set_state(&engine, RUNNING));
        kernel_set_state(&driver, PRE_COPY);
        engine_set_state(&engine, PRE_COPY);
        MEASURE(four[0], kernel_set_state(&driver, RESUMING); kernel_set_state(&driver, PRE_COPY));
        MEASURE(four[1], engine_set_state(&engine, RESUMING); engine_set_state(&engine, PRE_COPY));
        kernel_set_state(&driver, RUNNING);
        engine_set_state(&engine, RUNNING);
    }
    printf("differ %d\n", cells_differ());
    printf("kernel_next %.2f\nlike_next %.2f\nnext_step %.2f\n", next[0], next[1], next[2]);
    printf("kernel_one %.2f\nc_one %.2f\n", one[0] / 2, one[1] / 2);
    printf("kernel_four %.2f\nc_four %.2f\n", four[0] / 2, four[1] / 2);
    return 0;
}
