/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Copies memory from one process to another over UNIX stream sockets: what a migration has to be
 * compared with. Prints how many seconds it took, and how many of processor time in all.
 *
 *     copy SIZE
 *
 * The sender's memory has been written to, the receiver's is fresh, as it is in a migration.
 */
#include "peer.h"

#include <sys/resource.h>
#include <time.h>

enum { BLOCK = 1 << 20 };

static double spent(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage))
        err(1, "getrusage");
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void put_all(int sock, void *where, size_t size)
{
    struct iovec piece = {.iov_base = where, .iov_len = size};

    put(sock, &piece, 1);
}

static void sender(int sock, size_t size)
{
    char *from = memory(size);
    double before;
    char go = 0;

    memset(from, 1, size);
    put_all(sock, &go, 1);
    get(sock, &go, 1);
    before = spent();
    for (size_t done = 0; done < size; done += BLOCK)
        put_all(sock, from + done, size - done < BLOCK ? size - done : BLOCK);
    before = spent() - before;
    put_all(sock, &before, sizeof before);
    exit(0);
}

int main(int argc, char **argv)
{
    int pair[2];
    double begun, before, took, other;
    size_t size;
    char *to, go;

    if (argc != 2)
        errx(2, "usage: copy SIZE");
    size = number(argv[1]);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        err(2, "socketpair");
    enlarge(pair[0]);
    enlarge(pair[1]);
    switch (fork()) {
    case -1:
        err(2, "fork");
    case 0:
        close(pair[0]);
        sender(pair[1], size);
    }
    close(pair[1]);
    to = memory(size);
    get(pair[0], &go, 1);
    before = spent();
    begun = now();
    put_all(pair[0], &go, 1);
    for (size_t done = 0; done < size; done += BLOCK)
        get(pair[0], to + done, size - done < BLOCK ? size - done : BLOCK);
    took = now() - begun;
    before = spent() - before;
    get(pair[0], &other, sizeof other);
    printf("%.6f %.6f\n", took, before + other);
    return 0;
}
