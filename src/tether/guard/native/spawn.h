/* How a shim executes a command. */
#ifndef TETHER_SPAWN_H
#define TETHER_SPAWN_H

#include "wire.h"

#include <sys/types.h>

/* What the kernel refused, as the child says it. */
struct spawn_failure {
    int number; /* errno */
    int what;   /* enum refused_at */
};

/* Fork, and execute the command of the request. `folder` is the cgroup that it is born in, or "". The descriptors of the request are
 * left to the caller. At `*error` is a descriptor that ends when the command was executed, or gives a struct spawn_failure.
 * The child, or -1 with errno. */
pid_t spawn(const struct inbox *request, const char *folder, int *error);

#endif
