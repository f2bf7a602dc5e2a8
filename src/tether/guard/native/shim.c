#define _GNU_SOURCE
#include "shim.h"

#include "cgroup.h"
#include "ending.h"
#include "lease.h"
#include "proc.h"
#include "receipt.h"
#include "shm.h"
#include "spawn.h"
#include "tree.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    POLITE_AGAIN_MS = 2000, /* the first pause before the polite signal is sent again; it doubles each time */
    LOOK_MS = 10,           /* how often the portable tier looks at the process table in the first seconds of a tree */
    IDLE_LOOK_MS = 100,     /* how often later */
    YOUNG_MS = 3000,
    MEETING_MS = 1000, /* how long somebody who wants to adopt the tree is listened to */
    MOST_STEPS = 8,
    SAY_AGAIN_MS = 5,
    SAY_TRIES = 20,
};

enum on_death { DEATH_KILL, DEATH_STOP, DEATH_KEEP };

struct step {
    int signum;
    int64_t ms;
};

/* A polite end: a ladder of signals, each with its time; the last one may be sent again while its time runs. */
struct stopping {
    bool on, to_main, again, asked_rest;
    struct step steps[MOST_STEPS];
    size_t count, at;
    int64_t step_ends, next, pause;
};

/* What is touched by every shim stands first and close together: each page of it is paid for by each held tree. */
static struct shim {
    const struct inheritance *from;
    int channel, lifeline, owner, listener, guest, error;
    int64_t guest_until;
    struct tree tree;
    bool has_tree, spawning, exited;
    bool exit_unsaid, exited_ending; /* that the command has ended is still to be said; it was being ended by then */
    int error_number, error_what;
    pid_t main;
    uint64_t inode;
    int status;
    struct stopping stopping;
    struct killing killing;
    int64_t since_ns, begun, keep_until;
    int empty_looks;
    /* what of the request is needed until the end */
    int64_t life, fence, keep_ms;
    enum on_death on_death;
    bool to_main, ends_with_main, again;
    struct step ladder[MOST_STEPS];
    size_t ladder_size;
    char why[128];
    char tag[TAG_ROOM];
    char paths[2 * PATH_ROOM]; /* one after the other: where it is adopted, and its log */
    const char *run_dir;
    struct inbox inbox;
    struct inbox guest_inbox;
    struct segments segments;
} shim;

static struct outbox box;

/* -- saying ----------------------------------------------------------------------------------------------------------------------- */

static void drop_channel(void)
{
    if (shim.channel >= 0)
        close(shim.channel);
    shim.channel = -1;
    inbox_clear(&shim.inbox);
}

static void say(void)
{
    if (shim.from->leased != NULL) {
        lease_say(&box);
        return;
    }
    if (shim.channel < 0 || outbox_send(&box, shim.channel, -1) == 0)
        return;
    /* An owner that does not read for a while has room again when it does; one that was stopped is not waited for. */
    for (int tries = 0; errno == EAGAIN && tries < SAY_TRIES; tries++) {
        poll(NULL, 0, SAY_AGAIN_MS);
        if (outbox_send(&box, shim.channel, -1) == 0)
            return;
    }
    if (errno != EAGAIN)
        /* The owner has died: the lifeline says so too, and what follows is decided there. */
        drop_channel();
}

static void say_stuck(const struct stuck *stuck, size_t count)
{
    outbox_begin(&box, KIND_STUCK);
    for (size_t i = 0; i < count; i++) {
        put_number(&box, KEY_PID, stuck[i].pid);
        put_text(&box, KEY_REASON, stuck[i].reason);
        put_text(&box, KEY_DETAIL, stuck[i].detail);
    }
    say();
}

static void put_exited(void)
{
    outbox_begin(&box, KIND_EXITED);
    put_number(&box, KEY_STATUS, shim.status);
    put_number(&box, KEY_ENDING, shim.exited_ending);
    shim.exit_unsaid = false;
}

static void say_exited(void)
{
    put_exited();
    say();
}

/* -- ends ------------------------------------------------------------------------------------------------------------------------- */

static void set_why(const char *why)
{
    if (!shim.stopping.on && !shim.killing.on)
        format(shim.why, sizeof shim.why, "%s", why);
}

static void begin_killing(const char *why)
{
    if (!shim.has_tree || shim.killing.on)
        return;
    set_why(why);
    shm_note(&shim.segments, &shim.tree, shim.since_ns);
    killing_begin(&shim.killing);
}

