/* A subreaper's descendants are all that its command ever forked: who loses its parent becomes the subreaper's own child. Where there
 * are no subreapers, members are followed by looking at the process table: by lineage since the last look, by the sessions that they
 * lead, by the tag in their environment and by the log that they write to. */
#define _GNU_SOURCE
#include "tree.h"

#include "proc.h"
#include "sys.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_ROOTS = 4096, CHASE_LOOKS = 100 };

struct row {
    struct stat_line line;
    bool member;
};

/* Pages that nobody touches cost nothing: a shim that never looks at the whole table has none of these. */
static struct row table[MOST_MEMBERS];
static size_t rows;
/* What the portable tier knows of its tree since the last look. */
static struct members known;

static void add(struct members *found, pid_t pid, uint64_t start)
{
    if (found->count == MOST_MEMBERS)
        return;
    found->list[found->count++] = (struct member){pid, start};
    found->sum += ((uint64_t)pid << 20 ^ start) * 0x9E3779B97F4A7C15ULL;
}

static bool add_row(const struct stat_line *line, void *more)
{
    (void)more;
    table[rows++] = (struct row){*line, false};
    return rows < MOST_MEMBERS;
}

static void read_table(void)
{
    rows = 0;
    each_process(add_row, NULL);
}

static const struct row *row_of(pid_t pid)
{
    for (size_t i = 0; i < rows; i++)
        if (table[i].line.pid == pid)
            return &table[i];
    return NULL;
}

size_t tree_roots(const struct tree *tree, pid_t *roots, size_t room)
{
    /* The hub's own shims come first among its children, and may be more than there is room for; in a shim this is not touched. */
    static pid_t children[2 * MOST_MEMBERS];
    bool all_count = tree->is_other == NULL;
    pid_t self = getpid(), *found = all_count ? roots : children;
    size_t most = all_count ? room : sizeof children / sizeof *children, all = 0, count = 0;
    if (has_children_files()) {
        all = children_of(self, start_of(self), found, most);
    } else {
        read_table();
        for (size_t i = 0; i < rows && all < most; i++)
            if (table[i].line.parent == self)
                found[all++] = table[i].line.pid;
    }
    for (size_t i = 0; i < all && count < room; i++)
        if (all_count || !tree->is_other(found[i]))
            roots[count++] = found[i];
    return count;
}

/* -- by lineage ------------------------------------------------------------------------------------------------------------------- */

static void find_by_files(const struct tree *tree, struct members *found)
{
    static pid_t below[MOST_ROOTS];
    struct stat_line line;
    size_t count = tree_roots(tree, below, MOST_ROOTS);
    pid_t parent = getpid();
    for (size_t next = 0;; next++) {
        for (size_t i = 0; i < count; i++)
            /* A number that was given to somebody else since the file was read has another parent. */
            if (read_stat(below[i], &line) && line.parent == parent)
                add(found, line.pid, line.start);
        if (next == found->count)
            return;
        parent = found->list[next].pid;
        count = children_of(parent, found->list[next].start, below, MOST_ROOTS);
    }
}

/* Mark the descendants of those that are marked; rows are in the order of their pids, which is not that of their births. */
static void mark_below(pid_t self, const struct tree *tree)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < rows; i++) {
            if (table[i].member || table[i].line.pid == self || table[i].line.pid == tree->hub)
                continue;
            const struct row *parent = row_of(table[i].line.parent);
            if (parent != NULL && parent->member)
                changed = table[i].member = true;
        }
    }
}

static void find_by_table(const struct tree *tree, struct members *found)
{
    pid_t self = getpid();
    read_table();
    for (size_t i = 0; i < rows; i++)
        table[i].member = table[i].line.parent == self && (tree->is_other == NULL || !tree->is_other(table[i].line.pid));
    mark_below(self, tree);
    for (size_t i = 0; i < rows; i++)
        if (table[i].member)
            add(found, table[i].line.pid, table[i].line.start);
}

/* -- by marks, in the portable tier ----------------------------------------------------------------------------------------------- */

static bool is_known(pid_t pid, uint64_t start)
{
    for (size_t i = 0; i < known.count; i++)
        if (known.list[i].pid == pid && known.list[i].start == start)
            return true;
    return false;
}

/* Whether one of two variables of an environment has the tag, alone or among others behind colons. */
static bool names_tag(const char *variable, const char *tag)
{
    size_t size = strlen(tag);
    if (strncmp(variable, "TETHER_RESOURCE=", 16) != 0 && strncmp(variable, "TETHER_OWNER=", 13) != 0)
        return false;
    for (const char *at = strchr(variable, '=') + 1;; at++) {
        const char *end = strchr(at, ':');
        size_t length = end == NULL ? strlen(at) : (size_t)(end - at);
        if (length == size && memcmp(at, tag, size) == 0)
            return true;
        if (end == NULL)
            return false;
        at = end;
    }
}

