/* System calls that older C libraries do not know, and small questions to the kernel. */
#ifndef TETHER_SYS_H
#define TETHER_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { PATH_ROOM = 4096, TAG_ROOM = 40, NAME_ROOM = 256 };

/* Milliseconds on a clock that only goes forward. */
int64_t now_ms(void);
/* Nanoseconds since the epoch, as file times are. */
int64_t wall_ns(void);

int sys_pidfd_open(pid_t pid);
int sys_pidfd_send_signal(int pidfd, int signum);
int sys_close_range_cloexec(unsigned from);
void sys_close_from(int from);
/* fork(2), the child born in the cgroup whose folder is open at `folder`; -1 with errno, ENOSYS where the kernel can't. */
pid_t sys_fork_into(int folder);

/* Read a file whole or in part, ended by a NUL. Bytes without that, or -1 with errno. */
ssize_t read_file(int folder, const char *path, char *text, size_t room);
/* Write a short text in one step; 0, or -1 with errno. */
int write_file(const char *path, const char *text);

/* snprintf into a buffer; false if it was cut. */
bool format(char *text, size_t room, const char *pattern, ...) __attribute__((format(printf, 3, 4)));
/* A line on standard error, which is the log of the guard. */
void complain(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

/* Whether a weaker way of holding trees is asked for (TETHER_TIER). */
bool is_portable(void);
bool wants_no_cgroup(void);

#ifdef TETHER_FAULTS
/* A named point where a test may kill or delay this process: TETHER_GUARD_FAULTS="shim.forked=kill,hub.fork=delay:200". */
void fault(const char *name);
#else
static inline void fault(const char *name)
{
    (void)name;
}
#endif

#endif
