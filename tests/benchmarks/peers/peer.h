/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the peers share: a UNIX stream socket, and reads and writes that are done only when all of
 * it is done. Whatever goes wrong ends the program with a message.
 */

#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 4 << 20 }; /* what the server under test asks for, too */

static inline struct sockaddr_un address(const char *path)
{
    struct sockaddr_un there = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof there.sun_path)
        errx(2, "%s: too long for a socket", path);
    strcpy(there.sun_path, path);
    return there;
}

static inline void enlarge(int sock)
{
    int size = BUFFER;

    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

static inline int open_socket(void)
{
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (sock < 0)
        err(2, "socket");
    return sock;
}

/* Wait for the one client. */
static inline int serve(const char *path)
{
    struct sockaddr_un here = address(path);
    int listener = open_socket(), sock;

    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1))
        err(2, "%s", path);
    sock = accept(listener, NULL, NULL);
    if (sock < 0)
        err(2, "accept");
    close(listener);
    enlarge(sock);
    return sock;
}

/* Send all of the pieces; they are used up. */
static inline void put(int sock, struct iovec *piece, int count)
{
    while (count) {
        struct msghdr message = {.msg_iov = piece, .msg_iovlen = count};
        ssize_t sent = sendmsg(sock, &message, MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno == EPIPE || errno == ECONNRESET)
                exit(0);
            err(1, "send");
        }
        for (; count && (size_t)sent >= piece->iov_len; piece++, count--)
            sent -= piece->iov_len;
        if (count) {
            piece->iov_base = (char *)piece->iov_base + sent;
            piece->iov_len -= sent;
        }
    }
}

/* Read `size` bytes. Without them: 0 if the other end closed, an error if it did so half-way. */
static inline int get(int sock, void *where, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = recv(sock, (char *)where + done, size - done, 0);

        if (got < 0 && errno == ECONNRESET)
            got = 0;
        if (got < 0)
            err(1, "recv");
        if (got == 0) {
            if (done)
                errx(1, "the other end closed after %zu of %zu bytes", done, size);
            return 0;
        }
        done += got;
    }
    return 1;
}

static inline void *memory(size_t size)
{
    void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (made == MAP_FAILED)
        err(2, "%zu bytes", size);
    return made;
}

static inline size_t number(const char *text)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || end == text || *end)
        errx(2, "%s: no number", text);
    return value;
}
