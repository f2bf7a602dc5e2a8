#ifndef TETHER_HUB_H
#define TETHER_HUB_H

#include <stdbool.h>

/* Be the hub of an owner, whose pidfd was given or not. The exit status. */
int hub_main(bool has_pidfd);

#endif
