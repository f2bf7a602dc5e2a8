/* How a tree ended, as a line of JSON. */
#ifndef TETHER_RECEIPT_H
#define TETHER_RECEIPT_H

#include "shm.h"

#include <stdbool.h>
#include <stdint.h>

enum { RECEIPT_ROOM = 8192 };

struct receipt {
    const char *tag;
    int64_t life;
    bool has_status;
    int status; /* as in subprocess: negative for a signal */
    const char *why, *said;
    const struct segments *removed;
};

/* Append it to a file of many. */
void receipt_append(int fd, const struct receipt *receipt);
/* Leave it as a file of its own, TAG.LIFE.ended in `run_dir`, for whoever asks later. */
void receipt_leave(const char *run_dir, const struct receipt *receipt);

#endif
