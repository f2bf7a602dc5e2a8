#define _GNU_SOURCE
#include "far.h"

#include "receipt.h"
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* The request that a shim gets: what was asked, with what only this host knows. In a mapping with room for all of it. */
struct building {
    uint8_t *data;
    size_t size, room;
};

static void put(struct building *to, int key, const void *bytes, size_t size)
{
    if (to->room - to->size < size + 6)
        return;
    uint8_t head[6] = {(uint8_t)key,         (uint8_t)(key >> 8),   (uint8_t)size,
                       (uint8_t)(size >> 8), (uint8_t)(size >> 16), (uint8_t)(size >> 24)};
    memcpy(to->data + to->size, head, sizeof head);
    memcpy(to->data + to->size + 6, bytes, size);
    to->size += 6 + size;
}

static void put_int(struct building *to, int key, int64_t number)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)number >> (8 * i));
    put(to, key, bytes, sizeof bytes);
}

static size_t name_size(const void *variable, size_t size)
{
    const char *end = memchr(variable, '=', size);
    return end == NULL ? size : (size_t)(end - (const char *)variable);
}

/* Whether the request sets or unsets a variable of the login's environment. */
static bool is_overridden(const struct inbox *request, const char *variable)
{
    struct field field;
    size_t size = name_size(variable, strlen(variable));
    if (strncmp(variable, "TETHER_RESOURCE=", 16) == 0 || strncmp(variable, "TETHER_OWNER=", 13) == 0)
        return true;
    for (size_t at = 0; next_field(request, &at, &field);)
        if (field.key == KEY_ENV && name_size(field.bytes, field.size) == size && memcmp(field.bytes, variable, size) == 0)
            return true;
    return false;
}

static void put_environment(struct building *to, const struct inbox *request, const char *tag)
{
    struct field field;
    char mark[TAG_ROOM + 32];
    for (char **each = environ; *each != NULL; each++)
        if (!is_overridden(request, *each))
            put(to, KEY_ENV, *each, strlen(*each));
    for (size_t at = 0; next_field(request, &at, &field);)
        if (field.key == KEY_ENV && name_size(field.bytes, field.size) < field.size)
            put(to, KEY_ENV, field.bytes, field.size);
    if (format(mark, sizeof mark, "TETHER_RESOURCE=%s", tag))
        put(to, KEY_ENV, mark, strlen(mark));
}

/* The PATH that the command has, ended by a NUL. */
static const char *path_of(const struct inbox *request, char *room, size_t size)
{
    struct field field;
    const char *own = getenv("PATH");
    for (size_t at = 0; next_field(request, &at, &field);)
        if (field.key == KEY_ENV && name_size(field.bytes, field.size) == 4 && memcmp(field.bytes, "PATH", 4) == 0) {
            own = NULL;
            if (field.size > 5 && field.size - 5 < size) {
                memcpy(room, field.bytes + 5, field.size - 5);
                room[field.size - 5] = '\0';
                own = room;
            }
        }
    return own != NULL ? own : "/usr/local/bin:/usr/bin:/bin";
}

static void put_programs(struct building *to, const struct inbox *request)
{
    static char room[1 << 16];
    char program[PATH_ROOM];
    struct field first;
    if (!find_field(request, KEY_ARG, &first))
        return;
    if (memchr(first.bytes, '/', first.size) != NULL || first.size == 0) {
        put(to, KEY_PROGRAM, first.bytes, first.size);
        return;
    }
    for (const char *at = path_of(request, room, sizeof room);; at++) {
        size_t size = strcspn(at, ":");
        if (format(program, sizeof program, "%.*s%s%.*s", (int)size, at, size > 0 ? "/" : "", (int)first.size, (const char *)first.bytes))
            put(to, KEY_PROGRAM, program, strlen(program));
        at += size;
        if (*at == '\0')
            return;
    }
}

/* The working directory: what was asked for, from the home directory on if it is relative. */
static void put_folder(struct building *to, const struct inbox *request)
{
    char asked[PATH_ROOM], path[2 * PATH_ROOM];
    text_of(request, KEY_CWD, asked, sizeof asked);
    if (asked[0] == '/')
        put(to, KEY_CWD, asked, strlen(asked));
    else if (format(path, sizeof path, "%s%s%s", far.login, asked[0] == '\0' ? "" : "/", asked))
        put(to, KEY_CWD, path, strlen(path));
}

static void put_limit(struct building *to)
{
    uint8_t bytes[24];
    uint64_t parts[3] = {RLIMIT_NOFILE, far.files.rlim_cur, far.files.rlim_max};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(parts[i / 8] >> (8 * (i % 8)));
    put(to, KEY_RLIMIT, bytes, sizeof bytes);
}

