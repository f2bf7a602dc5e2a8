#define _GNU_SOURCE
#include "ending.h"

#include "cgroup.h"
#include "proc.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ROUND_PAUSE_MS = 5, /* long enough not to list a dying tree over and over, short enough to catch what re-forks */
    LONGEST_PAUSE_MS = 1000,
    STUCK_AFTER_MS = 2000, /* after so long without a change members are said to be stuck */
    STOP_LOOKS = 8,
};

/* Two looks, so that a round sees whether anybody came meanwhile. Nothing here asks for memory. */
static struct members first, second;
/* Whom this user may not signal, found by the last round. */
static struct members refused;

void killing_begin(struct killing *killing)
{
    *killing = (struct killing){.on = true, .began = now_ms(), .pause = ROUND_PAUSE_MS};
    killing->next = killing->unchanged_since = killing->began;
}

int64_t killing_wait_ms(const struct killing *killing)
{
    int64_t left = killing->next - now_ms();
    return left > 0 ? left : 0;
}

void killing_hurry(struct killing *killing)
{
    int64_t soon = now_ms() + 1;
    if (killing->on && killing->next > soon && killing->pause <= 8 * ROUND_PAUSE_MS)
        killing->next = soon;
}

static void send_all(const struct members *all, int signum)
{
    refused.count = 0;
    /* The youngest first: whoever is stopped later can't find out about it and fork again. */
    for (size_t i = all->count; i-- > 0;)
        if (signal_verified(all->list[i].pid, all->list[i].start, signum) == EPERM && refused.count < MOST_STUCK)
            refused.list[refused.count++] = all->list[i];
}

static bool find_in_file(const char *path, const char *line, char *value, size_t room)
{
    char text[4096];
    if (read_file(AT_FDCWD, path, text, sizeof text) <= 0)
        return false;
    char *at = strstr(text, line);
    if (at == NULL)
        return false;
    at += strlen(line);
    while (*at == ' ' || *at == '\t')
        at++;
    size_t size = strcspn(at, "\n");
    if (size >= room)
        return false;
    memcpy(value, at, size);
    value[size] = '\0';
    return true;
}

/* Whether one of the two freezers holds it; cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst of the kernel. */
static bool is_frozen(pid_t pid, char *folder, size_t room)
{
    char path[64], name[PATH_ROOM], file[2 * PATH_ROOM], state[32];
    if (!format(path, sizeof path, "/proc/%d/cgroup", (int)pid))
        return false;
    if (find_in_file(path, ":freezer:", name, sizeof name) && format(file, sizeof file, "/sys/fs/cgroup/freezer%s/freezer.state", name) &&
        find_in_file(file, "", state, sizeof state) && strcmp(state, "THAWED") != 0)
        return format(folder, room, "cgroup %s", name);
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    for (size_t i = 0; i < 2; i++)
        if (find_in_file(path, "0::", name, sizeof name) && format(file, sizeof file, "%s%s/cgroup.events", mounts[i], name) &&
            find_in_file(file, "frozen", state, sizeof state) && state[0] == '1')
            return format(folder, room, "cgroup %s", name);
    return false;
}

static void explain(struct stuck *stuck, const struct member *member, const char *otherwise)
{
    char path[64], value[64];
    struct stat_line line;
    stuck->pid = member->pid;
    stuck->reason = otherwise;
    stuck->detail[0] = '\0';
    if (!read_stat(member->pid, &line) || line.start != member->start)
        return;
    if (format(path, sizeof path, "/proc/%d/status", (int)member->pid) && find_in_file(path, "TracerPid:", value, sizeof value) &&
        strcmp(value, "0") != 0) {
        stuck->reason = "traced";
        format(stuck->detail, sizeof stuck->detail, "by pid %s", value);
    } else if (is_frozen(member->pid, stuck->detail, sizeof stuck->detail)) {
        stuck->reason = "frozen";
    } else if (line.state == 'D') {
        stuck->reason = "uninterruptible";
        if (format(path, sizeof path, "/proc/%d/wchan", (int)member->pid))
            read_file(AT_FDCWD, path, stuck->detail, sizeof stuck->detail);
    }
}