static int64_t grace_of(const struct step *steps, size_t count)
{
    int64_t all = 0;
    for (size_t i = 0; i < count; i++)
        all += steps[i].ms;
    return all;
}

/* Begin a polite end by the ladder of the request, within `grace_ms`: the last signal has what the others leave. Negative for as long
 * as the ladder says. */
static void begin_stopping(const char *why, int64_t grace_ms, bool again)
{
    struct stopping next = {.on = true, .to_main = shim.to_main, .again = again || shim.again, .count = shim.ladder_size};
    if (!shim.has_tree || shim.killing.on)
        return;
    int64_t now = now_ms(), left = grace_ms < 0 ? grace_of(shim.ladder, shim.ladder_size) : grace_ms;
    if (shim.stopping.on) {
        /* Asked again: the shorter grace counts. */
        const struct stopping *old = &shim.stopping;
        if (now + left >= old->step_ends + grace_of(old->steps + old->at + 1, old->count - old->at - 1))
            return;
        next.asked_rest = old->asked_rest;
    } else {
        set_why(why);
    }
    for (size_t i = 0; i < next.count; i++) {
        int64_t ms = i + 1 == next.count || shim.ladder[i].ms > left ? left : shim.ladder[i].ms;
        next.steps[i] = (struct step){shim.ladder[i].signum, ms};
        left -= ms;
    }
    next.next = now;
    next.pause = POLITE_AGAIN_MS;
    next.step_ends = now + (next.count == 0 ? 0 : next.steps[0].ms);
    shim.stopping = next;
}

/* The first to be asked is the command with its process group; what is left when it has ended is asked in its turn. */
static void ask(int signum)
{
    shm_note(&shim.segments, &shim.tree, shim.since_ns);
    if (shim.exited)
        signal_roots(&shim.tree, signum), signal_roots(&shim.tree, SIGCONT);
    else if (shim.stopping.to_main)
        kill(shim.main, signum), kill(shim.main, SIGCONT);
    else
        signal_group(shim.main, signum), signal_group(shim.main, SIGCONT);
}

static void proceed_stopping(void)
{
    struct stopping *stopping = &shim.stopping;
    int64_t now = now_ms();
    if (stopping->count == 0) {
        begin_killing("");
        return;
    }
    if (now >= stopping->step_ends) {
        if (++stopping->at >= stopping->count) {
            begin_killing("");
            return;
        }
        stopping->next = now;
        stopping->pause = POLITE_AGAIN_MS;
        stopping->step_ends = now + stopping->steps[stopping->at].ms;
    }
    if (shim.exited && !stopping->asked_rest)
        stopping->asked_rest = true;
    else if (now < stopping->next)
        return;
    ask(stopping->steps[stopping->at].signum);
    stopping->next = stopping->again ? now + stopping->pause : INT64_MAX;
    stopping->pause *= 2;
}

static void proceed(void)
{
    struct stuck stuck[MOST_STUCK];
    if (shim.keep_until > 0 && now_ms() >= shim.keep_until) {
        shim.keep_until = 0;
        begin_stopping("nobody adopted it in time", -1, false);
    }
    if (shim.stopping.on && !shim.killing.on)
        proceed_stopping();
    if (shim.killing.on) {
        size_t count = killing_round(&shim.killing, &shim.tree, shim.from->folder, stuck);
        if (count > 0)
            say_stuck(stuck, count);
    }
}

static void wake_hub(void)
{
    /* Somebody may have stopped it, and it has an estate to settle. */
    if (shim.from->hub >= 0)
        sys_pidfd_send_signal(shim.from->hub, SIGCONT);
    else if (getppid() == shim.from->hub_pid)
        kill(shim.from->hub_pid, SIGCONT);
}

static void owner_died(void)
{
    drop_channel();
    wake_hub();
    if (!shim.has_tree || shim.killing.on)
        return;
    const char *why = shim.from->leased != NULL ? "its lease was over" : "its owner died";
    if (shim.on_death == DEATH_KILL || shim.spawning)
        /* At once means at once, also in the middle of a polite end. */
        begin_killing(why);
    else if (shim.stopping.on)
        return;
    else if (shim.on_death == DEATH_KEEP) {
        shim.keep_until = now_ms() + shim.keep_ms;
        shim.from->slot->flags |= SLOT_KEPT;
    } else
        begin_stopping(why, -1, false);
}

