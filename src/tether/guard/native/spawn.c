#define _GNU_SOURCE
#include "spawn.h"

#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The fields of a request that are lists, as arrays of C strings. They are cut out of one mapping, made before the fork. */
struct lists {
    char **argv, **env, **programs;
    char *cwd;
    void *mapping;
    size_t mapped;
};

static size_t count_of(const struct inbox *request, int key)
{
    struct field field;
    size_t count = 0;
    for (size_t at = 0; next_field(request, &at, &field);)
        count += field.key == key;
    return count;
}

static char **take_list(const struct inbox *request, int key, char ***slot, char **room)
{
    struct field field;
    char **list = *slot;
    for (size_t at = 0; next_field(request, &at, &field);) {
        if (field.key != key)
            continue;
        memcpy(*room, field.bytes, field.size);
        (*room)[field.size] = '\0';
        *(*slot)++ = *room;
        *room += field.size + 1;
    }
    *(*slot)++ = NULL;
    return list;
}

static bool take_lists(const struct inbox *request, struct lists *lists)
{
    static const int keys[] = {KEY_ARG, KEY_ENV, KEY_PROGRAM, KEY_CWD};
    size_t count = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        count += count_of(request, keys[i]) + 1;
    /* Each text is shorter than its field with the head, so that the request's own size is enough for all of them. */
    lists->mapped = request->size + count * sizeof(char *) + 16;
    lists->mapping = mmap(NULL, lists->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (lists->mapping == MAP_FAILED)
        return false;
    char **slot = lists->mapping;
    char *room = (char *)(slot + count);
    lists->argv = take_list(request, KEY_ARG, &slot, &room);
    lists->env = take_list(request, KEY_ENV, &slot, &room);
    lists->programs = take_list(request, KEY_PROGRAM, &slot, &room);
    char **cwd = take_list(request, KEY_CWD, &slot, &room);
    lists->cwd = cwd[0];
    return true;
}

static void fail(int error, int number, int what)
{
    struct spawn_failure failure = {number, what};
    if (write(error, &failure, sizeof failure) < 0)
        _exit(126);
    _exit(127);
}

/* Put what was sent at the numbers that were asked for. A number of -1 - n says that n is closed. */
static int place_descriptors(const struct inbox *request, int *error)
{
    static int sources[WIRE_FDS], targets[WIRE_FDS];
    struct field field;
    int above = 2;
    size_t count = 0, taken = 0;
    for (size_t at = 0; next_field(request, &at, &field);)
        if (field.key == KEY_TARGET && field_number(&field) > above)
            above = (int)field_number(&field);
    /* Out of the way first, so that no target overwrites a source. */
    int moved = fcntl(*error, F_DUPFD_CLOEXEC, above + 1);
    if (moved < 0)
        return errno;
    close(*error);
    *error = moved;
    for (size_t at = 0; next_field(request, &at, &field);) {
        if (field.key != KEY_TARGET)
            continue;
        int target = (int)field_number(&field);
        if (target < 0) {
            close(-1 - target);
            continue;
        }
        if (taken >= request->fd_count || count >= WIRE_FDS)
            return EBADF;
        targets[count] = target;
        sources[count] = fcntl(request->fds[taken++], F_DUPFD_CLOEXEC, above + 1);
        if (sources[count++] < 0)
            return errno;
    }
    for (size_t i = 0; i < count; i++)
        if (dup2(sources[i], targets[i]) < 0)
            return errno;
    return 0;
}

/* The working directory: a path, or the descriptor that was sent after those of the targets. */
static int enter_folder(const struct inbox *request, const char *cwd)
{
    if (cwd != NULL)
        return chdir(cwd) < 0 ? errno : 0;
    size_t taken = 0;
    struct field field;
    for (size_t at = 0; next_field(request, &at, &field);)
        taken += field.key == KEY_TARGET && field_number(&field) >= 0;
    if (taken >= request->fd_count)
        return 0;
    return fchdir(request->fds[taken]) < 0 ? errno : 0;
}

static int set_limits(const struct inbox *request, int *what)
{
    struct field field;
    for (size_t at = 0; next_field(request, &at, &field);) {
        if (field.key != KEY_RLIMIT || field.size != 24)
            continue;
        struct field part[3];
        for (int i = 0; i < 3; i++)
            part[i] = (struct field){KEY_RLIMIT, field.bytes + 8 * i, 8};
        struct rlimit limit = {(rlim_t)field_number(&part[1]), (rlim_t)field_number(&part[2])};
        int which = (int)field_number(&part[0]);
        *what = which >= 0 && which < AT_MOST - AT_LIMIT ? AT_LIMIT + which : AT_MOST;
        if (setrlimit(which, &limit) < 0)
            return errno;
    }
    return 0;
}

static int set_priority(const struct inbox *request, int *what)
{
    struct field field;
    char text[16];
    *what = AT_NICE;
    if (find_field(request, KEY_NICE, &field) && setpriority(PRIO_PROCESS, 0, (int)field_number(&field)) < 0)
        return errno;
    *what = AT_AFFINITY;
    if (find_field(request, KEY_AFFINITY, &field) && syscall(SYS_sched_setaffinity, 0, field.size, field.bytes) < 0)
        return errno;
    *what = AT_OOM;
    if (find_field(request, KEY_OOM, &field)) {
        format(text, sizeof text, "%d", (int)field_number(&field));
        if (write_file("/proc/self/oom_score_adj", text) < 0)
            return errno;
    }
    return 0;
}

static int become_user(const struct inbox *request, int *what)
{
    struct field field;
    static gid_t groups[65536];
    *what = AT_GROUPS;
    if (find_field(request, KEY_GROUPS, &field)) {
        size_t count = field.size / 8 < sizeof groups / sizeof *groups ? field.size / 8 : sizeof groups / sizeof *groups;
        for (size_t i = 0; i < count; i++) {
            struct field each = {KEY_GROUPS, field.bytes + 8 * i, 8};
            groups[i] = (gid_t)field_number(&each);
        }
        if (setgroups(count, groups) < 0)
            return errno;
    }
    int64_t gid = number_of(request, KEY_GID, -1), uid = number_of(request, KEY_UID, -1);
    *what = AT_GID;
    if (gid >= 0 && setresgid((gid_t)gid, (gid_t)gid, (gid_t)gid) < 0)
        return errno;
    *what = AT_UID;
    if (uid >= 0 && setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) < 0)
        return errno;
    return 0;
}

