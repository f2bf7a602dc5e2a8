/* cgroup v2, where it is writable. Source: Documentation/admin-guide/cgroup-v2.rst of the kernel. */
#ifndef TETHER_CGROUP_H
#define TETHER_CGROUP_H

#include <stdbool.h>

/* Make a cgroup that can be killed as a whole (cgroup.kill, Linux 5.14); false where that is not to be had. */
bool cgroup_make(const char *folder);
/* Kill everything in it and below it, forks in flight included. */
bool cgroup_kill(const char *folder);
/* Remove it and the folders below it; false if somebody is in them still. */
bool cgroup_remove(const char *folder);

#endif