/* -- starting --------------------------------------------------------------------------------------------------------------------- */

/* The socket by which a kept tree is adopted, which only its user can open. By way of the folder's descriptor, since the name of a
 * socket has room for 107 bytes only; unix(7). */
static int listen_for_heirs(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[PATH_ROOM];
    int folder = open(shim.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    bool good =
        folder >= 0 && sock >= 0 && format(path, sizeof path, "%s/%s.%lld.sock", shim.run_dir, shim.tag, (long long)shim.life) &&
        format(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s.%lld.sock", folder, shim.tag, (long long)shim.life) &&
        (unlink(path) == 0 || errno == ENOENT) && bind(sock, (struct sockaddr *)&address, sizeof address) == 0 && listen(sock, 16) == 0;
    int error = errno;
    umask(mask);
    if (folder >= 0)
        close(folder);
    if (!good && sock >= 0)
        close(sock);
    errno = error;
    return good ? sock : -1;
}

static size_t take_steps(const struct inbox *inbox, struct step steps[MOST_STEPS])
{
    struct field field;
    size_t signals = 0, times = 0;
    for (size_t at = 0; next_field(inbox, &at, &field);) {
        if (field.key == KEY_STEP_SIGNAL && signals < MOST_STEPS)
            steps[signals++].signum = (int)field_number(&field);
        else if (field.key == KEY_STEP_MS && times < MOST_STEPS)
            steps[times++].ms = field_number(&field);
    }
    return signals < times ? signals : times;
}

static void refuse(int number, int what)
{
    shim.error_number = number;
    shim.error_what = what;
}

static uint64_t inode_of(pid_t pid)
{
    struct stat status;
    int fd = is_portable() ? -1 : sys_pidfd_open(pid);
    /* Since Linux 6.9 the number of a pidfd's inode is never given twice; before, all of them have the same one. */
    struct stat own;
    uint64_t inode = 0;
    if (fd >= 0 && fstat(fd, &status) == 0 && shim.from->hub >= 0 && fstat(shim.from->hub, &own) == 0 && own.st_ino != status.st_ino)
        inode = status.st_ino;
    if (fd >= 0)
        close(fd);
    return inode;
}

static void begin(const struct inbox *request)
{
    if (shim.has_tree || shim.error_number != 0)
        return;
    shim.life = number_of(request, KEY_LIFE, 1);
    shim.fence = number_of(request, KEY_FENCE, 1);
    shim.keep_ms = number_of(request, KEY_KEEP_MS, 0);
    shim.on_death = (enum on_death)number_of(request, KEY_ON_DEATH, DEATH_KILL);
    shim.to_main = number_of(request, KEY_TO_MAIN, 0) != 0;
    shim.ends_with_main = number_of(request, KEY_ENDS_WITH_MAIN, 0) != 0;
    shim.again = number_of(request, KEY_AGAIN, 0) != 0;
    shim.ladder_size = take_steps(request, shim.ladder);
    if (!text_of(request, KEY_TAG, shim.tag, sizeof shim.tag) || !text_of(request, KEY_RUN_DIR, shim.paths, PATH_ROOM)) {
        refuse(EINVAL, AT_REQUEST);
        return;
    }
    shim.run_dir = shim.paths;
    char *log = shim.paths + strlen(shim.paths) + 1;
    shim.tree.marks.log = text_of(request, KEY_LOG, log, PATH_ROOM) ? log : NULL;
    format(shim.tree.marks.tag, sizeof shim.tree.marks.tag, "%s", shim.tag);
    format(shim.from->slot->tag, sizeof shim.from->slot->tag, "%s", shim.tag);
    shim.since_ns = shim.from->slot->since_ns = wall_ns();
    /* Whoever wants to adopt it finds the socket as soon as there is anything to adopt. */
    if ((shim.on_death == DEATH_KEEP || shim.from->leased != NULL) && (shim.listener = listen_for_heirs()) < 0) {
        refuse(errno, AT_REQUEST);
        return;
    }
    fault("shim.asked");
    pid_t child = spawn(request, shim.from->folder, &shim.error);
    fault("shim.forked");
    if (child < 0) {
        refuse(errno, AT_REQUEST);
        return;
    }
    shim.main = child;
    shim.has_tree = shim.spawning = true;
    shim.begun = now_ms();
    /* It is our child and not waited for: the number can't be anybody else's yet. */
    shim.tree.marks.main = shim.from->slot->main = child;
    shim.tree.marks.start = shim.from->slot->start = start_of(child);
    /* Now, while that comes to its command: later somebody waits for it. */
    shim.inode = inode_of(child);
}

/* The command was executed, or could not be. */
static void read_error(void)
{
    struct spawn_failure failure;
    ssize_t got = read(shim.error, &failure, sizeof failure);
    if (got < 0)
        return; /* Not known yet: what can't be read now is there the next time. */
    close(shim.error);
    shim.error = -1;
    shim.spawning = false;
    if (got == sizeof failure) {
        refuse(failure.number, failure.what);
        return;
    }
    outbox_begin(&box, KIND_SPAWNED);
    put_number(&box, KEY_PID, shim.main);
    put_number(&box, KEY_START, (int64_t)shim.tree.marks.start);
    put_number(&box, KEY_INODE, (int64_t)shim.inode);
    say();
    fault("shim.spawned");
    if (shim.channel < 0 && shim.from->leased == NULL)
        owner_died();
}

/* -- messages --------------------------------------------------------------------------------------------------------------------- */

static void signal_wanted(const struct inbox *inbox)
{
    int signum = (int)number_of(inbox, KEY_SIGNAL, 0);
    int64_t to = number_of(inbox, KEY_TO, 0);
    if (!shim.has_tree || signum <= 0)
        return;
    if (to == 2)
        signal_members(&shim.tree, signum);
    else if (!shim.exited && to == 1)
        signal_group(shim.main, signum);
    else if (!shim.exited)
        kill(shim.main, signum);
}

static void heed_message(struct inbox *inbox)
{
    char why[sizeof shim.why];
    text_of(inbox, KEY_WHY, why, sizeof why);
    switch (inbox_kind(inbox)) {
    case KIND_SPAWN:
        begin(inbox);
        break;
    case KIND_STOP:
        begin_stopping(why, number_of(inbox, KEY_STEP_MS, 0), number_of(inbox, KEY_AGAIN, 0) != 0);
        break;
    case KIND_KILL:
        begin_killing(why);
        break;
    case KIND_CONTINUE:
        if (shim.has_tree)
            signal_members(&shim.tree, SIGCONT);
        break;
    case KIND_SIGNAL:
        signal_wanted(inbox);
        break;
    default:
        break;
    }
}

static void read_channel(void)
{
    for (;;) {
        enum got got = inbox_read(&shim.inbox, shim.channel);
        if (got == GOT_NOTHING)
            return;
        if (got == GOT_END) {
            /* The owner let go of this tree without ending: as good as dead for it. */
            owner_died();
            return;
        }
        heed_message(&shim.inbox);
        inbox_clear(&shim.inbox);
    }
}

/* -- adoption --------------------------------------------------------------------------------------------------------------------- */

static void drop_guest(void)
{
    char rest[1024];
    /* What is left unread would be told to the other end as a broken connection, and not as a closed one. */
    for (int i = 0; i < 64 && recv(shim.guest, rest, sizeof rest, MSG_DONTWAIT) > 0; i++)
        continue;
    close(shim.guest);
    shim.guest = -1;
    inbox_clear(&shim.guest_inbox);
}

static void put_state(int kind)
{
    outbox_begin(&box, kind);
    put_number(&box, KEY_PID, shim.main);
    put_number(&box, KEY_START, (int64_t)shim.tree.marks.start);
    put_number(&box, KEY_LIFE, shim.life);
    put_number(&box, KEY_FENCE, shim.fence);
    put_number(&box, KEY_ENDING, shim.stopping.on || shim.killing.on);
    if (shim.exited)
        put_number(&box, KEY_STATUS, shim.status);
}

static void meet(void)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    int guest = accept4(shim.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (guest < 0)
        return;
    if (getsockopt(guest, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid()) {
        close(guest);
        return;
    }
    if (shim.from->leased != NULL) {
        put_state(KIND_STATE);
        lease_add(guest, &box);
        return;
    }
    shim.guest = guest;
    shim.guest_until = now_ms() + MEETING_MS;
}

static void become_owned(void)
{
    struct inbox *inbox = &shim.guest_inbox;
    if (shim.lifeline >= 0)
        close(shim.lifeline);
    if (shim.owner >= 0)
        close(shim.owner);
    shim.lifeline = inbox->fds[0];
    shim.owner = inbox->fd_count > 1 ? inbox->fds[1] : -1;
    inbox->fds[0] = -1;
    if (inbox->fd_count > 1)
        inbox->fds[1] = -1;
    shim.fence = number_of(inbox, KEY_FENCE, 0);
    shim.keep_until = 0;
    shim.channel = shim.guest;
    shim.guest = -1;
    inbox_clear(inbox);
}

/* Hear somebody who wants to adopt this tree: only without a living owner, only of this life, only with a newer fence. */
static void read_guest(void)
{
    struct inbox *inbox = &shim.guest_inbox;
    enum got got = inbox_read(inbox, shim.guest);
    if (got == GOT_NOTHING)
        return;
    bool fits = got == GOT_MESSAGE && inbox_kind(inbox) == KIND_ADOPT && inbox->fd_count > 0;
    bool free = shim.channel < 0 && !shim.stopping.on && !shim.killing.on && shim.has_tree && !shim.spawning;
    if (!fits || !free || number_of(inbox, KEY_FENCE, 0) <= shim.fence || number_of(inbox, KEY_LIFE, 0) != shim.life) {
        outbox_begin(&box, KIND_REFUSED);
        put_text(&box, KEY_WHY, "it has an owner, or is ending");
        if (fits)
            outbox_send(&box, shim.guest, -1);
        drop_guest();
        return;
    }
    fault("shim.adopting");
    outbox_begin(&box, KIND_ADOPTED);
    put_number(&box, KEY_PID, shim.main);
    if (shim.exited)
        put_number(&box, KEY_STATUS, shim.status);
    if (outbox_send(&box, shim.guest, -1) < 0)
        drop_guest();
    else
        become_owned();
}

/* -- under a lease ---------------------------------------------------------------------------------------------------------------- */

/* Hear one of those who may come and go: what counts is the lease, and that nobody acts who was replaced. */
static void heed_line(struct inbox *inbox, int line)
{
    int kind = inbox_kind(inbox);
    int64_t fence = number_of(inbox, KEY_FENCE, shim.fence);
    bool ending = shim.stopping.on || shim.killing.on || shim.spawning;
    bool refused =
        kind == KIND_ADOPT ? ending || fence <= shim.fence || number_of(inbox, KEY_LIFE, shim.life) != shim.life : fence < shim.fence;
    if (refused) {
        put_state(KIND_REFUSED);
        outbox_send(&box, line, -1);
        return;
    }
    shim.fence = fence;
    if (kind != KIND_ADOPT && kind != KIND_RENEW) {
        heed_message(inbox);
        return;
    }
    lease_set(number_of(inbox, KEY_LEASE_MS, 0));
    shim.keep_until = 0;
    if (kind == KIND_ADOPT) {
        put_state(KIND_ADOPTED);
        say();
    }
}

static void heed_lease(const struct pollfd *fds)
{
    if (lease_heed(fds, heed_line))
        owner_died();
}

/* -- the loop --------------------------------------------------------------------------------------------------------------------- */

static int exit_code(int status)
{
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Wait for what has ended; true if the kernel says that there is nobody left to wait for (ECHILD). */
static bool reap(void)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED);
        if (pid < 0)
            return errno == ECHILD;
        if (pid == 0)
            return false;
        if (WIFSTOPPED(status)) {
            /* What it says of its start comes first, also of a command that stops itself at once. */
            struct pollfd begun = {shim.error, POLLIN, 0};
            if (shim.error >= 0 && poll(&begun, 1, 0) > 0)
                read_error();
            if (pid == shim.main && !shim.spawning && !shim.killing.on) {
                outbox_begin(&box, KIND_PAUSED);
                put_number(&box, KEY_SIGNAL, WSTOPSIG(status));
                say();
            }
            continue;
        }
        killing_hurry(&shim.killing);
        if (pid == shim.main) {
            shim.exited = true;
            shim.status = exit_code(status);
            if (shim.error >= 0)
                read_error();
            if (shim.error_number == 0) {
                shim.exit_unsaid = true;
                shim.exited_ending = shim.stopping.on || shim.killing.on;
                if (shim.ends_with_main)
                    begin_stopping("its command ended", -1, false);
            }
        }
    }
}

/* Who joined another pid namespace and lost its parent there is no descendant any more, pid_namespaces(7), but still in the cgroup. */
static bool is_cgroup_left(void)
{
    if (shim.from->folder[0] == '\0' || cgroup_remove(shim.from->folder))
        return true;
    begin_killing("its command ended");
    return false;
}

/* ECHILD is proof for a subreaper, with an empty cgroup where there is one; else nobody was seen twice in a row: who forked and left
 * during one look is in the next. */
static bool is_gone(bool echild)
{
    static struct members seen;
    if (shim.tree.by_lineage || !echild || shim.error_number != 0)
        return echild && is_cgroup_left();
    proc_was_blind();
    tree_find(&shim.tree, &seen);
    bool unseen = proc_was_blind(), chased = shim.killing.on && tree_chase(&shim.tree);
    shim.empty_looks = seen.count > 0 || chased || unseen ? 0 : shim.empty_looks + 1;
    return shim.empty_looks >= 2;
}

static int finish(void)
{
    char said[160];
    if (shim.error_number != 0) {
        if (shim.from->folder[0] != '\0')
            cgroup_remove(shim.from->folder);
        outbox_begin(&box, KIND_REFUSED);
        put_number(&box, KEY_ERRNO, shim.error_number);
        put_number(&box, KEY_TO, shim.error_what);
        say();
        if (shim.listener >= 0 && format(said, sizeof said, "%s.%lld.sock", shim.tag, (long long)shim.life)) {
            int folder = open(shim.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            unlinkat(folder, said, 0);
            close(folder);
        }
        return 0;
    }
    /* Who was asked politely and died of the signal ended as it was to end. */
    bool by_force = shim.killing.on || (shim.exited && shim.status < 0 && !shim.stopping.on);
    if (by_force)
        shm_remove_unused(&shim.segments);
    else
        shim.segments.count = 0;
    format(said, sizeof said, "shim %d ended it %s: %s", (int)getpid(), shim.killing.on ? "by force" : "in order",
           shim.tree.by_lineage ? "ECHILD" : "seen gone twice");
    struct receipt receipt = {shim.tag, shim.life, shim.exited, shim.status, shim.why, said, &shim.segments};
    fault("shim.ended");
    if (shim.from->receipts >= 0)
        receipt_append(shim.from->receipts, &receipt);
    if (shim.listener >= 0)
        receipt_leave(shim.run_dir, &receipt);
    if (shim.exit_unsaid) {
        put_exited();
        outbox_next(&box, KIND_ENDED);
    } else {
        outbox_begin(&box, KIND_ENDED);
    }
    if (shim.exited)
        put_number(&box, KEY_STATUS, shim.status);
    put_number(&box, KEY_LIFE, shim.life);
    put_text(&box, KEY_WHY, shim.why);
    put_text(&box, KEY_SAID, said);
    for (size_t i = 0; i < shim.segments.count; i++)
        put_text(&box, KEY_SHM, shim.segments.list[i].name);
    say();
    return 0;
}

static int64_t sooner(int64_t wait, int64_t other)
{
    other = other < 0 ? 0 : other;
    return wait < 0 || other < wait ? other : wait;
}

/* Milliseconds until there is something to do by the clock; -1 for never. */
static int64_t wait_ms(void)
{
    int64_t wait = -1, now = now_ms();
    if (shim.guest >= 0)
        wait = sooner(wait, shim.guest_until - now);
    if (!shim.has_tree)
        return wait;
    if (!shim.tree.by_lineage)
        wait = sooner(wait, now - shim.begun < YOUNG_MS ? LOOK_MS : IDLE_LOOK_MS);
    if (shim.killing.on)
        return sooner(wait, killing_wait_ms(&shim.killing));
    if (shim.stopping.on) {
        wait = sooner(wait, shim.stopping.step_ends - now);
        return shim.stopping.next == INT64_MAX ? wait : sooner(wait, shim.stopping.next - now);
    }
    return shim.keep_until > 0 ? sooner(wait, shim.keep_until - now) : wait;
}

static void read_signals(void)
{
    struct signalfd_siginfo info;
    while (read(shim.from->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGTERM)
            begin_stopping("asked by signal", -1, false);
        else if (info.ssi_signo == SIGUSR1)
            begin_killing("asked by signal");
    }
}

static void let_owner_go(void)
{
    if (shim.lifeline >= 0)
        close(shim.lifeline);
    if (shim.owner >= 0)
        close(shim.owner);
    shim.lifeline = shim.owner = -1;
    owner_died();
}

static void wait_and_heed(void)
{
    enum { SIGNALS, CHANNEL, LIFELINE, OWNER, LISTENER, GUEST, ERROR, COUNT };
    struct pollfd fds[COUNT + LEASE_FDS] = {
        [SIGNALS] = {shim.from->signals, POLLIN, 0},
        [CHANNEL] = {shim.channel, POLLIN, 0},
        [LIFELINE] = {shim.lifeline, POLLIN, 0},
        [OWNER] = {shim.owner, POLLIN, 0},
        [LISTENER] = {shim.guest < 0 ? shim.listener : -1, POLLIN, 0},
        [GUEST] = {shim.guest, POLLIN, 0},
        [ERROR] = {shim.error, POLLIN, 0},
    };
    int64_t wait = wait_ms();
    nfds_t more = shim.from->leased == NULL ? 0 : lease_poll(fds + COUNT);
    if (poll(fds, COUNT + more, wait > 60000 ? 60000 : (int)wait) < 0)
        return;
    if (fds[SIGNALS].revents != 0)
        read_signals();
    if (fds[ERROR].revents != 0 && shim.error >= 0)
        read_error();
    if (fds[CHANNEL].revents != 0 && shim.channel >= 0)
        read_channel();
    if (more > 0)
        heed_lease(fds + COUNT);
    if ((fds[LIFELINE].revents | fds[OWNER].revents) != 0)
        let_owner_go();
    if (fds[LISTENER].revents != 0)
        meet();
    if (fds[GUEST].revents != 0)
        read_guest();
    else if (shim.guest >= 0 && now_ms() >= shim.guest_until)
        drop_guest();
}

/* Say to the owner, or to those who may come and go, that the lifeline or lease is held. Should the owner not hear it, its end of the
 * channel is closed here, which ends this shim. */
static void say_armed(void)
{
    const struct inheritance *from = shim.from;
    outbox_begin(&box, from->leased != NULL ? KIND_ARMED : KIND_SHIM);
    put_text(&box, KEY_TIER, from->subreaper ? (from->folder[0] != '\0' ? "cgroup" : "shim") : "portable");
    if (from->leased != NULL) {
        say();
        return;
    }
    put_number(&box, KEY_PID, getpid());
    put_number(&box, KEY_START, (int64_t)start_of(getpid()));
    put_text(&box, KEY_CGROUP, from->folder);
    if (outbox_send(&box, from->shims, from->offered) == 0)
        from->slot->flags |= SLOT_ARMED;
    close(from->shims);
    close(from->offered);
}

int shim_serve(const struct inheritance *inheritance)
{
    shim.from = inheritance;
    shim.channel = inheritance->leased != NULL ? -1 : inheritance->channel;
    shim.lifeline = inheritance->lifeline;
    shim.owner = inheritance->owner;
    shim.listener = shim.guest = shim.error = -1;
    shim.tree.by_lineage = inheritance->subreaper;
    shim.tree.hub = inheritance->hub_pid;
    format(shim.why, sizeof shim.why, "by itself");
    /* A process group of its own: should the hub be killed while this process is stopped, the group becomes an orphan, and the kernel
     * wakes it (setpgid(2), POSIX "orphaned process group"). */
    setpgid(0, 0);
    prctl(PR_SET_NAME, "tether-shim");
    if (inheritance->subreaper && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
        return 1;
    if (inheritance->leased != NULL && !lease_open(inheritance->channel, number_of(inheritance->leased, KEY_LEASE_MS, 0)))
        return 1;
    fault("shim.begun");
    say_armed();
    if (inheritance->leased != NULL) {
        begin(inheritance->leased);
        inbox_clear(inheritance->leased);
        if (!shim.has_tree)
            return finish();
    }
    while (shim.channel >= 0 || shim.has_tree) {
        wait_and_heed();
        if (shim.error_number != 0 && !shim.has_tree)
            return finish();
        if (!shim.has_tree)
            continue;
        tree_look(&shim.tree);
        bool alone = reap();
        /* Where the tree has ended with its command, both are said at once, so that the owner wakes once. */
        bool at_once = alone && shim.tree.by_lineage && shim.from->leased == NULL;
        if (shim.exit_unsaid && !at_once)
            say_exited();
        if (is_gone(alone))
            return finish();
        proceed();
    }
    if (shim.from->folder[0] != '\0')
        cgroup_remove(shim.from->folder);
    return 0;
}
