/* Generated: do not edit.
 *
 * A group of 3 devices of vfio-v2 under the plan recover.
 * From wherever a plan was left, devices failed among them, to all running.
 * An arc that is taken may fail for good.
 *
 * It is wrong if a device that may start peer-to-peer DMA meets one that is
 * stopped (assertion in `arrive`), if not all arrive (assertion in Manager), or if
 * a phase never ends (invalid end state). To check it, and to see what goes wrong:
 *
 *     spin -a recover.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *     spin -t -p -g recover.pml
 *
 * Spin prints `errors: 0` if nothing is; its exit status is 0 in any case.
 *
 * Flags, as in struct vfio_device_feature_migration:
 *     1  STOP_COPY
 *     3  STOP_COPY, P2P
 *     5  STOP_COPY, PRE_COPY
 *     7  STOP_COPY, P2P, PRE_COPY
 */

#define N 3

mtype = { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P }
mtype state[N];  /* where each device is */
byte flags[N];   /* what it is capable of; it never changes */
byte phase;

/* May start DMA to its peers; is stopped and may not accept any. A device that
 * failed is not stopped: nothing is guaranteed for it. */
#define starts(d) (state[d] == RUNNING || state[d] == PRE_COPY)
#define stopped(d) (state[d] == STOP || state[d] == STOP_COPY || state[d] == RESUMING)
#define meets(a, b) (a != b && starts(a) && stopped(b))

/* A move of the phase applies to the device. */
#define moves_hold(d) ( \
       (state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == PRE_COPY && flags[d] == 7) \
)
#define moves_wake(d) ( \
       (state[d] == STOP && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == STOP_COPY && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == RESUMING && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == PRE_COPY && flags[d] == 7) \
    || (state[d] == PRE_COPY_P2P) \
)
#define moves_start_the_one(d) ( \
       (state[d] == STOP && (flags[d] == 1 || flags[d] == 5)) \
    || (state[d] == STOP_COPY && (flags[d] == 1 || flags[d] == 5)) \
    || (state[d] == RESUMING && (flags[d] == 1 || flags[d] == 5)) \
    || (state[d] == PRE_COPY && flags[d] == 5) \
)
#define moves_reset(d) ( \
       (state[d] == ERROR) \
)
#define moves_run(d) ( \
       (state[d] == STOP) \
    || (state[d] == STOP_COPY) \
    || (state[d] == RESUMING) \
    || (state[d] == RUNNING_P2P) \
    || (state[d] == PRE_COPY) \
    || (state[d] == PRE_COPY_P2P) \
)

inline arrive(to) {
    state[d] = to;
    d_step {
        peer = 0;
        do
        :: peer < N -> assert(!meets(d, peer) && !meets(peer, d)); peer++
        :: else -> break
        od;
        peer = 0
    }
}

