#define _GNU_SOURCE
#include "lease.h"

#include "sys.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static struct lease {
    int timer;
    int fds[MOST_LINES]; /* apart from the inboxes, of which most are never touched */
    struct inbox inboxes[MOST_LINES];
} lease;

bool lease_open(int line, int64_t ms)
{
    for (size_t i = 0; i < MOST_LINES; i++)
        lease.fds[i] = -1;
    lease.fds[0] = line;
    /* Time that the host sleeps through counts, and a lease that was over meanwhile is so at the moment it wakes; timerfd_create(2). */
    lease.timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (lease.timer < 0)
        lease.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (lease.timer < 0)
        return false;
    lease_set(ms);
    return true;
}

void lease_set(int64_t ms)
{
    ms = ms < 1 ? 1 : ms;
    struct itimerspec over = {.it_value = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000}};
    if (timerfd_settime(lease.timer, 0, &over, NULL) < 0)
        complain("the lease could not be renewed");
}

static void drop(size_t i)
{
    close(lease.fds[i]);
    lease.fds[i] = -1;
    if (lease.inboxes[i].data != NULL)
        inbox_clear(&lease.inboxes[i]);
}

void lease_add(int fd, struct outbox *greeting)
{
    for (size_t i = 0; i < MOST_LINES; i++) {
        if (lease.fds[i] >= 0)
            continue;
        if (outbox_send(greeting, fd, -1) < 0)
            break;
        lease.fds[i] = fd;
        return;
    }
    close(fd);
}

void lease_say(struct outbox *box)
{
    for (size_t i = 0; i < MOST_LINES; i++)
        if (lease.fds[i] >= 0 && outbox_send(box, lease.fds[i], -1) < 0)
            /* It has gone, or does not read: it finds all of this out when it comes again. */
            drop(i);
}

nfds_t lease_poll(struct pollfd fds[LEASE_FDS])
{
    for (size_t i = 0; i < MOST_LINES; i++)
        fds[i] = (struct pollfd){lease.fds[i], POLLIN, 0};
    fds[MOST_LINES] = (struct pollfd){lease.timer, POLLIN, 0};
    return LEASE_FDS;
}

static void read_line(size_t i, void (*heed)(struct inbox *inbox, int line))
{
    while (lease.fds[i] >= 0) {
        enum got got = inbox_read(&lease.inboxes[i], lease.fds[i]);
        if (got == GOT_NOTHING)
            return;
        if (got == GOT_END) {
            drop(i);
            return;
        }
        heed(&lease.inboxes[i], lease.fds[i]);
        inbox_clear(&lease.inboxes[i]);
    }
}

bool lease_heed(const struct pollfd *fds, void (*heed)(struct inbox *inbox, int line))
{
    uint64_t expired;
    for (size_t i = 0; i < MOST_LINES; i++)
        if (fds[i].revents != 0 && lease.fds[i] == fds[i].fd)
            read_line(i, heed);
    /* After the messages: a renewal that came in time and is read late still counts. */
    return fds[MOST_LINES].revents != 0 && read(lease.timer, &expired, sizeof expired) == (ssize_t)sizeof expired;
}
