/* A lease: what a tree has instead of a lifeline where its owner is on another host. Whoever may renew it comes and goes. */
#ifndef TETHER_LEASE_H
#define TETHER_LEASE_H

#include "wire.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOST_LINES = 8, LEASE_FDS = MOST_LINES + 1 };

/* Begin with one line, and a lease of so many milliseconds from now; false without a clock that goes on while the host sleeps. */
bool lease_open(int line, int64_t ms);
/* Renew it: so long from now. */
void lease_set(int64_t ms);
/* Add a line, greeted with a message; it is closed if there are too many. */
void lease_add(int line, struct outbox *greeting);
/* Tell all lines. */
void lease_say(struct outbox *box);
/* What is to be waited for; how many. */
nfds_t lease_poll(struct pollfd fds[LEASE_FDS]);
/* Have what was heard heeded, each message with its line. True if the lease is over: once, until it is renewed. */
bool lease_heed(const struct pollfd *fds, void (*heed)(struct inbox *inbox, int line));

#endif