/* One arc of its move at a time, whatever the others do. */
proctype Device(byte d) {
    byte peer;
end:
    do
    /* hold: Quiesce every device that may still start peer-to-peer DMA. */
    :: atomic { phase == 0 && state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 0 && state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7) -> arrive(ERROR) }
    :: atomic { phase == 0 && state[d] == PRE_COPY && flags[d] == 7 -> arrive(RUNNING) }
    :: atomic { phase == 0 && state[d] == PRE_COPY && flags[d] == 7 -> arrive(ERROR) }
    /* wake: Start every stopped device that can hold back peer-to-peer DMA. */
    :: atomic { phase == 1 && state[d] == STOP && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 1 && state[d] == STOP && (flags[d] == 3 || flags[d] == 7) -> arrive(ERROR) }
    :: atomic { phase == 1 && state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 1 && state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7) -> arrive(ERROR) }
    :: atomic { phase == 1 && state[d] == STOP_COPY && (flags[d] == 3 || flags[d] == 7) -> arrive(STOP) }
    :: atomic { phase == 1 && state[d] == STOP_COPY && (flags[d] == 3 || flags[d] == 7) -> arrive(ERROR) }
    :: atomic { phase == 1 && state[d] == RESUMING && (flags[d] == 3 || flags[d] == 7) -> arrive(STOP) }
    :: atomic { phase == 1 && state[d] == RESUMING && (flags[d] == 3 || flags[d] == 7) -> arrive(ERROR) }
    :: atomic { phase == 1 && state[d] == PRE_COPY && flags[d] == 7 -> arrive(RUNNING) }
    :: atomic { phase == 1 && state[d] == PRE_COPY && flags[d] == 7 -> arrive(ERROR) }
    :: atomic { phase == 1 && state[d] == PRE_COPY_P2P -> arrive(RUNNING_P2P) }
    :: atomic { phase == 1 && state[d] == PRE_COPY_P2P -> arrive(ERROR) }
    /* start-the-one: Start the one device that cannot be quiesced. */
    :: atomic { phase == 2 && state[d] == STOP && (flags[d] == 1 || flags[d] == 5) -> arrive(RUNNING) }
    :: atomic { phase == 2 && state[d] == STOP && (flags[d] == 1 || flags[d] == 5) -> arrive(ERROR) }
    :: atomic { phase == 2 && state[d] == STOP_COPY && (flags[d] == 1 || flags[d] == 5) -> arrive(STOP) }
    :: atomic { phase == 2 && state[d] == STOP_COPY && (flags[d] == 1 || flags[d] == 5) -> arrive(ERROR) }
    :: atomic { phase == 2 && state[d] == RESUMING && (flags[d] == 1 || flags[d] == 5) -> arrive(STOP) }
    :: atomic { phase == 2 && state[d] == RESUMING && (flags[d] == 1 || flags[d] == 5) -> arrive(ERROR) }
    :: atomic { phase == 2 && state[d] == PRE_COPY && flags[d] == 5 -> arrive(RUNNING) }
    :: atomic { phase == 2 && state[d] == PRE_COPY && flags[d] == 5 -> arrive(ERROR) }
    /* reset: Reset the devices that failed, now that every other accepts what they may start. */
    :: atomic { phase == 3 && state[d] == ERROR -> arrive(RUNNING) }
    /* run: Allow peer-to-peer DMA again. */
    :: atomic { phase == 4 && state[d] == STOP && (flags[d] == 1 || flags[d] == 5) -> arrive(RUNNING) }
    :: atomic { phase == 4 && state[d] == STOP && (flags[d] == 1 || flags[d] == 5) -> arrive(ERROR) }
    :: atomic { phase == 4 && state[d] == STOP && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 4 && state[d] == STOP && (flags[d] == 3 || flags[d] == 7) -> arrive(ERROR) }
    :: atomic { phase == 4 && state[d] == STOP_COPY -> arrive(STOP) }
    :: atomic { phase == 4 && state[d] == STOP_COPY -> arrive(ERROR) }
    :: atomic { phase == 4 && state[d] == RESUMING -> arrive(STOP) }
    :: atomic { phase == 4 && state[d] == RESUMING -> arrive(ERROR) }
    :: atomic { phase == 4 && state[d] == RUNNING_P2P -> arrive(RUNNING) }
    :: atomic { phase == 4 && state[d] == RUNNING_P2P -> arrive(ERROR) }
    :: atomic { phase == 4 && state[d] == PRE_COPY -> arrive(RUNNING) }
    :: atomic { phase == 4 && state[d] == PRE_COPY -> arrive(ERROR) }
    :: atomic { phase == 4 && state[d] == PRE_COPY_P2P -> arrive(RUNNING_P2P) }
    :: atomic { phase == 4 && state[d] == PRE_COPY_P2P -> arrive(ERROR) }
    od
}

/* A phase is over when no move applies to any device. */
proctype Manager() {
    atomic { !moves_hold(0) && !moves_hold(1) && !moves_hold(2) -> phase = 1 };
    atomic { !moves_wake(0) && !moves_wake(1) && !moves_wake(2) -> phase = 2 };
    atomic { !moves_start_the_one(0) && !moves_start_the_one(1) && !moves_start_the_one(2) -> phase = 3 };
    atomic { !moves_reset(0) && !moves_reset(1) && !moves_reset(2) -> phase = 4 };
    atomic { !moves_run(0) && !moves_run(1) && !moves_run(2) -> assert((state[0] == RUNNING || state[0] == ERROR) && (state[1] == RUNNING || state[1] == ERROR) && (state[2] == RUNNING || state[2] == ERROR)) }
}

/* Every group the plan is for. Its devices are alike, so that their flags come in
 * order leaves none out. */
init {
    byte d, least, without_P2P;
    atomic {
end_no_such_group:
        do
        :: d < N && least <= 1 && without_P2P < 1 -> flags[d] = 1; least = 1; state[d] = ERROR; without_P2P++; d++
        :: d < N && least <= 1 && without_P2P < 1 -> flags[d] = 1; least = 1; state[d] = STOP; without_P2P++; d++
        :: d < N && least <= 1 && without_P2P < 1 -> flags[d] = 1; least = 1; state[d] = RUNNING; without_P2P++; d++
        :: d < N && least <= 1 && without_P2P < 1 -> flags[d] = 1; least = 1; state[d] = STOP_COPY; without_P2P++; d++
        :: d < N && least <= 1 && without_P2P < 1 -> flags[d] = 1; least = 1; state[d] = RESUMING; without_P2P++; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = ERROR; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = STOP; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = RUNNING; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = STOP_COPY; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = RESUMING; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = RUNNING_P2P; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = ERROR; without_P2P++; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = STOP; without_P2P++; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = RUNNING; without_P2P++; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = STOP_COPY; without_P2P++; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = RESUMING; without_P2P++; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = PRE_COPY; without_P2P++; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = ERROR; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = STOP; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = RUNNING; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = STOP_COPY; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = RESUMING; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = RUNNING_P2P; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = PRE_COPY; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = PRE_COPY_P2P; d++
        :: d == N -> break
        od;
        /* The plans before leave nobody to meet anybody. */
end_met_before:
        !meets(0, 1) && !meets(0, 2) && !meets(1, 0) && !meets(1, 2) && !meets(2, 0) && !meets(2, 1);
        d = 0;
        least = 0; without_P2P = 0;
        do
        :: d < N -> run Device(d); d++
        :: else -> break
        od;
        d = 0;
        run Manager()
    }
}
