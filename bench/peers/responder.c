/*
 * A responder for load tests: one thread, epoll, keep-alive HTTP/1.1, as little work for a request as can be.
 *
 *   responder PORT [BYTES]   GET and POST anything: 200 with BYTES bytes (100); /bytes/N: 200 with N bytes
 *   responder PORT echo      raw TCP: every byte comes back
 *
 * Port 0 lets the system choose. The first line on standard output is {"event":"listening","address":"127.0.0.1:PORT"}.
 * It trusts who speaks to it: requests have a Content-Length or no body, and a head fits 16 KiB.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_HEAD = 16 << 10, ECHO_BUFFER = 256 << 10, BLOCK = 1 << 20, EVENTS = 256 };

struct conn {
    int fd;
    int writable_wanted;
    /* What has been read and not been understood yet; in echo mode, what has not been sent back yet. */
    size_t have, sent, room;
    /* A request whose head is read: bytes of its body still to be dropped, and how long the answer's body will be. */
    int asked;
    size_t drop, answer;
    /* What is left of the response: its head, then its body out of `block`. */
    char head[128];
    size_t head_len, head_sent, body_left;
    char in[];
};

static char block[BLOCK];
static size_t default_body = 100;
static int echo, epoll_fd;

static void end(struct conn *c) {
    close(c->fd);
    free(c);
}

static void want_writable(struct conn *c, int want) {
    if (c->writable_wanted == want) return;
    c->writable_wanted = want;
    /* While a response waits for room, the next request waits too: that is the back-pressure. */
    struct epoll_event event = {.events = want ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void begin_response(struct conn *c, size_t body) {
    c->head_len = (size_t)snprintf(c->head, sizeof c->head,
                                   "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", body);
    c->head_sent = 0;
    c->body_left = body;
}

/* 1: all is sent; 0: the socket is full; -1: the connection is gone. */
static int send_response(struct conn *c) {
    while (c->head_sent < c->head_len || c->body_left > 0) {
        struct iovec parts[2] = {
            {c->head + c->head_sent, c->head_len - c->head_sent},
            {block, c->body_left < BLOCK ? c->body_left : BLOCK},
        };
        ssize_t n = writev(c->fd, parts, 2);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        size_t of_head = (size_t)n < parts[0].iov_len ? (size_t)n : parts[0].iov_len;
        c->head_sent += of_head;
        c->body_left -= (size_t)n - of_head;
    }
    return 1;
}

static size_t content_length(const char *head, const char *stop) {
    for (const char *line = head; line && line < stop; line = memchr(line, '\n', (size_t)(stop - line))) {
        if (*line == '\n') line++;
        if (stop - line > 15 && strncasecmp(line, "content-length:", 15) == 0) return strtoul(line + 15, NULL, 10);
    }
    return 0;
}

static size_t wanted_body(const char *head) {
    const char *path = memchr(head, ' ', 16);
    if (path && strncmp(path, " /bytes/", 8) == 0) return strtoul(path + 8, NULL, 10);
    return default_body;
}

/* Answers every whole request that has been read. 1: go on reading; 0: wait for room; -1: gone. */
static int serve(struct conn *c) {
    for (;;) {
        int done = send_response(c);
        if (done <= 0) return done;
        size_t dropped = c->drop < c->have ? c->drop : c->have;
        c->drop -= dropped;
        c->have -= dropped;
        if (dropped > 0 && c->have > 0) memmove(c->in, c->in + dropped, c->have);
        if (c->drop > 0) return 1;
        if (c->asked) {
            c->asked = 0;
            begin_response(c, c->answer);
            continue;
        }
        char *stop = c->have ? memmem(c->in, c->have, "\r\n\r\n", 4) : NULL;
        if (!stop) return c->have == c->room ? -1 : 1;
        size_t head = (size_t)(stop - c->in) + 4;
        c->asked = 1;
        c->answer = wanted_body(c->in);
        c->drop = content_length(c->in, stop);
        c->have -= head;
        if (c->have > 0) memmove(c->in, c->in + head, c->have);
    }
}

static int send_back(struct conn *c) {
    while (c->sent < c->have) {
        ssize_t n = write(c->fd, c->in + c->sent, c->have - c->sent);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        c->sent += (size_t)n;
    }
    c->have = c->sent = 0;
    return 1;
}

/* One turn of a connection: what waits goes out, then one read and what it asks for. */
static void turn(struct conn *c) {
    int go = echo ? send_back(c) : serve(c);
    while (go == 1) {
        size_t free_room = c->room - c->have;
        ssize_t n = read(c->fd, c->in + c->have, free_room);
        if (n == 0 || (n < 0 && errno != EAGAIN)) go = -1;
        if (n <= 0) break;
        c->have += (size_t)n;
        go = echo ? send_back(c) : serve(c);
        /* A read that did not fill the buffer has taken all there was: one EAGAIN saved. */
        if ((size_t)n < free_room) break;
    }
    if (go < 0)
        end(c);
    else
        want_writable(c, go == 0);
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        size_t room = echo ? ECHO_BUFFER : MAX_HEAD;
        struct conn *c = calloc(1, sizeof *c + room);
        if (!c) {
            close(fd);
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->fd = fd;
        c->room = room;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static int bind_port(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) < 0) {
        perror("responder");
        exit(1);
    }
    printf("{\"event\":\"listening\",\"address\":\"127.0.0.1:%d\"}\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: responder PORT [BYTES|echo]\n");
        return 2;
    }
    if (argc == 3) {
        echo = strcmp(argv[2], "echo") == 0;
        default_body = echo ? 0 : strtoul(argv[2], NULL, 10);
    }
    signal(SIGPIPE, SIG_IGN);
    memset(block, 'x', sizeof block);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = bind_port(atoi(argv[1]));
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.ptr = NULL}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &events[0]);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                turn(events[i].data.ptr);
            else
                accept_all(listener);
        }
    }
}
