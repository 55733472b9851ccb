/* Generated: do not edit.
 *
 * A group of 2 devices of vfio-v2 under the plan save.
 * From all running to all stopped and streaming: the source of a migration.
 *
 * It is wrong if a device that may start peer-to-peer DMA meets one that is
 * stopped (assertion in `arrive`), if not all arrive (assertion in Manager), or if
 * a phase never ends (invalid end state). To check it, and to see what goes wrong:
 *
 *     spin -a save.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *     spin -t -p -g save.pml
 *
 * Spin prints `errors: 0` if nothing is; its exit status is 0 in any case.
 *
 * Flags, as in struct vfio_device_feature_migration:
 *     1  STOP_COPY
 *     3  STOP_COPY, P2P
 *     5  STOP_COPY, PRE_COPY
 *     7  STOP_COPY, P2P, PRE_COPY
 */

#define N 2

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
#define moves_pre_copy(d) ( \
       (state[d] == STOP && (flags[d] == 5 || flags[d] == 7)) \
    || (state[d] == RUNNING && (flags[d] == 5 || flags[d] == 7)) \
    || (state[d] == STOP_COPY && (flags[d] == 5 || flags[d] == 7)) \
    || (state[d] == RESUMING && (flags[d] == 5 || flags[d] == 7)) \
    || (state[d] == RUNNING_P2P && flags[d] == 7) \
    || (state[d] == PRE_COPY_P2P) \
)
#define moves_quiesce(d) ( \
       (state[d] == STOP && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == STOP_COPY && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == RESUMING && (flags[d] == 3 || flags[d] == 7)) \
    || (state[d] == RUNNING_P2P && flags[d] == 7) \
    || (state[d] == PRE_COPY && flags[d] == 7) \
)
#define moves_stop_the_one(d) ( \
       (state[d] == STOP && (flags[d] == 1 || flags[d] == 5)) \
    || (state[d] == RUNNING && (flags[d] == 1 || flags[d] == 5)) \
    || (state[d] == RESUMING && (flags[d] == 1 || flags[d] == 5)) \
    || (state[d] == PRE_COPY && flags[d] == 5) \
)
#define moves_stop(d) ( \
       (state[d] == STOP) \
    || (state[d] == RUNNING) \
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
    /* pre-copy: Stream while running. */
    :: atomic { phase == 0 && state[d] == STOP && flags[d] == 5 -> arrive(RUNNING) }
    :: atomic { phase == 0 && state[d] == STOP && flags[d] == 7 -> arrive(RUNNING_P2P) }
    :: atomic { phase == 0 && state[d] == RUNNING && (flags[d] == 5 || flags[d] == 7) -> arrive(PRE_COPY) }
    :: atomic { phase == 0 && state[d] == RESUMING && (flags[d] == 5 || flags[d] == 7) -> arrive(STOP) }
    :: atomic { phase == 0 && state[d] == RUNNING_P2P && flags[d] == 7 -> arrive(RUNNING) }
    :: atomic { phase == 0 && state[d] == PRE_COPY_P2P -> arrive(PRE_COPY) }
    /* quiesce: No device that can be quiesced starts peer-to-peer DMA from here on. */
    :: atomic { phase == 1 && state[d] == STOP && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 1 && state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 1 && state[d] == STOP_COPY && flags[d] == 3 -> arrive(STOP) }
    :: atomic { phase == 1 && state[d] == RESUMING && (flags[d] == 3 || flags[d] == 7) -> arrive(STOP) }
    :: atomic { phase == 1 && state[d] == RUNNING_P2P && flags[d] == 7 -> arrive(PRE_COPY_P2P) }
    :: atomic { phase == 1 && state[d] == PRE_COPY && flags[d] == 7 -> arrive(PRE_COPY_P2P) }
    /* stop-the-one: Stop the one device that cannot be quiesced, while the others still accept its DMA. */
    :: atomic { phase == 2 && state[d] == STOP && (flags[d] == 1 || flags[d] == 5) -> arrive(STOP_COPY) }
    :: atomic { phase == 2 && state[d] == RUNNING && (flags[d] == 1 || flags[d] == 5) -> arrive(STOP) }
    :: atomic { phase == 2 && state[d] == RESUMING && (flags[d] == 1 || flags[d] == 5) -> arrive(STOP) }
    :: atomic { phase == 2 && state[d] == PRE_COPY && flags[d] == 5 -> arrive(STOP_COPY) }
    /* stop: Stop every device that is not stopped yet; none starts peer-to-peer DMA any more. */
    :: atomic { phase == 3 && state[d] == STOP -> arrive(STOP_COPY) }
    :: atomic { phase == 3 && state[d] == RUNNING && (flags[d] == 1 || flags[d] == 5) -> arrive(STOP) }
    :: atomic { phase == 3 && state[d] == RUNNING && (flags[d] == 3 || flags[d] == 7) -> arrive(RUNNING_P2P) }
    :: atomic { phase == 3 && state[d] == RESUMING -> arrive(STOP) }
    :: atomic { phase == 3 && state[d] == RUNNING_P2P -> arrive(STOP) }
    :: atomic { phase == 3 && state[d] == PRE_COPY && flags[d] == 5 -> arrive(STOP_COPY) }
    :: atomic { phase == 3 && state[d] == PRE_COPY && flags[d] == 7 -> arrive(PRE_COPY_P2P) }
    :: atomic { phase == 3 && state[d] == PRE_COPY_P2P -> arrive(STOP_COPY) }
    od
}

/* A phase is over when no move applies to any device. */
proctype Manager() {
    atomic { !moves_pre_copy(0) && !moves_pre_copy(1) -> phase = 1 };
    atomic { !moves_quiesce(0) && !moves_quiesce(1) -> phase = 2 };
    atomic { !moves_stop_the_one(0) && !moves_stop_the_one(1) -> phase = 3 };
    atomic { !moves_stop(0) && !moves_stop(1) -> assert(state[0] == STOP_COPY && state[1] == STOP_COPY) }
}

/* Every group the plan is for. Its devices are alike, so that their flags come in
 * order leaves none out. */
init {
    byte d, least, without_P2P;
    atomic {
end_no_such_group:
        do
        :: d < N && least <= 1 && without_P2P < 1 -> flags[d] = 1; least = 1; state[d] = RUNNING; without_P2P++; d++
        :: d < N && least <= 3 -> flags[d] = 3; least = 3; state[d] = RUNNING; d++
        :: d < N && least <= 5 && without_P2P < 1 -> flags[d] = 5; least = 5; state[d] = RUNNING; without_P2P++; d++
        :: d < N && least <= 7 -> flags[d] = 7; least = 7; state[d] = RUNNING; d++
        :: d == N -> break
        od;
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
