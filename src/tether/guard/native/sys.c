#define _GNU_SOURCE
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The numbers are the same on every architecture; asm-generic/unistd.h. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int sys_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

int sys_pidfd_send_signal(int pidfd, int signum)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signum, NULL, 0);
}

int sys_close_range_cloexec(unsigned from)
{
    return (int)syscall(SYS_close_range, from, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
}

void sys_close_from(int from)
{
    if (syscall(SYS_close_range, (unsigned)from, ~0U, 0U) == 0)
        return;
    long most = sysconf(_SC_OPEN_MAX);
    for (int fd = from; fd < (most < 0 || most > 65536 ? 65536 : most); fd++)
        close(fd);
}

pid_t sys_fork_into(int folder)
{
    /* struct clone_args of linux/sched.h, as of Linux 5.7. */
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } how = {.flags = 0x200000000ULL /* CLONE_INTO_CGROUP */, .exit_signal = SIGCHLD, .cgroup = (uint64_t)folder};
    return (pid_t)syscall(SYS_clone3, &how, sizeof how);
}

ssize_t read_file(int folder, const char *path, char *text, size_t room)
{
    int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t have = 0;
    ssize_t got = 0;
    while (have + 1 < room) {
        got = read(fd, text + have, room - 1 - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    int error = errno;
    close(fd);
    text[have] = '\0';
    if (got < 0 && have == 0) {
        errno = error;
        return -1;
    }
    return (ssize_t)have;
}

int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t wrote = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return wrote < 0 ? -1 : 0;
}

bool format(char *text, size_t room, const char *pattern, ...)
{
    va_list arguments;
    va_start(arguments, pattern);
    int size = vsnprintf(text, room, pattern, arguments);
    va_end(arguments);
    return size >= 0 && (size_t)size < room;
}

void complain(const char *pattern, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, pattern);
    int size = vsnprintf(line, sizeof line - 1, pattern, arguments);
    va_end(arguments);
    if (size < 0)
        return;
    size_t length = (size_t)size < sizeof line - 1 ? (size_t)size : sizeof line - 2;
    line[length] = '\n';
    char whole[640];
    int all = snprintf(whole, sizeof whole, "tether-guard %d: %.*s", (int)getpid(), (int)length + 1, line);
    if (all > 0 && write(STDERR_FILENO, whole, (size_t)all < sizeof whole ? (size_t)all : sizeof whole - 1) < 0)
        return; /* Nobody is left to be told. */
}

static bool tier_is(const char *name)
{
    const char *asked = getenv("TETHER_TIER");
    return asked != NULL && strcmp(asked, name) == 0;
}

bool is_portable(void)
{
    return tier_is("portable");
}

bool wants_no_cgroup(void)
{
    return tier_is("portable") || tier_is("shim");
}

#ifdef TETHER_FAULTS
void fault(const char *name)
{
    const char *at = getenv("TETHER_GUARD_FAULTS");
    size_t size = strlen(name);
    while (at != NULL && *at != '\0') {
        if (strncmp(at, name, size) == 0 && at[size] == '=') {
            const char *what = at + size + 1;
            if (strncmp(what, "kill", 4) == 0)
                kill(getpid(), SIGKILL);
            if (strncmp(what, "delay:", 6) == 0)
                usleep((useconds_t)atoi(what + 6) * 1000);
        }
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
}
#endif