static void explain_refused(struct stuck *stuck, const struct member *member)
{
    char path[64];
    struct stat status;
    stuck->pid = member->pid;
    stuck->reason = "other user";
    stuck->detail[0] = '\0';
    if (format(path, sizeof path, "/proc/%d", (int)member->pid) && stat(path, &status) == 0)
        format(stuck->detail, sizeof stuck->detail, "user %u", (unsigned)status.st_uid);
}

static size_t explain_all(const struct members *left, bool forking, struct stuck stuck[MOST_STUCK])
{
    size_t count = 0;
    for (size_t i = 0; i < left->count && count < MOST_STUCK; i++)
        explain(&stuck[count++], &left->list[i], forking ? "forking" : "alive");
    return count;
}

/* What is to be said of those that are left, if that was not said yet. */
static size_t tell(struct killing *killing, const struct members *left, struct stuck stuck[MOST_STUCK])
{
    int64_t now = now_ms();
    bool changed = killing->rounds == 1 || left->sum != killing->last_sum;
    if (changed)
        killing->unchanged_since = now;
    killing->last_sum = left->sum;
    /* The pause grows only while nothing changes. */
    killing->pause = changed ? ROUND_PAUSE_MS : killing->pause * 2 < LONGEST_PAUSE_MS ? killing->pause * 2 : LONGEST_PAUSE_MS;
    killing->next = now + killing->pause;
    if (killing->said && killing->said_sum == left->sum)
        return 0;
    size_t count = 0;
    if (refused.count > 0 && refused.count == left->count) {
        /* Only those are left that this user may not signal: that will not change by waiting. */
        for (size_t i = 0; i < refused.count; i++)
            explain_refused(&stuck[count++], &refused.list[i]);
    } else if (now - killing->unchanged_since >= STUCK_AFTER_MS || now - killing->began >= 5 * STUCK_AFTER_MS) {
        count = explain_all(left, changed, stuck);
    }
    if (count > 0) {
        killing->said = true;
        killing->said_sum = left->sum;
    }
    return count;
}

size_t killing_round(struct killing *killing, const struct tree *tree, const char *folder, struct stuck stuck[MOST_STUCK])
{
    if (killing_wait_ms(killing) > 0)
        return 0;
    if (folder[0] != '\0' && cgroup_kill(folder) && !killing->swept) {
        /* They are as good as dead; whoever had left the cgroup is there in the next round. */
        killing->swept = true;
        killing->next = now_ms() + ROUND_PAUSE_MS;
        return 0;
    }
    killing->rounds++;
    tree_find(tree, &first);
    if (first.count == 0) {
        killing->next = now_ms() + ROUND_PAUSE_MS;
        return 0;
    }
    /* Stopped first: what is stopped can't fork, so that each look finds fewer newcomers than the last. */
    for (int look = 0; look < STOP_LOOKS; look++) {
        send_all(&first, SIGSTOP);
        tree_find(tree, &second);
        bool same = second.sum == first.sum;
        first = second;
        if (same)
            break;
    }
    send_all(&first, SIGKILL);
    tree_chase(tree);
    return tell(killing, &first, stuck);
}

void signal_group(pid_t child, int signum)
{
    pid_t group = getpgid(child);
    if (group > 1 && getsid(child) != getsid(0))
        kill(-group, signum);
    else
        kill(child, signum);
}

void signal_roots(const struct tree *tree, int signum)
{
    static pid_t roots[MOST_MEMBERS];
    if (!tree->by_lineage) {
        signal_members(tree, signum);
        return;
    }
    size_t count = tree_roots(tree, roots, MOST_MEMBERS);
    pid_t session = getsid(0);
    for (size_t i = 0; i < count; i++) {
        /* A child's number can't be anybody else's before it is waited for, nor its group's while it is in it. */
        pid_t group = getpgid(roots[i]);
        if (group <= 1 || getsid(roots[i]) == session) {
            kill(roots[i], signum);
            continue;
        }
        bool done = false;
        for (size_t j = 0; j < i && !done; j++)
            done = getpgid(roots[j]) == group;
        if (!done)
            kill(-group, signum);
    }
}

void signal_members(const struct tree *tree, int signum)
{
    tree_find(tree, &first);
    send_all(&first, signum);
}
