#define _GNU_SOURCE
#include "far.h"

#include "receipt.h"
#include "tree.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

static struct members all;

static void add(pid_t pid, uint64_t start)
{
    if (all.count < MOST_MEMBERS)
        all.list[all.count++] = (struct member){pid, start};
}

static pid_t parents[MOST_MEMBERS];
static struct members table;

static bool add_row(const struct stat_line *line, void *more)
{
    (void)more;
    if (table.count == MOST_MEMBERS)
        return false;
    parents[table.count] = line->parent;
    table.list[table.count++] = (struct member){line->pid, line->start};
    return true;
}

/* All live descendants of a shim. */
static void find_below(pid_t shim, uint64_t start)
{
    static pid_t below[4096];
    struct stat_line line;
    bool files = has_children_files();
    all.count = 0;
    add(shim, start);
    table.count = 0;
    if (!files)
        each_process(add_row, NULL);
    for (size_t next = 0; next < all.count; next++) {
        pid_t parent = all.list[next].pid;
        size_t count = files ? children_of(parent, all.list[next].start, below, sizeof below / sizeof *below) : 0;
        for (size_t i = 0; i < count; i++)
            if (read_stat(below[i], &line) && line.parent == parent)
                add(line.pid, line.start);
        for (size_t i = 0; i < table.count; i++)
            if (parents[i] == parent)
                add(table.list[i].pid, table.list[i].start);
    }
    /* The shim itself is none. */
    memmove(all.list, all.list + 1, --all.count * sizeof *all.list);
}

/* The members of a tree, in `all`; true if its shim lives. */
static bool find_members(const char *tag, const struct who *who)
{
    char log[PATH_ROOM];
    bool same_boot = strcmp(who->boot, far.boot) == 0;
    all.count = 0;
    if (!same_boot)
        return false;
    struct stat_line line;
    if (read_stat(who->shim, &line) && line.start == who->shim_start && is_running(&line)) {
        find_below(who->shim, who->shim_start);
        return true;
    }
    struct tree tree = {.hub = -1};
    tree.marks.main = who->main;
    tree.marks.start = who->start;
    tree.marks.log = folder_path(tag, "log", log, sizeof log) ? log : NULL;
    format(tree.marks.tag, sizeof tree.marks.tag, "%s", tag);
    tree_forget();
    tree_find(&tree, &all);
    return false;
}

bool has_members(const char *tag)
{
    struct who who;
    return who_read(tag, &who) && (find_members(tag, &who), all.count > 0);
}

/* Ticks of processor time, and pages of memory; fields 14, 15 and 24 of proc_pid_stat(5). */
static void add_usage(pid_t pid, int64_t *ticks, int64_t *pages)
{
    char path[64], text[1024];
    if (!format(path, sizeof path, "/proc/%d/stat", (int)pid) || read_file(AT_FDCWD, path, text, sizeof text) <= 0)
        return;
    char *at = strrchr(text, ')');
    if (at == NULL || at[1] == '\0')
        return;
    at += 3;
    for (int field = 4; field <= 24 && *at != '\0'; field++) {
        long long value = strtoll(at + 1, &at, 10);
        if (field == 14 || field == 15)
            *ticks += value;
        else if (field == 24)
            *pages += value;
    }
}

void do_look(int64_t id, const char *tag)
{
    char receipt[RECEIPT_ROOM];
    struct who who;
    struct stat_line line;
    int64_t ticks = 0, pages = 0;
    if (!folder_exists(tag)) {
        answer(id);
        say_end();
        return;
    }
    if (!who_read(tag, &who))
        /* Its start was cut off before there was a shim. */
        who.life = 1;
    else if (strcmp(who.boot, far.boot) != 0 && receipt_read(tag, receipt, sizeof receipt) == 0)
        end_rest(tag);
    const struct holding *holding = holding_of(tag);
    size_t size = receipt_read(tag, receipt, sizeof receipt);
    all.count = 0;
    bool alive = size == 0 && find_members(tag, &who);
    answer(id);
    say_text(KEY_BOOT, who.boot);
    say_number(KEY_LIFE, who.life);
    say_number(KEY_SHIM, who.shim);
    say_number(KEY_SHIM_START, (int64_t)who.shim_start);
    say_number(KEY_PID, who.main);
    say_number(KEY_START, (int64_t)who.start);
    say_number(KEY_ALIVE, alive);
    if (holding != NULL)
        say_number(KEY_FENCE, holding->fence);
    if (holding != NULL && holding->exited)
        say_number(KEY_STATUS, holding->status);
    if (size > 0)
        say_bytes(KEY_RECEIPT, receipt, size);
    for (size_t i = 0; i < all.count; i++) {
        if (!read_stat(all.list[i].pid, &line) || !is_running(&line))
            continue;
        say_number(KEY_MEMBER, all.list[i].pid);
        add_usage(all.list[i].pid, &ticks, &pages);
    }
    say_number(KEY_CPU_MS, ticks * 1000 / sysconf(_SC_CLK_TCK));
    say_number(KEY_MEMORY, pages * sysconf(_SC_PAGESIZE));
    say_end();
}