static bool build(struct inbox *into, const struct inbox *request, const char *tag, int null, int log)
{
    struct field field;
    char path[PATH_ROOM];
    size_t room = request->size * 2 + (1 << 17);
    for (char **each = environ; *each != NULL; each++)
        room += strlen(*each) + 6;
    void *mapping = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return false;
    struct building to = {mapping, 0, room};
    to.data[to.size++] = WIRE_VERSION;
    to.data[to.size++] = KIND_SPAWN;
    for (size_t at = 0; next_field(request, &at, &field);)
        if (field.key != KEY_ENV && field.key != KEY_CWD && field.key != KEY_PROGRAM && field.key != KEY_TARGET)
            put(&to, field.key, field.bytes, field.size);
    put_environment(&to, request, tag);
    put_programs(&to, request);
    put_folder(&to, request);
    put_limit(&to);
    if (!find_field(request, KEY_UMASK, &field))
        put_int(&to, KEY_UMASK, far.mask);
    if (folder_path(tag, "", path, sizeof path))
        put(&to, KEY_RUN_DIR, path, strlen(path));
    if (folder_path(tag, "log", path, sizeof path))
        put(&to, KEY_LOG, path, strlen(path));
    const int fds[] = {null, log, log};
    for (int i = 0; i < 3; i++) {
        put_int(&to, KEY_TARGET, i);
        into->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
    }
    into->fd_count = 3;
    into->data = to.data;
    into->size = to.size;
    into->mapped = room;
    return true;
}

/* In the forked child: leave the session and the connection behind, and hold the tree. */
static _Noreturn void become_shim(const struct inbox *request, const char *tag, int channel, int log)
{
    static struct slot slot;
    static struct inbox asked;
    static struct inheritance inheritance;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    if (chdir("/") < 0 || null < 0)
        _exit(1);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    /* Nothing of the connection, nor of other trees' lines: four descriptors, moved out of the way and then to 3 to 6. */
    int kept[] = {channel, log, null, far.signals};
    for (int i = 0; i < 4; i++)
        if ((kept[i] = fcntl(kept[i], F_DUPFD_CLOEXEC, 16)) < 0)
            _exit(1);
    for (int i = 0; i < 4; i++)
        if (dup3(kept[i], 3 + i, O_CLOEXEC) < 0)
            _exit(1);
    sys_close_from(7);
    inheritance = (struct inheritance){
        .channel = 3,
        .lifeline = -1,
        .owner = -1,
        .hub = -1,
        .hub_pid = -1,
        .signals = 6,
        .receipts = -1,
        .subreaper = far.subreaper,
        .slot = &slot,
        .leased = &asked,
    };
    if (!build(&asked, request, tag, 5, 4))
        _exit(1);
    close(4);
    close(5);
    _exit(shim_serve(&inheritance));
}

static int open_log(const char *tag)
{
    char path[PATH_ROOM];
    if (!folder_path(tag, "log", path, sizeof path)) {
        errno = EINVAL;
        return -1;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -1;
    /* A full disk is said before anything runs. Some file systems can't reserve room; there it is seen later. */
    int number = posix_fallocate(fd, 0, 4096);
    if (number == ENOSPC || number == EDQUOT || ftruncate(fd, 0) < 0) {
        close(fd);
        errno = number;
        return -1;
    }
    return fd;
}

/* Make the folder of a new tree. What an earlier try of the same start has left is ended first. */
static int make_folder(const char *tag)
{
    char path[PATH_ROOM], text[RECEIPT_ROOM];
    if (!folder_path(tag, "", path, sizeof path))
        return EINVAL;
    if (mkdir(path, 0700) == 0)
        return 0;
    if (errno != EEXIST)
        return errno;
    if (holding_of(tag) != NULL)
        return EEXIST;
    if (receipt_read(tag, text, sizeof text) == 0)
        end_rest(tag);
    folder_remove(tag);
    return mkdir(path, 0700) < 0 ? errno : 0;
}

static void note_asked(struct holding *holding, const struct inbox *request)
{
    size_t half = sizeof holding->asked / 2;
    text_of(request, KEY_ARG, holding->asked, half);
    text_of(request, KEY_CWD, holding->asked + strlen(holding->asked) + 1, half);
}

void do_spawn(const struct inbox *request, int64_t id, const char *tag)
{
    int ends[2] = {-1, -1}, log = -1;
    int number = make_folder(tag);
    if (number != 0) {
        answer_error(id, number, far.home);
        return;
    }
    struct who who = {.life = number_of(request, KEY_LIFE, 1)};
    format(who.boot, sizeof who.boot, "%s", far.boot);
    pid_t pid = -1;
    struct holding *holding = NULL;
    if ((log = open_log(tag)) >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 &&
        (holding = holding_add(tag, ends[0])) != NULL)
        pid = fork();
    if (pid == 0) {
        /* On record before there is anything to hold. */
        who.shim = getpid();
        who.shim_start = start_of(who.shim);
        who_write(tag, &who);
        become_shim(request, tag, ends[1], log);
    }
    number = errno;
    if (log >= 0)
        close(log);
    if (ends[1] >= 0)
        close(ends[1]);
    if (pid < 0) {
        folder_remove(tag);
        answer_error(id, number, far.home);
        if (holding != NULL)
            holding->ended = true; /* Its line ends by itself. */
        else if (ends[0] >= 0)
            close(ends[0]);
        return;
    }
    who.shim = pid;
    who.shim_start = start_of(pid);
    holding->who = who;
    holding->spawn_id = id;
    note_asked(holding, request);
}
