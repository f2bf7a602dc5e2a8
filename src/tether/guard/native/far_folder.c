/* A folder for each tree: its log, its shim's socket, who shim and command are, and in the end the receipt. */
#define _GNU_SOURCE
#include "far.h"

#include "receipt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FORGET_S = 14 * 24 * 3600 };

int folder_open(const char *path)
{
    struct stat status;
    if (!format(far.home, sizeof far.home, "%s", path))
        return ENAMETOOLONG;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return errno;
    if (lstat(path, &status) < 0)
        return errno;
    /* In /tmp anybody could have made it. */
    if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 077) != 0)
        return EPERM;
    return 0;
}

static bool is_tag(const char *tag)
{
    return tag[0] != '\0' && strspn(tag, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == strlen(tag);
}

bool folder_path(const char *tag, const char *name, char *path, size_t room)
{
    return is_tag(tag) && format(path, room, "%s/%s%s%s", far.home, tag, name[0] == '\0' ? "" : "/", name);
}

bool folder_exists(const char *tag)
{
    char path[PATH_ROOM];
    struct stat status;
    return folder_path(tag, "", path, sizeof path) && stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* Write a file that is whole whenever it is there. After a reboot nothing lives that it could tell of, so it needs no sync. */
static bool write_whole(const char *tag, const char *name, const char *text)
{
    char path[PATH_ROOM], fresh[PATH_ROOM + 8];
    if (!folder_path(tag, name, path, sizeof path) || !format(fresh, sizeof fresh, "%s.new", path))
        return false;
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    bool whole = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return whole && rename(fresh, path) == 0;
}

bool who_read(const char *tag, struct who *who)
{
    char path[PATH_ROOM], text[256];
    *who = (struct who){0};
    if (!folder_path(tag, "who", path, sizeof path) || read_file(AT_FDCWD, path, text, sizeof text) <= 0)
        return false;
    char *at = text;
    who->life = strtoll(at, &at, 10);
    who->shim = (pid_t)strtol(at, &at, 10);
    who->shim_start = strtoull(at, &at, 10);
    who->main = (pid_t)strtol(at, &at, 10);
    who->start = strtoull(at, &at, 10);
    at += *at == ' ';
    size_t size = strcspn(at, "\n");
    return size < sizeof who->boot && format(who->boot, sizeof who->boot, "%.*s", (int)size, at);
}

void who_write(const char *tag, const struct who *who)
{
    char text[256];
    if (format(text, sizeof text, "%lld %d %llu %d %llu %s\n", (long long)who->life, (int)who->shim, (unsigned long long)who->shim_start,
               (int)who->main, (unsigned long long)who->start, who->boot) &&
        !write_whole(tag, "who", text))
        /* The shim is reached by its socket; only what it leaves if it is killed is harder to find. */
        complain("who holds %s could not be written: %s", tag, strerror(errno));
}

size_t receipt_read(const char *tag, char *text, size_t room)
{
    char path[PATH_ROOM], name[64];
    struct who who;
    if (!who_read(tag, &who) || !format(name, sizeof name, "%s.%lld.ended", tag, (long long)who.life) ||
        !folder_path(tag, name, path, sizeof path))
        return 0;
    ssize_t size = read_file(AT_FDCWD, path, text, room);
    return size > 0 ? (size_t)size : 0;
}

void receipt_write(const char *tag, int64_t life, const char *why, const char *said)
{
    static const struct segments none;
    char path[PATH_ROOM];
    struct receipt receipt = {tag, life, false, 0, why, said, &none};
    if (folder_path(tag, "", path, sizeof path))
        receipt_leave(path, &receipt);
}

/* Call `each` with every name in a folder. */
static void each_name(const char *path, void (*each)(int folder, const char *name))
{
    DIR *folder = opendir(path);
    if (folder == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(dirfd(folder), entry->d_name);
    closedir(folder);
}

static void remove_name(int folder, const char *name)
{
    unlinkat(folder, name, 0);
}

bool folder_remove(const char *tag)
{
    char path[PATH_ROOM];
    if (!folder_path(tag, "", path, sizeof path))
        return false;
    /* Two may clear at once: whoever comes second finds nothing, or half of it. */
    for (int i = 0; i < 3; i++) {
        each_name(path, remove_name);
        if (rmdir(path) == 0 || errno == ENOENT)
            return true;
    }
    return false;
}

static void forget_if_old(int folder, const char *name)
{
    char text[RECEIPT_ROOM];
    struct stat status;
    struct who who;
    time_t old = time(NULL) - FORGET_S;
    /* The last that was done in the folder of a tree was to leave its receipt. */
    if (who_read(name, &who) && receipt_read(name, text, sizeof text) > 0 && fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        status.st_mtime < old)
        folder_remove(name);
}

/* A program of another version of tether, which nobody began in that time. */
static void forget_program(int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && status.st_mtime < time(NULL) - FORGET_S)
        unlinkat(folder, name, 0);
}

void folders_forget_old(void)
{
    char path[PATH_ROOM];
    each_name(far.home, forget_if_old);
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return;
    path[size] = '\0';
    *strrchr(path, '/') = '\0';
    /* Only where programs are kept that were sent. */
    if (strstr(path, "/tether-guard-") == NULL)
        return;
    utimensat(AT_FDCWD, "/proc/self/exe", NULL, 0);
    each_name(path, forget_program);
}

static void say_if_running(int folder, const char *name)
{
    char text[RECEIPT_ROOM];
    struct who who;
    (void)folder;
    if (who_read(name, &who) && receipt_read(name, text, sizeof text) == 0)
        say_text(KEY_RUNNING, name);
}

void folders_say_running(void)
{
    each_name(far.home, say_if_running);
}

void log_piece(const struct inbox *request, int64_t id, const char *tag)
{
    static char data[PIECE_MOST];
    char path[PATH_ROOM];
    struct stat status = {0};
    int64_t offset = number_of(request, KEY_OFFSET, 0), size = number_of(request, KEY_SIZE, PIECE_MOST);
    int fd = folder_path(tag, "log", path, sizeof path) ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    ssize_t got = 0;
    if (fd >= 0) {
        fstat(fd, &status);
        if (offset < 0)
            offset = status.st_size + offset < 0 ? 0 : status.st_size + offset;
        size = size < 0 ? 0 : size > PIECE_MOST ? PIECE_MOST : size;
        got = pread(fd, data, (size_t)size, (off_t)offset);
        close(fd);
    }
    answer(id);
    say_number(KEY_OFFSET, offset < 0 ? 0 : offset);
    say_number(KEY_SIZE, status.st_size);
    say_bytes(KEY_DATA, data, got < 0 ? 0 : (size_t)got);
    say_end();
}
