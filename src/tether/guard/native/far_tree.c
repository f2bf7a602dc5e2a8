#define _GNU_SOURCE
#include "far.h"

#include "receipt.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { REST_LOOKS = 400, STATE_MS = 2000, DYING_MS = 500 };

static struct holding *holdings[MOST_TREES];
/* Untouched pages cost nothing. */
static struct holding rooms[MOST_TREES];
static size_t used;

static struct holding *known(const char *tag)
{
    for (size_t i = 0; i < used; i++)
        if (strcmp(holdings[i]->tag, tag) == 0)
            return holdings[i];
    return NULL;
}

struct holding *holding_add(const char *tag, int fd)
{
    for (size_t i = 0; i < MOST_TREES && used < MOST_TREES; i++) {
        if (rooms[i].tag[0] != '\0' || !format(rooms[i].tag, TAG_ROOM, "%s", tag))
            continue;
        rooms[i].fd = fd;
        rooms[i].exited = rooms[i].ended = false;
        rooms[i].spawn_id = rooms[i].adopt_id = 0;
        rooms[i].fence = 1;
        return holdings[used++] = &rooms[i];
    }
    errno = EMFILE;
    return NULL;
}

static void holding_drop(struct holding *holding)
{
    for (size_t i = 0; i < used; i++)
        if (holdings[i] == holding)
            holdings[i] = holdings[--used];
    close(holding->fd);
    inbox_clear(&holding->inbox);
    holding->fd = -1;
    holding->tag[0] = '\0';
}

