/* The end of a tree: asked politely, then by force, round by round. */
#ifndef TETHER_ENDING_H
#define TETHER_ENDING_H

#include "tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOST_STUCK = 16, DETAIL_ROOM = 160 };

/* Why a member that was killed is still there. */
struct stuck {
    pid_t pid;
    const char *reason; /* "other user", "traced", "frozen", "uninterruptible", "forking", "alive" */
    char detail[DETAIL_ROOM];
};

struct killing {
    bool on;
    bool swept; /* the cgroup was killed as a whole */
    int64_t began, next, pause;
    int64_t unchanged_since;
    uint64_t last_sum;
    int rounds;
    uint64_t said_sum;
    bool said;
};

void killing_begin(struct killing *killing);
/* Milliseconds until the next round; 0 if it is due. */
int64_t killing_wait_ms(const struct killing *killing);
/* Members have ended: what remains need not be waited for. */
void killing_hurry(struct killing *killing);
/* One round, unless there was one a moment ago. How many are stuck, if that is to be said now; else 0. */
size_t killing_round(struct killing *killing, const struct tree *tree, const char *folder, struct stuck stuck[MOST_STUCK]);

/* Signal the children of this process, each with its whole process group where that is the tree's own. */
void signal_roots(const struct tree *tree, int signum);
/* Signal the process group of a child that is not waited for; the child alone where the group is not the tree's own. */
void signal_group(pid_t child, int signum);
/* Signal every member by its identity. */
void signal_members(const struct tree *tree, int signum);

#endif
