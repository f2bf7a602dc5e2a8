/* The shim: the parent of one command and of all that is below it. It ends only when that has ended. */
#ifndef TETHER_SHIM_H
#define TETHER_SHIM_H

#include "sys.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { SLOT_KEPT = 1, SLOT_LOST = 2, SLOT_ARMED = 4 };

/* What a hub must know of a shim should that be killed, in memory that both share: nothing said there can get lost. */
struct slot {
    pid_t pid;
    uint32_t number;
    uint32_t flags;
    pid_t main;
    uint64_t start;
    int64_t since_ns;
    char tag[TAG_ROOM];
};

struct inbox;

/* What a shim inherits from its hub. */
struct inheritance {
    int channel;  /* to the owner */
    int shims;    /* where the owner hears of shims */
    int offered;  /* the owner's end of the channel, to be sent there */
    int lifeline; /* ends with the owner */
    int owner;    /* a pidfd of the owner, or -1 */
    int hub;      /* a pidfd of the hub, or -1 */
    pid_t hub_pid;
    int signals;  /* a signalfd */
    int receipts; /* a file that receipts are appended to, or -1 */
    bool subreaper;
    struct slot *slot;
    struct inbox
        *leased; /* the request to be executed at once, under a lease instead of a lifeline, and the channel one of several; or NULL */
    char folder[PATH_ROOM]; /* the cgroup that the command is to be born in, or "" */
};

/* Serve until the tree has ended, or if there never was one. The exit status: 0 if nothing is left. */
int shim_serve(const struct inheritance *inheritance);

#endif