/* -- ports ------------------------------------------------------------------------------------------------------------------------ */

enum { MOST_SOCKETS = 64 };

struct sockets {
    unsigned long long inodes[MOST_SOCKETS];
    size_t count;
};

/* The sockets that listen on a port; proc_net(5). */
static void find_listening(const char *path, int port, struct sockets *found)
{
    char line[512];
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned number, state;
        unsigned long long inode;
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %llu", &number, &state, &inode) == 3 && state == 0x0A &&
            (int)number == port && found->count < MOST_SOCKETS)
            found->inodes[found->count++] = inode;
    }
    fclose(file);
}

static bool has_socket(pid_t pid, const struct sockets *sockets)
{
    char path[64], target[64];
    DIR *folder = format(path, sizeof path, "/proc/%d/fd", (int)pid) ? opendir(path) : NULL;
    bool found = false;
    if (folder == NULL)
        return false;
    for (struct dirent *entry; !found && (entry = readdir(folder)) != NULL;) {
        ssize_t size = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
        unsigned long long inode;
        if (size <= 0)
            continue;
        target[size] = '\0';
        if (sscanf(target, "socket:[%llu]", &inode) != 1)
            continue;
        for (size_t i = 0; i < sockets->count; i++)
            found = found || sockets->inodes[i] == inode;
    }
    closedir(folder);
    return found;
}

void do_listens(const struct inbox *request, int64_t id, const char *tag)
{
    int port = (int)number_of(request, KEY_PORT, 0);
    struct sockets sockets = {.count = 0};
    struct who who;
    char missing[96] = "";
    find_listening("/proc/net/tcp", port, &sockets);
    find_listening("/proc/net/tcp6", port, &sockets);
    all.count = 0;
    if (who_read(tag, &who))
        find_members(tag, &who);
    bool found = false;
    for (size_t i = 0; i < all.count && !found; i++)
        found = has_socket(all.list[i].pid, &sockets);
    if (sockets.count == 0)
        format(missing, sizeof missing, "nothing listens on port %d there", port);
    else if (!found)
        format(missing, sizeof missing, "port %d there is held by a process outside its tree", port);
    answer(id);
    say_text(KEY_MISSING, missing);
    say_end();
}

/* A port that is free on both loopback addresses. */
void do_port(int64_t id)
{
    for (int i = 0; i < 16; i++) {
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        socklen_t size = sizeof four;
        int first = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), second = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool good = first >= 0 && bind(first, (struct sockaddr *)&four, sizeof four) == 0 &&
                    getsockname(first, (struct sockaddr *)&four, &size) == 0;
        six.sin6_port = four.sin_port;
        good = good && (second < 0 || bind(second, (struct sockaddr *)&six, sizeof six) == 0 || errno != EADDRINUSE);
        if (first >= 0)
            close(first);
        if (second >= 0)
            close(second);
        if (!good)
            continue;
        answer(id);
        say_number(KEY_PORT, ntohs(four.sin_port));
        say_end();
        return;
    }
    answer_error(id, EADDRINUSE, "");
}

void do_diagnose(int64_t id)
{
    struct statvfs room = {0};
    statvfs(far.home, &room);
    answer(id);
    say_number(KEY_FREE, (int64_t)(room.f_bavail * room.f_frsize));
    folders_say_running();
    say_end();
}
