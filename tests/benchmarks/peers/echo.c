/* SPDX-License-Identifier: BSD-3-Clause
 *
 * echo SOCKET REQUEST REPLY: read REQUEST bytes, answer REPLY bytes, again and again.
 *
 * The least that a server can do; what a round trip costs without any work.
 */

#include "peer.h"

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: echo SOCKET REQUEST REPLY");
    size_t request = number(argv[2]), reply = number(argv[3]);
    char *asked = memory(request + 1), *answer = memory(reply + 1);
    int sock = serve(argv[1]);

    while (get(sock, asked, request)) {
        struct iovec piece = {answer, reply};

        put(sock, &piece, 1);
    }
    return 0;
}