static bool environ_carries(const char *path, const char *tag)
{
    static char text[1 << 16];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool found = false;
    size_t have = 0;
    ssize_t got;
    while (!found && (got = read(fd, text + have, sizeof text - 1 - have)) > 0) {
        have += (size_t)got;
        text[have] = '\0';
        char *at = text;
        for (char *end; !found && (end = memchr(at, '\0', (size_t)(text + have - at))) != NULL; at = end + 1)
            found = names_tag(at, tag);
        /* What is cut goes on in the next piece; a variable longer than all the room is none of ours. */
        have = at == text && have == sizeof text - 1 ? 0 : (size_t)(text + have - at);
        memmove(text, at, have);
    }
    close(fd);
    return found;
}

static bool outputs_are(const char *folder, const char *log)
{
    char path[96], target[PATH_ROOM];
    for (int fd = 1; fd <= 2; fd++) {
        if (!format(path, sizeof path, "%s/fd/%d", folder, fd))
            continue;
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size > 0 && (size_t)size == strlen(log) && memcmp(target, log, (size_t)size) == 0)
            return true;
    }
    return false;
}

struct asking {
    const struct stat_line *line;
    const struct marks *marks;
    bool found;
};

static bool ask_thread(pid_t thread, void *more)
{
    struct asking *asking = more;
    char folder[64], path[96];
    if (!format(folder, sizeof folder, "/proc/%d/task/%d", (int)asking->line->pid, (int)thread) ||
        !format(path, sizeof path, "%s/environ", folder))
        return true;
    const struct marks *marks = asking->marks;
    asking->found = (marks->log != NULL && outputs_are(folder, marks->log)) || (marks->tag[0] != '\0' && environ_carries(path, marks->tag));
    return !asking->found;
}

/* Whether it has the log as its output or the tag in its environment. Where its first thread has ended the others are asked. */
static bool is_marked(const struct stat_line *line, const struct marks *marks)
{
    struct asking asking = {line, marks, false};
    if (line->state != 'Z')
        ask_thread(line->pid, &asking);
    else
        each_thread(line->pid, ask_thread, &asking);
    return asking.found;
}

static bool is_in_known_session(const struct stat_line *line)
{
    const struct row *leader = row_of(line->session);
    /* Once the leader has gone its number alone proves nothing: it may be another session by now. */
    return leader != NULL && line->start >= leader->line.start && is_known(leader->line.pid, leader->line.start);
}

static bool bears_mark(const struct tree *tree, const struct stat_line *line)
{
    char path[64];
    struct stat status;
    if (is_known(line->pid, line->start) || is_in_known_session(line))
        return true;
    if (!format(path, sizeof path, "/proc/%d", (int)line->pid) || stat(path, &status) < 0 || status.st_uid != geteuid())
        return false;
    return is_marked(line, &tree->marks);
}

static void find_by_marks(const struct tree *tree, struct members *found, bool only_lineage)
{
    pid_t self = getpid();
    if (known.count == 0 && tree->marks.main > 0)
        add(&known, tree->marks.main, tree->marks.start);
    read_table();
    for (size_t i = 0; i < rows; i++) {
        const struct stat_line *line = &table[i].line;
        bool stranger = line->pid == self || line->pid == tree->hub || line->pid <= 1 || !is_running(line);
        table[i].member =
            !stranger && (only_lineage ? is_known(line->pid, line->start) || is_in_known_session(line) : bears_mark(tree, line));
    }
    mark_below(self, tree);
    for (size_t i = 0; i < rows; i++)
        if (table[i].member && is_running(&table[i].line))
            add(found, table[i].line.pid, table[i].line.start);
}

static struct members looked;

void tree_look(const struct tree *tree)
{
    if (tree->by_lineage)
        return;
    looked.count = 0;
    find_by_marks(tree, &looked, true);
    if (looked.count > 0)
        known = looked;
}

void tree_forget(void)
{
    known.count = 0;
}

bool tree_chase(const struct tree *tree)
{
    char text[128];
    bool hit = false;
    for (int look = 0; look < CHASE_LOOKS && !tree->by_lineage; look++) {
        /* Between the listing of all and the look at each it has another number, but mostly the newest of all; proc_loadavg(5). */
        if (read_file(AT_FDCWD, "/proc/loadavg", text, sizeof text) <= 0)
            return hit;
        char *blank = strrchr(text, ' ');
        struct stat_line line;
        pid_t pid = blank == NULL ? 0 : (pid_t)strtol(blank + 1, NULL, 10);
        if (pid <= 1 || pid == getpid() || pid == tree->hub || !read_stat(pid, &line) || !is_running(&line))
            continue;
        if (bears_mark(tree, &line))
            hit = signal_verified(line.pid, line.start, SIGKILL) == 0 || hit;
    }
    return hit;
}

void tree_find(const struct tree *tree, struct members *found)
{
    found->count = 0;
    found->sum = 0;
    if (!tree->by_lineage) {
        find_by_marks(tree, found, false);
        if (found->count > 0)
            known = *found;
    } else if (has_children_files()) {
        find_by_files(tree, found);
    } else {
        find_by_table(tree, found);
    }
}
