/* SPDX-License-Identifier: BSD-3-Clause
 *
 * drive SOCKET: the client of every benchmark, the same for both sides of a ratio.
 *
 * It does what it is asked on standard input, a line each, and answers with a line of nanoseconds.
 * A message is given as its bytes in hex and the size of the reply that it is to have.
 *
 *   turns COUNT MESSAGE SIZE [MESSAGE SIZE]...   send the messages in turn, COUNT in all, each
 *                                                once the last one's reply is there
 *   write FILE BLOCK HEAD SIZE                   send all whole BLOCKs of FILE, each behind HEAD
 *
 * Behind the nanoseconds stand, in hex, the first bytes of the last reply.
 */

#include <time.h>

#include "peer.h"

enum { MOST = 8, SHOWN = 40 };

struct message {
    char *bytes;
    size_t length, reply;
};

static unsigned long long now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static struct message parse(const char *hex, const char *reply)
{
    struct message made = {.length = strlen(hex) / 2, .reply = number(reply)};

    made.bytes = malloc(made.length + 1);
    for (size_t at = 0; at < made.length; at++) {
        unsigned int value;

        if (sscanf(hex + 2 * at, "%2x", &value) != 1)
            errx(2, "%s: no hex", hex);
        made.bytes[at] = value;
    }
    return made;
}

static char *room(size_t size)
{
    static char *where;
    static size_t have;

    if (size > have) {
        free(where);
        where = malloc(size);
        if (!where)
            err(2, "%zu bytes", size);
        memset(where, 0, size);
        have = size;
    }
    return where;
}

static void say(unsigned long long began, const char *reply, size_t size)
{
    printf("%llu ", now() - began);
    for (size_t at = 0; at < size && at < SHOWN; at++)
        printf("%02x", (unsigned char)reply[at]);
    putchar('\n');
    fflush(stdout);
}

static void turns(int sock, size_t count, struct message *messages, int many)
{
    char *reply = NULL;
    struct message *one = NULL;
    unsigned long long began;

    for (int at = 0; at < many; at++)
        reply = room(messages[at].reply);
    began = now();
    for (size_t turn = 0; turn < count; turn++) {
        one = &messages[turn % many];
        struct iovec piece = {one->bytes, one->length};

        put(sock, &piece, 1);
        if (!get(sock, reply, one->reply))
            errx(1, "the server is gone");
    }
    say(began, reply, one ? one->reply : 0);
}

static void write_file(int sock, const char *path, size_t block, struct message head)
{
    FILE *file = fopen(path, "rb");
    char *reply = room(head.reply), *all;
    unsigned long long began;
    long size;

    if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0)
        err(2, "%s", path);
    all = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fileno(file), 0);
    if (all == MAP_FAILED)
        err(2, "%s", path);
    began = now();
    for (size_t at = 0; at + block <= (size_t)size; at += block) {
        struct iovec pieces[] = {{head.bytes, head.length}, {all + at, block}};

        put(sock, pieces, 2);
        if (!get(sock, reply, head.reply))
            errx(1, "the server is gone");
    }
    say(began, reply, head.reply);
    munmap(all, size);
    fclose(file);
}

int main(int argc, char **argv)
{
    struct sockaddr_un there;
    struct timeval timeout = {.tv_sec = 20};
    char *line = NULL;
    size_t length = 0;
    int sock;

    if (argc != 2)
        errx(2, "usage: drive SOCKET");
    there = address(argv[1]);
    sock = open_socket();
    if (connect(sock, (struct sockaddr *)&there, sizeof there))
        err(2, "%s", argv[1]);
    enlarge(sock);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    while (getline(&line, &length, stdin) > 0) {
        char *words[3 + 2 * MOST];
        int count = 0;

        for (char *word = strtok(line, " \n"); word && count < 2 + 2 * MOST;
             word = strtok(NULL, " \n"))
            words[count++] = word;
        if (count >= 4 && count % 2 == 0 && !strcmp(words[0], "turns")) {
            struct message messages[MOST];
            int many = (count - 2) / 2;

            for (int at = 0; at < many; at++)
                messages[at] = parse(words[2 + 2 * at], words[3 + 2 * at]);
            turns(sock, number(words[1]), messages, many);
            for (int at = 0; at < many; at++)
                free(messages[at].bytes);
        } else if (count == 5 && !strcmp(words[0], "write")) {
            struct message head = parse(words[3], words[4]);

            write_file(sock, words[1], number(words[2]), head);
            free(head.bytes);
        } else {
            errx(2, "cannot read what to do");
        }
    }
    return 0;
}
