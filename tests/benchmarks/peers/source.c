/* SPDX-License-Identifier: BSD-3-Clause
 *
 * source SOCKET REQUEST HEAD BLOCK SIZE: answer each REQUEST bytes with HEAD bytes and the next
 * BLOCK of SIZE bytes of memory, from the beginning again after the last.
 *
 * The least that can be done to stream a memory: the bytes go from it to the socket, and nobody
 * looks at them.
 */

#include "peer.h"

int main(int argc, char **argv)
{
    if (argc != 6)
        errx(2, "usage: source SOCKET REQUEST HEAD BLOCK SIZE");
    size_t request = number(argv[2]), head = number(argv[3]), block = number(argv[4]);
    size_t size = number(argv[5]), at = 0;
    char *asked = memory(request + 1), *before = memory(head + 1), *all = memory(size);
    int sock;

    if (block == 0 || size % block)
        errx(2, "SIZE is no multiple of BLOCK");
    memset(all, 0, size); /* its pages are there before anybody asks, as those of a device are */
    sock = serve(argv[1]);
    while (get(sock, asked, request)) {
        struct iovec pieces[] = {{before, head}, {all + at, block}};

        put(sock, pieces, 2);
        at = (at + block) % size;
    }
    return 0;
}
