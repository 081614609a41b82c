/*
 * A bad link: two TUN devices, one here and one in another network namespace, and what passes from one to the other
 * is late and sometimes lost.
 *
 *   lossy NAME NAMESPACE OTHER MICROSECONDS PERCENT [SEED]
 *
 * NAME is the device here, OTHER that in the namespace, which is a file of /run/netns. Every packet takes MICROSECONDS
 * in its direction, PERCENT of those of each direction are lost, picked by SEED (1): the n-th packet of a direction has
 * the same fate in every run. Only IPv4 is carried. Devices go with the process; addresses are up to whoever starts it.
 *
 * SIGUSR1 drops UDP from now on, SIGUSR2 lets it pass again. The first line on standard output is {"event":"ready"}.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* As many as a fast path has under way; what comes while all are taken is lost, as in any queue. */
enum { PACKETS = 16384, LARGEST = 2048, IPV4 = 4, HEAD = 20, PROTOCOL = 9, UDP = 17 };

struct packet {
    int64_t due;
    size_t len;
    unsigned char bytes[LARGEST];
};

/* One direction. */
struct way {
    int from, to;
    uint64_t dice;
    size_t first, count;
    struct packet *packets;
};

static int64_t delay;
static double loss;
static volatile sig_atomic_t udp_blocked;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void on_signal(int number) { udp_blocked = number == SIGUSR1; }

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int tun(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("/dev/net/tun");
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (ioctl(fd, TUNSETIFF, &request) < 0) fail(name);
    return fd;
}

static void enter(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) fail(path);
    close(fd);
}

/* xorshift64*: the high bits as a number from 0 to 1. */
static double roll(struct way *w) {
    w->dice ^= w->dice >> 12;
    w->dice ^= w->dice << 25;
    w->dice ^= w->dice >> 27;
    return (double)((w->dice * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

/* Takes what has come in. */
static void take(struct way *w) {
    static unsigned char lost[LARGEST];
    for (;;) {
        struct packet *p = w->count < PACKETS ? &w->packets[(w->first + w->count) % PACKETS] : NULL;
        unsigned char *bytes = p ? p->bytes : lost;
        ssize_t n = read(w->from, bytes, LARGEST);
        if (n <= 0) return;
        /* What the system says by itself over IPv6 would change everybody's fate. */
        if (n < HEAD || bytes[0] >> 4 != IPV4) continue;
        int gone = roll(w) < loss;
        if (!p || gone || (udp_blocked && bytes[PROTOCOL] == UDP)) continue;
        p->len = (size_t)n;
        p->due = now() + delay;
        w->count++;
    }
}

/* Hands out what is due; when the next one is, or 0. */
static int64_t give(struct way *w) {
    while (w->count > 0) {
        struct packet *p = &w->packets[w->first];
        if (p->due > now()) return p->due;
        /* A device without room loses it. */
        if (write(w->to, p->bytes, p->len) < 0 && errno != EAGAIN && errno != ENOBUFS && errno != EIO) fail("write");
        w->first = (w->first + 1) % PACKETS;
        w->count--;
    }
    return 0;
}

static void open_way(struct way *w, int from, int to, uint64_t seed) {
    *w = (struct way){.from = from, .to = to, .dice = seed * 0x9E3779B97F4A7C15ULL | 1};
    w->packets = calloc(PACKETS, sizeof *w->packets);
    if (!w->packets) fail("calloc");
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: lossy NAME NAMESPACE OTHER MICROSECONDS PERCENT [SEED]\n");
        return 2;
    }
    delay = atoll(argv[4]) * 1000;
    loss = atof(argv[5]) / 100;
    uint64_t seed = argc > 6 ? strtoull(argv[6], NULL, 10) : 1;
    int here = tun(argv[1]);
    enter(argv[2]);
    int there = tun(argv[3]);

    static struct way ways[2];
    open_way(&ways[0], here, there, 2 * seed);
    open_way(&ways[1], there, here, 2 * seed + 1);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    puts("{\"event\":\"ready\"}");
    fflush(stdout);

    struct pollfd fds[2] = {{.fd = here, .events = POLLIN}, {.fd = there, .events = POLLIN}};
    for (;;) {
        int64_t due = 0;
        for (int i = 0; i < 2; i++) {
            take(&ways[i]);
            int64_t next = give(&ways[i]);
            if (next && (!due || next < due)) due = next;
        }
        int64_t wait = due ? due - now() : 1000000000LL;
        struct timespec timeout = {wait > 0 ? wait / 1000000000LL : 0, wait > 0 ? wait % 1000000000LL : 0};
        if (ppoll(fds, 2, &timeout, NULL) < 0 && errno != EINTR) fail("ppoll");
    }
}
