/* Shared memory that a tree made and that nobody uses after its end. */
#ifndef TETHER_SHM_H
#define TETHER_SHM_H

#include "sys.h"
#include "tree.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { MOST_SEGMENTS = 64 };

struct segment {
    char name[NAME_ROOM];
    dev_t device;
    ino_t inode;
};

struct segments {
    size_t count;
    struct segment list[MOST_SEGMENTS];
};

/* Note the segments of this user with a generated name, made since `since_ns`, that a member of the tree has mapped or open. */
void shm_note(struct segments *segments, const struct tree *tree, int64_t since_ns);
/* Remove those that no process has mapped or open any more; those that stay are dropped from the list. */
void shm_remove_unused(struct segments *segments);

#endif
