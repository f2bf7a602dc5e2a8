#define _GNU_SOURCE
#include "cgroup.h"

#include "sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DEEPEST = 32 };

bool cgroup_make(const char *folder)
{
    char path[PATH_ROOM];
    if (mkdir(folder, 0755) < 0 && errno != EEXIST)
        return false;
    if (format(path, sizeof path, "%s/cgroup.kill", folder) && access(path, W_OK) == 0)
        return true;
    rmdir(folder);
    return false;
}

bool cgroup_kill(const char *folder)
{
    char path[PATH_ROOM];
    return format(path, sizeof path, "%s/cgroup.kill", folder) && write_file(path, "1") == 0;
}

static void remove_below(int folder, int depth)
{
    _Alignas(8) char room[4096];
    long got;
    while (depth < DEEPEST && (got = syscall(SYS_getdents64, folder, room, sizeof room)) > 0)
        for (long at = 0; at < got;) {
            /* linux_dirent64: inode, offset (8 bytes each), size (2), type (1), name. */
            unsigned short size;
            memcpy(&size, room + at + 16, sizeof size);
            const char *name = room + at + 19;
            char type = room[at + 18];
            at += size;
            if (type != DT_DIR || name[0] == '.')
                continue;
            int below = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (below >= 0) {
                remove_below(below, depth + 1);
                close(below);
            }
            unlinkat(folder, name, AT_REMOVEDIR);
        }
}

/* Somebody lives in it or below it; a zombie does not count. */
static bool is_populated(const char *folder)
{
    char path[PATH_ROOM], text[256];
    return format(path, sizeof path, "%s/cgroup.events", folder) && read_file(AT_FDCWD, path, text, sizeof text) > 0 &&
           strstr(text, "populated 1") != NULL;
}

bool cgroup_remove(const char *folder)
{
    if (rmdir(folder) == 0 || errno == ENOENT)
        return true;
    if (is_populated(folder))
        return false;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return true;
    remove_below(fd, 0);
    close(fd);
    rmdir(folder);
    return true;
}
