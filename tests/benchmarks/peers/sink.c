/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sink SOCKET HEAD BLOCK REPLY SIZE: read HEAD bytes and then BLOCK bytes, those to the next place
 * in SIZE bytes of memory, and answer REPLY bytes.
 *
 * The least that can be done to take a stream in: the bytes go from the socket to where they stay.
 * The memory is fresh at the first time round, and is given back after each, as that of a device
 * is that is just made or was reset.
 */

#include "peer.h"

int main(int argc, char **argv)
{
    if (argc != 6)
        errx(2, "usage: sink SOCKET HEAD BLOCK REPLY SIZE");
    size_t head = number(argv[2]), block = number(argv[3]), reply = number(argv[4]);
    size_t size = number(argv[5]), at = 0;
    char *before = memory(head + 1), *answer = memory(reply + 1), *all = memory(size);
    int sock;

    if (block == 0 || size % block)
        errx(2, "SIZE is no multiple of BLOCK");
    sock = serve(argv[1]);
    while (get(sock, before, head) && get(sock, all + at, block)) {
        struct iovec piece = {answer, reply};

        put(sock, &piece, 1);
        at = (at + block) % size;
        if (at == 0 && madvise(all, size, MADV_DONTNEED))
            err(1, "madvise");
    }
    return 0;
}
