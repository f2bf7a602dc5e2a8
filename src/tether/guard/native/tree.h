/* Who belongs to the tree that this process holds. */
#ifndef TETHER_TREE_H
#define TETHER_TREE_H

#include "sys.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { MOST_MEMBERS = 32768 };

struct member {
    pid_t pid;
    uint64_t start;
};

/* What was found by one look. In a tree of more members than there is room for, the rest is found by a later look. */
struct members {
    struct member list[MOST_MEMBERS];
    size_t count;
    uint64_t sum; /* differs when the set does */
};

/* By what a tree is recognised where the kernel keeps no lineage (the portable tier). */
struct marks {
    pid_t main;
    uint64_t start;
    char tag[TAG_ROOM];
    const char *log; /* or NULL */
};

struct tree {
    bool by_lineage;               /* this process is a child subreaper: its descendants are the tree */
    bool (*is_other)(pid_t child); /* children of this process that are no members; NULL for none */
    struct marks marks;
    pid_t hub;
};

/* Take note of who is there, in the portable tier, so that whoever leaves its parent next is still known. */
void tree_look(const struct tree *tree);
/* All members, parents before children. */
void tree_find(const struct tree *tree, struct members *found);
/* The members that are children of this process, zombies included. */
size_t tree_roots(const struct tree *tree, pid_t *roots, size_t room);
/* Forget what the portable tier knew of an earlier tree. */
void tree_forget(void);
/* In the portable tier: kill what forks and exits faster than all processes can be looked at. True if there was such. */
bool tree_chase(const struct tree *tree);

#endif
