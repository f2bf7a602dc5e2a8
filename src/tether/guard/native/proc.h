/* What /proc says of processes. Source: proc(5). */
#ifndef TETHER_PROC_H
#define TETHER_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct stat_line {
    pid_t pid, parent, group, session;
    char state;
    int threads;
    uint64_t start; /* clock ticks since boot */
};

bool read_stat(pid_t pid, struct stat_line *line);
/* More than a zombie: one whose first thread has ended lives in the others. */
bool is_running(const struct stat_line *line);
/* Whether since the last call something could not be read for want of descriptors or memory: who was not seen may be there. */
bool proc_was_blind(void);
/* When `pid` started; 0 if it has gone. */
uint64_t start_of(pid_t pid);

/* The children of `pid`, whose identity is (pid, start): at most `room`. Their number; 0 also if it is not that process. */
size_t children_of(pid_t pid, uint64_t start, pid_t *found, size_t room);
bool has_children_files(void);

/* Call `each` for every process until it returns false. */
void each_process(bool (*each)(const struct stat_line *line, void *more), void *more);

/* Call `each` for every thread of a process until it returns false. */
void each_thread(pid_t pid, bool (*each)(pid_t thread, void *more), void *more);

/* Open a pidfd for the process that started then; -1 with errno, ESRCH if it has gone. */
int open_verified(pid_t pid, uint64_t start);
/* Signal the process of this identity: 0, or the errno. */
int signal_verified(pid_t pid, uint64_t start, int signum);

#endif
