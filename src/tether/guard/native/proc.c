#define _GNU_SOURCE
#include "proc.h"

#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux_dirent64, from getdents64(2): no memory is asked for while a tree ends, which opendir(3) would do. */
struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* Whether something could not be read for want of descriptors or memory, so that who was not seen may be there all the same. */
static bool blind;

bool proc_was_blind(void)
{
    bool was = blind;
    blind = false;
    return was;
}

static void note_blindness(void)
{
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        blind = true;
}

static bool parse_stat(char *text, struct stat_line *line)
{
    /* The name stands in brackets and may have any byte, brackets too: what counts is the last closing one. */
    char *at = strrchr(text, ')');
    if (at == NULL || at[1] == '\0')
        return false;
    line->pid = (pid_t)strtol(text, NULL, 10);
    at += 2;
    line->state = *at++;
    /* From field 4 on; proc_pid_stat(5). */
    for (int field = 4; field <= 22; field++) {
        unsigned long long value = strtoull(at, &at, 10);
        switch (field) {
        case 4:
            line->parent = (pid_t)value;
            break;
        case 5:
            line->group = (pid_t)value;
            break;
        case 6:
            line->session = (pid_t)value;
            break;
        case 20:
            line->threads = (int)value;
            break;
        case 22:
            line->start = value;
            break;
        default:
            break;
        }
    }
    return true;
}

bool read_stat(pid_t pid, struct stat_line *line)
{
    char path[64], text[1024];
    if (!format(path, sizeof path, "/proc/%d/stat", (int)pid))
        return false;
    ssize_t size = read_file(AT_FDCWD, path, text, sizeof text);
    if (size < 0)
        note_blindness();
    return size > 0 && parse_stat(text, line);
}

bool is_running(const struct stat_line *line)
{
    return (line->state != 'Z' && line->state != 'X') || line->threads > 1;
}

uint64_t start_of(pid_t pid)
{
    struct stat_line line;
    return read_stat(pid, &line) ? line.start : 0;
}

static size_t read_pids(int folder, const char *path, pid_t *found, size_t room)
{
    char text[4096];
    int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        note_blindness();
        return 0;
    }
    size_t count = 0, kept = 0;
    ssize_t got;
    /* A number may be cut by the end of a piece: what follows the last blank is kept for the next. */
    while ((got = read(fd, text + kept, sizeof text - 1 - kept)) > 0) {
        size_t size = kept + (size_t)got;
        text[size] = '\0';
        char *at = text;
        for (char *blank; (blank = strchr(at, ' ')) != NULL; at = blank + 1)
            if (count < room)
                found[count++] = (pid_t)strtol(at, NULL, 10);
        kept = size - (size_t)(at - text);
        memmove(text, at, kept);
    }
    if (got < 0)
        note_blindness();
    close(fd);
    return count;
}

bool has_children_files(void)
{
    char path[64];
    return !is_portable() && format(path, sizeof path, "/proc/%d/task/%d/children", (int)getpid(), (int)getpid()) &&
           access(path, R_OK) == 0;
}

/* Call `each` with every name in a folder that is a number. */
static void each_number(int folder, bool (*each)(pid_t number, void *more), void *more)
{
    _Alignas(struct entry) char room[8192];
    long got;
    while ((got = syscall(SYS_getdents64, folder, room, sizeof room)) > 0)
        for (long at = 0; at < got;) {
            struct entry *entry = (struct entry *)(void *)(room + at);
            at += entry->size;
            if (entry->name[0] >= '1' && entry->name[0] <= '9' && !each((pid_t)strtol(entry->name, NULL, 10), more))
                return;
        }
    if (got < 0)
        note_blindness();
}

struct gathering {
    int folder; /* /proc/PID/task */
    pid_t *found;
    size_t count, room;
};

static bool gather_thread(pid_t thread, void *more)
{
    struct gathering *all = more;
    char path[64];
    if (format(path, sizeof path, "%d/children", (int)thread))
        all->count += read_pids(all->folder, path, all->found + all->count, all->room - all->count);
    return true;
}

size_t children_of(pid_t pid, uint64_t start, pid_t *found, size_t room)
{
    char path[64], text[1024];
    struct stat_line line;
    if (!format(path, sizeof path, "/proc/%d", (int)pid))
        return 0;
    /* The folder stays that process's, whoever has its number later. */
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ssize_t size = folder < 0 ? -1 : read_file(folder, "stat", text, sizeof text);
    if (size < 0)
        note_blindness();
    if (folder < 0)
        return 0;
    size_t count = 0;
    if (size > 0 && parse_stat(text, &line) && line.start == start) {
        int tasks = openat(folder, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct gathering all = {tasks, found, 0, room};
        if (tasks >= 0) {
            if (line.threads == 1)
                gather_thread(pid, &all);
            else
                each_number(tasks, gather_thread, &all);
            close(tasks);
        } else {
            note_blindness();
        }
        count = all.count;
    }
    close(folder);
    return count;
}

void each_thread(pid_t pid, bool (*each)(pid_t thread, void *more), void *more)
{
    char path[64];
    int folder = format(path, sizeof path, "/proc/%d/task", (int)pid) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (folder < 0)
        return;
    each_number(folder, each, more);
    close(folder);
}

struct visiting {
    bool (*each)(const struct stat_line *line, void *more);
    void *more;
};

static bool visit(pid_t pid, void *more)
{
    struct visiting *visiting = more;
    struct stat_line line;
    return !read_stat(pid, &line) || visiting->each(&line, visiting->more);
}

void each_process(bool (*each)(const struct stat_line *line, void *more), void *more)
{
    int folder = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        note_blindness();
        return;
    }
    struct visiting visiting = {each, more};
    each_number(folder, visit, &visiting);
    close(folder);
}

int open_verified(pid_t pid, uint64_t start)
{
    if (pid <= 1) {
        errno = ESRCH;
        return -1;
    }
    /* Opened first and compared after: a number that was given to another in between is found out, one given later can't be hit. */
    int fd = sys_pidfd_open(pid);
    if (fd >= 0 && start_of(pid) != start) {
        close(fd);
        errno = ESRCH;
        return -1;
    }
    return fd;
}

int signal_verified(pid_t pid, uint64_t start, int signum)
{
    int fd = is_portable() ? -1 : open_verified(pid, start);
    if (fd < 0 && !is_portable() && errno != ENOSYS && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
        return errno;
    int result;
    if (fd >= 0) {
        result = sys_pidfd_send_signal(fd, signum) < 0 ? errno : 0;
        close(fd);
    } else {
        /* Without pidfds, or with no descriptor to be had: between two system calls nobody gets the number. */
        result = pid <= 1 || start_of(pid) != start ? ESRCH : kill(pid, signum) < 0 ? errno : 0;
    }
    return result;
}