static int lead(const struct inbox *request)
{
    if (number_of(request, KEY_SESSION, 1) != 0) {
        return setsid() < 0 ? errno : 0;
    }
    int64_t group = number_of(request, KEY_GROUP, -1);
    return group >= 0 && setpgid(0, (pid_t)group) < 0 ? errno : 0;
}

static void restore_signals(const struct inbox *request)
{
    struct field field;
    sigset_t mask;
    /* posix_spawn(3) of glibc has two signals of its own ignored, which its signal(3) won't touch. All zero is SIG_DFL. */
    static const uint64_t by_default[8];
    for (int signum = 1; signum < NSIG; signum++)
        if (signal(signum, SIG_DFL) == SIG_ERR)
            syscall(SYS_rt_sigaction, signum, by_default, NULL, sizeof(uint64_t));
    for (size_t at = 0; next_field(request, &at, &field);)
        if (field.key == KEY_IGNORED)
            signal((int)field_number(&field), SIG_IGN);
    uint64_t blocked = (uint64_t)number_of(request, KEY_MASK, 0);
    sigemptyset(&mask);
    for (int signum = 1; signum <= 64 && signum < NSIG; signum++)
        if (blocked >> (signum - 1) & 1)
            sigaddset(&mask, signum);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

/* Execute the first program that can be, like execvp(3); a file that may not be executed tells more than the absence of others. */
static int execute(const struct inbox *request, const struct lists *lists)
{
    int refused = ENOENT;
    for (char **program = lists->programs; *program != NULL; program++) {
        execve(*program, lists->argv, lists->env);
        if (errno == ENOEXEC && number_of(request, KEY_SHELL, 0) != 0 && lists->argv[0] != NULL) {
            /* A script without a first line that names its interpreter, as a shell takes it. The slot before argv is not ours. */
            static char *words[4096];
            size_t count = 0;
            words[count++] = (char *)(uintptr_t)"/bin/sh";
            words[count++] = *program;
            char **word = lists->argv + 1;
            while (*word != NULL && count + 1 < sizeof words / sizeof *words)
                words[count++] = *word++;
            words[count] = NULL;
            errno = E2BIG;
            if (*word == NULL)
                execve("/bin/sh", words, lists->env);
        }
        if ((errno != ENOENT && errno != ENOTDIR) || refused == ENOENT)
            refused = errno;
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
            break;
    }
    return refused;
}

static _Noreturn void be_command(const struct inbox *request, const struct lists *lists, int error)
{
    int what = AT_GROUP, number = lead(request);
    struct rlimit most;
    /* Descriptors may be wanted above the soft limit; what the command gets is set after they are placed. */
    if (getrlimit(RLIMIT_NOFILE, &most) == 0) {
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    number = number != 0 ? number : set_priority(request, &what);
    if (number != 0)
        fail(error, number, what);
    number = enter_folder(request, lists->cwd);
    if (number != 0)
        fail(error, number, AT_FOLDER);
    sys_close_range_cloexec(3);
    what = AT_DESCRIPTORS;
    number = place_descriptors(request, &error);
    /* A terminal of its own stands at its standard input by now. */
    if (number == 0 && number_of(request, KEY_TERMINAL, 0) != 0 && ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0) {
        what = AT_TERMINAL;
        number = errno;
    }
    number = number != 0 ? number : set_limits(request, &what);
    number = number != 0 ? number : become_user(request, &what);
    if (number != 0)
        fail(error, number, what);
    umask((mode_t)number_of(request, KEY_UMASK, 022));
    restore_signals(request);
    fail(error, execute(request, lists), AT_PROGRAM);
    _exit(127);
}

static pid_t fork_into(const char *folder, bool *inside)
{
    *inside = false;
    int fd = folder[0] == '\0' ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        pid_t child = sys_fork_into(fd);
        int number = errno;
        close(fd);
        if (child >= 0) {
            *inside = true;
            return child;
        }
        if (number == EAGAIN || number == ENOMEM) {
            errno = number;
            return -1;
        }
    }
    return fork();
}

pid_t spawn(const struct inbox *request, const char *folder, int *error)
{
    int ends[2];
    struct lists lists;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    if (!take_lists(request, &lists)) {
        close(ends[0]);
        close(ends[1]);
        errno = ENOMEM;
        return -1;
    }
    bool inside;
    pid_t child = fork_into(folder, &inside);
    if (child == 0) {
        char path[PATH_ROOM];
        if (!inside && folder[0] != '\0' && format(path, sizeof path, "%s/cgroup.procs", folder))
            write_file(path, "0");
        be_command(request, &lists, ends[1]);
    }
    int number = errno;
    munmap(lists.mapping, lists.mapped);
    close(ends[1]);
    if (child < 0)
        close(ends[0]);
    else
        *error = ends[0];
    errno = number;
    return child;
}