static int connect_to(const char *tag, int64_t life)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[PATH_ROOM];
    int folder = folder_path(tag, "", path, sizeof path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* By way of the folder's descriptor: a socket's name has room for 107 bytes. */
    bool good = folder >= 0 && sock >= 0 &&
                format(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s.%lld.sock", folder, tag, (long long)life) &&
                connect(sock, (struct sockaddr *)&address, sizeof address) == 0;
    if (folder >= 0)
        close(folder);
    if (good || sock < 0)
        return sock;
    close(sock);
    return -1;
}

static void take_state(struct holding *holding)
{
    const struct inbox *inbox = &holding->inbox;
    holding->who.main = (pid_t)number_of(inbox, KEY_PID, 0);
    holding->who.start = (uint64_t)number_of(inbox, KEY_START, 0);
    holding->fence = number_of(inbox, KEY_FENCE, holding->fence);
    struct field field;
    if (find_field(inbox, KEY_STATUS, &field)) {
        holding->exited = true;
        holding->status = field_number(&field);
    }
}

struct holding *holding_of(const char *tag)
{
    struct holding *holding = known(tag);
    struct who who;
    if (holding != NULL)
        return holding;
    if (!who_read(tag, &who) || strcmp(who.boot, far.boot) != 0)
        return NULL;
    int sock = connect_to(tag, who.life);
    if (sock < 0 || (holding = holding_add(tag, sock)) == NULL) {
        if (sock >= 0)
            close(sock);
        return NULL;
    }
    holding->who = who;
    signal_verified(who.shim, who.shim_start, SIGCONT);
    /* It says at once how its tree is. */
    struct pollfd ready = {sock, POLLIN, 0};
    for (int64_t until = now_ms() + STATE_MS; now_ms() < until;) {
        poll(&ready, 1, STATE_MS);
        enum got got = inbox_read(&holding->inbox, sock);
        if (got == GOT_MESSAGE && inbox_kind(&holding->inbox) == KIND_STATE) {
            take_state(holding);
            inbox_clear(&holding->inbox);
            return holding;
        }
        if (got != GOT_NOTHING)
            break;
    }
    holding_drop(holding);
    return NULL;
}

bool holding_send(struct holding *holding, struct outbox *box)
{
    signal_verified(holding->who.shim, holding->who.shim_start, SIGCONT);
    return outbox_send(box, holding->fd, -1) == 0;
}

nfds_t holdings_poll(struct pollfd *fds, size_t room)
{
    nfds_t count = 0;
    for (size_t i = 0; i < used && count < room; i++)
        fds[count++] = (struct pollfd){holdings[i]->fd, POLLIN, 0};
    return count;
}

/* -- what shims say --------------------------------------------------------------------------------------------------------------- */

static void relay(const struct holding *holding, int kind)
{
    say_begin(kind);
    say_text(KEY_TAG, holding->tag);
    say_fields(&holding->inbox);
    say_end();
}

static void spawned(struct holding *holding)
{
    holding->who.main = (pid_t)number_of(&holding->inbox, KEY_PID, 0);
    holding->who.start = (uint64_t)number_of(&holding->inbox, KEY_START, 0);
    who_write(holding->tag, &holding->who);
    answer(holding->spawn_id);
    say_number(KEY_SHIM, holding->who.shim);
    say_number(KEY_SHIM_START, (int64_t)holding->who.shim_start);
    say_fields(&holding->inbox);
    say_text(KEY_BOOT, far.boot);
    say_text(KEY_TIER, far.subreaper ? "shim" : "portable");
    say_end();
    holding->spawn_id = 0;
}

static void refused(struct holding *holding)
{
    if (holding->adopt_id != 0) {
        answer_error(holding->adopt_id, EBUSY, holding->tag);
        holding->adopt_id = 0;
    }
    if (holding->spawn_id == 0)
        return;
    bool is_folder = number_of(&holding->inbox, KEY_TO, 0) == AT_FOLDER;
    folder_remove(holding->tag);
    answer_error(holding->spawn_id, (int)number_of(&holding->inbox, KEY_ERRNO, EIO),
                 is_folder ? holding->asked + strlen(holding->asked) + 1 : holding->asked);
    holding->spawn_id = 0;
    holding->ended = true;
}

static void heed(struct holding *holding)
{
    int kind = inbox_kind(&holding->inbox);
    switch (kind) {
    case KIND_SPAWNED:
        spawned(holding);
        break;
    case KIND_REFUSED:
        refused(holding);
        break;
    case KIND_ADOPTED:
        take_state(holding);
        if (holding->adopt_id != 0) {
            answer(holding->adopt_id);
            say_fields(&holding->inbox);
            say_end();
        }
        holding->adopt_id = 0;
        break;
    case KIND_EXITED:
        holding->exited = true;
        holding->status = number_of(&holding->inbox, KEY_STATUS, 0);
        relay(holding, kind);
        break;
    case KIND_ENDED:
        holding->ended = true;
        relay(holding, kind);
        break;
    case KIND_PAUSED:
    case KIND_STUCK:
        relay(holding, kind);
        break;
    default:
        break;
    }
}

/* Whether a shim whose line has ended lives: one that was killed closes that a moment before it is seen to be dead. */
static bool lives_on(const struct who *who)
{
    struct stat_line line;
    for (int64_t until = now_ms() + DYING_MS; now_ms() < until; poll(NULL, 0, 5))
        if (!read_stat(who->shim, &line) || line.start != who->shim_start || !is_running(&line))
            return false;
    return true;
}

/* Its shim closed the line: it has ended and told so, or was killed. */
static void line_ended(struct holding *holding)
{
    char text[RECEIPT_ROOM];
    if (holding->spawn_id != 0) {
        answer_error(holding->spawn_id, ECHILD, holding->tag);
        end_rest(holding->tag);
        folder_remove(holding->tag);
    } else if (!holding->ended && folder_exists(holding->tag)) {
        size_t size = receipt_read(holding->tag, text, sizeof text);
        bool killed = size == 0 && !lives_on(&holding->who);
        if (size > 0 || killed) {
            say_begin(killed ? KIND_LOST : KIND_ENDED);
            say_text(KEY_TAG, holding->tag);
            say_bytes(KEY_RECEIPT, text, size);
            say_end();
        }
    }
    if (holding->adopt_id != 0)
        answer_error(holding->adopt_id, ESRCH, holding->tag);
    holding_drop(holding);
}

static void hear(struct holding *holding)
{
    for (;;) {
        enum got got = inbox_read(&holding->inbox, holding->fd);
        if (got == GOT_NOTHING)
            return;
        if (got == GOT_END) {
            line_ended(holding);
            return;
        }
        heed(holding);
        inbox_clear(&holding->inbox);
    }
}

void holdings_hear(const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; i < count; i++)
        for (size_t j = 0; fds[i].revents != 0 && j < used; j++)
            if (holdings[j]->fd == fds[i].fd) {
                hear(holdings[j]);
                break;
            }
}

/* -- what a killed shim left ------------------------------------------------------------------------------------------------------ */

void end_rest(const char *tag)
{
    static struct members left;
    char log[PATH_ROOM];
    struct who who;
    struct tree tree = {.hub = -1};
    who_read(tag, &who);
    bool same_boot = strcmp(who.boot, far.boot) == 0;
    tree.marks.main = same_boot ? who.main : 0;
    tree.marks.start = who.start;
    tree.marks.log = folder_path(tag, "log", log, sizeof log) ? log : NULL;
    format(tree.marks.tag, sizeof tree.marks.tag, "%s", tag);
    tree_forget();
    for (int look = 0, empty = 0; same_boot && look < REST_LOOKS && empty < 2; look++) {
        proc_was_blind();
        tree_find(&tree, &left);
        bool unseen = proc_was_blind();
        for (size_t i = 0; i < left.count; i++)
            signal_verified(left.list[i].pid, left.list[i].start, SIGKILL);
        empty = tree_chase(&tree) || left.count > 0 || unseen ? 0 : empty + 1;
        if (left.count > 0 || unseen)
            poll(NULL, 0, 5);
    }
    if (same_boot)
        receipt_write(tag, who.life, "its shim there was killed", "what carried its marks was killed, and was seen gone twice");
    else
        receipt_write(tag, who.life, "its host was rebooted", "another boot than the one it ran in");
}
