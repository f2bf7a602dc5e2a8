/* A server group that is killed at once takes its resource tracker along, and its segments stay, hundreds of megabytes at a time. But
 * users' files lie beside them, and "a member mapped it" does not prove that the tree made it. So only names that libraries generate,
 * only what came into being since the tree began and was seen in the hands of a member, only what is open nowhere afterwards, and only
 * where the end was by force. Source: shm_overview(7), statx(2), proc_pid_maps(5). */
#define _GNU_SOURCE
#include "shm.h"

#include "proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FOLDER "/dev/shm"

/* What Python's multiprocessing, PyTorch, NCCL, joblib, OpenMP and Open MPI call theirs. */
static const char *const generated[] = {"psm_", "sem.mp-", "sem.loky-", "torch_", "nccl-", "__KMP_REGISTERED_LIB_", "vader_segment."};

static bool is_generated(const char *name)
{
    for (size_t i = 0; i < sizeof generated / sizeof *generated; i++)
        if (strncmp(name, generated[i], strlen(generated[i])) == 0)
            return true;
    return false;
}

static bool was_made_since(int folder, const char *name, int64_t since_ns, struct segment *segment)
{
    struct statx status;
    if (statx(folder, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &status) < 0)
        return false;
    if (!S_ISREG(status.stx_mode) || status.stx_uid != geteuid())
        return false;
    struct statx_timestamp made = status.stx_mask & STATX_BTIME ? status.stx_btime : status.stx_ctime;
    segment->device = makedev(status.stx_dev_major, status.stx_dev_minor);
    segment->inode = (ino_t)status.stx_ino;
    /* File times are those of the last tick of the kernel's clock, up to 10 ms ago. */
    return (int64_t)made.tv_sec * 1000000000 + made.tv_nsec >= since_ns - 10000000;
}

static void find_candidates(struct segments *found, int64_t since_ns)
{
    _Alignas(8) char room[8192];
    long got;
    found->count = 0;
    int folder = open(FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return;
    while ((got = syscall(SYS_getdents64, folder, room, sizeof room)) > 0)
        for (long at = 0; at < got;) {
            unsigned short size;
            memcpy(&size, room + at + 16, sizeof size);
            const char *name = room + at + 19;
            at += size;
            struct segment *segment = &found->list[found->count];
            if (!is_generated(name) || !format(segment->name, sizeof segment->name, "%s", name))
                continue;
            if (was_made_since(folder, name, since_ns, segment) && found->count + 1 < MOST_SEGMENTS)
                found->count++;
        }
    close(folder);
}

/* Whether a line of /proc/PID/maps is of this segment: device and inode, since a name may belong to another file by now. */
static bool maps_line_is(const char *line, const struct segment *segment)
{
    unsigned major_of, minor_of;
    unsigned long inode;
    return sscanf(line, "%*s %*s %*s %x:%x %lu", &major_of, &minor_of, &inode) == 3 && makedev(major_of, minor_of) == segment->device &&
           inode == segment->inode;
}

static void mark_mapped(pid_t pid, const struct segments *segments, bool used[MOST_SEGMENTS])
{
    static char text[1 << 15];
    char path[64];
    if (!format(path, sizeof path, "/proc/%d/maps", (int)pid))
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    size_t have = 0;
    ssize_t got;
    while ((got = read(fd, text + have, sizeof text - 1 - have)) > 0) {
        have += (size_t)got;
        text[have] = '\0';
        char *at = text;
        for (char *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
            *end = '\0';
            for (size_t i = 0; i < segments->count; i++)
                used[i] = used[i] || (strstr(at, FOLDER) != NULL && maps_line_is(at, &segments->list[i]));
        }
        have = at == text && have == sizeof text - 1 ? 0 : (size_t)(text + have - at);
        memmove(text, at, have);
    }
    close(fd);
}

static void mark_open(pid_t pid, const struct segments *segments, bool used[MOST_SEGMENTS])
{
    _Alignas(8) char room[8192];
    char path[64];
    struct stat status;
    long got;
    if (!format(path, sizeof path, "/proc/%d/fd", (int)pid))
        return;
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return;
    while ((got = syscall(SYS_getdents64, folder, room, sizeof room)) > 0)
        for (long at = 0; at < got;) {
            unsigned short size;
            memcpy(&size, room + at + 16, sizeof size);
            const char *name = room + at + 19;
            at += size;
            if (name[0] == '.' || fstatat(folder, name, &status, 0) < 0)
                continue;
            for (size_t i = 0; i < segments->count; i++)
                used[i] = used[i] || (status.st_dev == segments->list[i].device && status.st_ino == segments->list[i].inode);
        }
    close(folder);
}

static bool is_noted(const struct segments *segments, const struct segment *segment)
{
    for (size_t i = 0; i < segments->count; i++)
        if (segments->list[i].device == segment->device && segments->list[i].inode == segment->inode)
            return true;
    return false;
}

void shm_note(struct segments *segments, const struct tree *tree, int64_t since_ns)
{
    static struct segments candidates;
    static struct members members;
    bool used[MOST_SEGMENTS] = {false};
    find_candidates(&candidates, since_ns);
    if (candidates.count == 0)
        return;
    tree_find(tree, &members);
    for (size_t i = 0; i < members.count; i++) {
        mark_mapped(members.list[i].pid, &candidates, used);
        mark_open(members.list[i].pid, &candidates, used);
    }
    for (size_t i = 0; i < candidates.count; i++)
        if (used[i] && segments->count < MOST_SEGMENTS && !is_noted(segments, &candidates.list[i]))
            segments->list[segments->count++] = candidates.list[i];
}

struct asking {
    const struct segments *segments;
    bool used[MOST_SEGMENTS];
};

static bool ask(const struct stat_line *line, void *more)
{
    struct asking *asking = more;
    mark_mapped(line->pid, asking->segments, asking->used);
    mark_open(line->pid, asking->segments, asking->used);
    return true;
}

void shm_remove_unused(struct segments *segments)
{
    struct asking asking = {.segments = segments};
    char path[NAME_ROOM + 16];
    size_t removed = 0;
    if (segments->count == 0)
        return;
    each_process(ask, &asking);
    for (size_t i = 0; i < segments->count; i++) {
        struct segment *each = &segments->list[i];
        struct stat status;
        bool same = format(path, sizeof path, FOLDER "/%s", each->name) && lstat(path, &status) == 0 && status.st_dev == each->device &&
                    status.st_ino == each->inode;
        if (same && !asking.used[i] && unlink(path) == 0)
            segments->list[removed++] = *each;
    }
    segments->count = removed;
}
