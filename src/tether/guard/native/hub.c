/* The hub: the process beside an owner that forks its shims, ends the trees of shims that were killed, and has settled what a dead owner
 * left. The lifeline is at descriptor 3, the control socket at 4, the socket on which shims are asked for at 5, a pidfd of the owner at 6
 * where there are any. */
#define _GNU_SOURCE
#include "hub.h"

#include "cgroup.h"
#include "ending.h"
#include "proc.h"
#include "receipt.h"
#include "shim.h"
#include "shm.h"
#include "tree.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LIFELINE_FD = 3,
    CONTROL_FD = 4,
    SHIMS_FD = 5,
    OWNER_FD = 6,
    MOST_SHIMS = 32768,
    WAKE_AGAIN_MS = 1000, /* how often the shims of a dead owner are woken, should somebody have stopped them */
    SETTLE_AGAIN_MS = 2000,
    SETTLE_TRIES = 5,
    RECEIPTS_MOST = 8 << 20, /* after so many bytes the older receipts, which the owner has had itself, are let go of */
    MOST_ARGUMENTS = 32,
};

static struct hub {
    int lifeline, control, shims, owner, signals, receipts, self;
    struct inbox control_inbox, shims_inbox;
    bool subreaper;
    char owner_id[TAG_ROOM], state_dir[PATH_ROOM], folder[PATH_ROOM];
    char settle_text[32768];
    char *settle[MOST_ARGUMENTS];
    size_t settle_count;
    struct slot *slots; /* shared with the shims */
    size_t slots_used;
    size_t living, losing;
    uint32_t forked;
    bool owner_is_dead, settled;
    pid_t settler;
    int settle_tries;
    int64_t settle_at;
    struct tree orphans;
    struct killing killing;
    struct segments segments;
} hub;

static struct outbox box;

/* -- the owner -------------------------------------------------------------------------------------------------------------------- */

static void drop(int *fd, struct inbox *inbox)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    inbox_clear(inbox);
}

static bool say(void)
{
    if (hub.control < 0)
        return true;
    if (outbox_send(&box, hub.control, -1) == 0)
        return true;
    if (errno != EAGAIN)
        drop(&hub.control, &hub.control_inbox);
    return hub.control < 0;
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

static void read_control(void)
{
    enum got got = inbox_read(&hub.control_inbox, hub.control);
    if (got == GOT_NOTHING)
        return;
    if (got == GOT_MESSAGE && inbox_kind(&hub.control_inbox) == KIND_BYE)
        hub.settled = true;
    /* The lifeline tells whether the owner died; without the socket there is nothing more to be asked. */
    if (got == GOT_END || hub.settled) {
        drop(&hub.control, &hub.control_inbox);
        drop(&hub.shims, &hub.shims_inbox);
    }
    inbox_clear(&hub.control_inbox);
}

static void owner_died(void)
{
    drop(&hub.control, &hub.control_inbox);
    drop(&hub.shims, &hub.shims_inbox);
    if (hub.lifeline >= 0)
        close(hub.lifeline);
    if (hub.owner >= 0)
        close(hub.owner);
    hub.lifeline = hub.owner = -1;
    /* After an orderly end there is no estate; only shims of kept resources are left. */
    hub.owner_is_dead = !hub.settled;
}

/* -- shims ------------------------------------------------------------------------------------------------------------------------ */

static struct slot *free_slot(void)
{
    for (size_t i = 0; i < hub.slots_used; i++)
        if (hub.slots[i].pid == 0)
            return &hub.slots[i];
    return hub.slots_used < MOST_SHIMS ? &hub.slots[hub.slots_used++] : NULL;
}

static struct slot *slot_of(pid_t pid)
{
    for (size_t i = 0; i < hub.slots_used; i++)
        if (hub.slots[i].pid == pid && (hub.slots[i].flags & SLOT_LOST) == 0)
            return &hub.slots[i];
    return NULL;
}

static bool is_shim(pid_t child)
{
    return child == hub.settler || slot_of(child) != NULL;
}

static bool folder_of(const struct slot *slot, char *folder, size_t room)
{
    folder[0] = '\0';
    return hub.folder[0] != '\0' && format(folder, room, "%s/%d-%u", hub.folder, (int)getpid(), slot->number);
}

static _Noreturn void become_shim(const struct inheritance *inheritance)
{
    close(hub.control);
    _exit(shim_serve(inheritance));
}

static void refuse(int number)
{
    outbox_begin(&box, KIND_REFUSED);
    put_number(&box, KEY_ERRNO, number);
    outbox_send(&box, hub.shims, -1);
}

static void fork_shim(void)
{
    int ends[2];
    struct slot *slot = free_slot();
    fault("hub.fork");
    if (slot == NULL) {
        refuse(EAGAIN);
        return;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        refuse(errno);
        return;
    }
    *slot = (struct slot){.number = ++hub.forked};
    static struct inheritance inheritance;
    inheritance = (struct inheritance){
        .channel = ends[1],
        .shims = hub.shims,
        .offered = ends[0],
        .lifeline = hub.lifeline,
        .owner = hub.owner,
        .hub = hub.self,
        .hub_pid = getpid(),
        .signals = hub.signals,
        .receipts = hub.receipts,
        .subreaper = hub.subreaper,
        .slot = slot,
    };
    if (folder_of(slot, inheritance.folder, sizeof inheritance.folder) && !cgroup_make(inheritance.folder))
        inheritance.folder[0] = '\0';
    pid_t pid = fork();
    if (pid == 0)
        become_shim(&inheritance);
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    if (pid < 0) {
        /* Out of pids or memory: said, and tried again at the next start. */
        refuse(error);
        return;
    }
    slot->pid = pid;
    hub.living++;
}

static void read_shims(void)
{
    while (hub.shims >= 0) {
        enum got got = inbox_read(&hub.shims_inbox, hub.shims);
        if (got == GOT_NOTHING)
            return;
        bool wanted = got == GOT_MESSAGE && inbox_kind(&hub.shims_inbox) == KIND_FORK;
        inbox_clear(&hub.shims_inbox);
        if (got == GOT_END)
            drop(&hub.shims, &hub.shims_inbox);
        else if (wanted)
            fork_shim();
    }
}

/* A shim was killed: its tree has fallen to this process, and is ended. */
static void take_over(struct slot *slot)
{
    char folder[PATH_ROOM];
    complain("shim %d was killed; its tree is ended here", (int)slot->pid);
    slot->flags |= SLOT_LOST;
    hub.losing++;
    if (folder_of(slot, folder, sizeof folder))
        cgroup_kill(folder);
    shm_note(&hub.segments, &hub.orphans, slot->since_ns);
    if (!hub.killing.on)
        killing_begin(&hub.killing);
    killing_hurry(&hub.killing);
}

static void settler_ended(int status)
{
    hub.settler = 0;
    hub.settled = (WIFEXITED(status) && WEXITSTATUS(status) == 0) || hub.settle_tries >= SETTLE_TRIES;
    hub.settle_at = now_ms() + SETTLE_AGAIN_MS * hub.settle_tries;
}

static void reap(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct slot *slot = slot_of(pid);
        if (slot != NULL && (slot->flags & SLOT_ARMED) == 0 && hub.shims >= 0)
            /* Killed before it said that it was there: the owner waits for one that is. */
            refuse(ESRCH);
        if (pid == hub.settler) {
            settler_ended(status);
        } else if (slot == NULL) {
            killing_hurry(&hub.killing);
        } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            slot->pid = 0;
            hub.living--;
        } else {
            hub.living--;
            take_over(slot);
        }
    }
}

/* On a kernel without subreapers the tree of a killed shim fell to init: it is ended as far as it can be recognised. */
static bool end_followed(const struct slot *slot)
{
    static struct members left;
    struct tree tree = {.hub = -1};
    tree.marks.main = slot->main;
    tree.marks.start = slot->start;
    format(tree.marks.tag, sizeof tree.marks.tag, "%s", slot->tag);
    char log[PATH_ROOM];
    tree.marks.log = format(log, sizeof log, "%s/logs/%s.log", hub.state_dir, slot->tag) ? log : NULL;
    tree_forget();
    if (slot->main == 0)
        return true;
    for (int look = 0, empty = 0; look < 400 && empty < 2; look++) {
        proc_was_blind();
        tree_find(&tree, &left);
        bool unseen = proc_was_blind();
        for (size_t i = 0; i < left.count; i++)
            signal_verified(left.list[i].pid, left.list[i].start, SIGKILL);
        empty = tree_chase(&tree) || left.count > 0 || unseen ? 0 : empty + 1;
        if (left.count > 0 || unseen)
            poll(NULL, 0, 5);
    }
    return left.count == 0;
}

static void forget_lost(void)
{
    char folder[PATH_ROOM];
    for (size_t i = 0; i < hub.slots_used; i++) {
        struct slot *slot = &hub.slots[i];
        if ((slot->flags & SLOT_LOST) == 0)
            continue;
        if (!hub.subreaper)
            end_followed(slot);
        outbox_begin(&box, KIND_LOST);
        put_number(&box, KEY_PID, slot->pid);
        put_text(&box, KEY_TAG, slot->tag);
        if (!say())
            return; /* The owner does not read just now: said when it does. */
        if (folder_of(slot, folder, sizeof folder))
            cgroup_remove(folder);
        *slot = (struct slot){0};
        hub.losing--;
    }
}

static void end_orphans(void)
{
    pid_t root;
    struct stuck stuck[MOST_STUCK];
    char folder[PATH_ROOM];
    if (!hub.killing.on)
        return;
    size_t count = killing_round(&hub.killing, &hub.orphans, "", stuck);
    if (count > 0)
        say_stuck(stuck, count);
    reap();
    proc_was_blind();
    if (tree_roots(&hub.orphans, &root, 1) > 0 || proc_was_blind())
        return;
    for (size_t i = 0; i < hub.slots_used; i++)
        if ((hub.slots[i].flags & SLOT_LOST) != 0 && folder_of(&hub.slots[i], folder, sizeof folder))
            cgroup_kill(folder);
    shm_remove_unused(&hub.segments);
    hub.segments.count = 0;
    forget_lost();
    hub.killing.on = hub.losing > 0;
}

/* -- the estate ------------------------------------------------------------------------------------------------------------------- */

static void wake_shims(void)
{
    for (size_t i = 0; i < hub.slots_used; i++)
        /* Our child and not waited for. */
        if (hub.slots[i].pid > 0 && (hub.slots[i].flags & SLOT_LOST) == 0)
            kill(hub.slots[i].pid, SIGCONT);
}

static bool only_kept_are_left(void)
{
    if (hub.losing > 0)
        return false;
    for (size_t i = 0; i < hub.slots_used; i++)
        if (hub.slots[i].pid > 0 && (hub.slots[i].flags & SLOT_KEPT) == 0)
            return false;
    return true;
}

/* Whether the owner has ended, by death or in order, so that no shim is left that he still needs. */
static bool is_over(void)
{
    return hub.settled || hub.owner_is_dead;
}

/* Have settled what this program can't end itself: other kinds, plugins' own processes, the record. */
static void settle(void)
{
    wake_shims();
    if (hub.settled || hub.settler > 0 || now_ms() < hub.settle_at || !only_kept_are_left())
        return;
    if (hub.settle_count == 0) {
        /* An app that is no Python to be started again (a frozen one): the next sweep does it. */
        hub.settled = true;
        return;
    }
    hub.settle_tries++;
    fault("hub.settle");
    pid_t child = fork();
    if (child == 0) {
        sigset_t none;
        sigemptyset(&none);
        for (int signum = 1; signum < NSIG; signum++)
            signal(signum, SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv(hub.settle[0], hub.settle);
        complain("%s can't be executed to settle what the owner left: %s; the next sweep does it", hub.settle[0], strerror(errno));
        _exit(0);
    }
    if (child > 0)
        hub.settler = child;
    else
        hub.settle_at = now_ms() + SETTLE_AGAIN_MS;
}

/* -- the loop --------------------------------------------------------------------------------------------------------------------- */

static void spare_receipts(void)
{
    struct stat status;
    if (hub.receipts >= 0 && fstat(hub.receipts, &status) == 0 && status.st_size > RECEIPTS_MOST && ftruncate(hub.receipts, 0) < 0)
        complain("the receipts can't be let go of: %s", strerror(errno));
}

static int wait_ms(void)
{
    int64_t wait = -1;
    if (hub.killing.on)
        wait = killing_wait_ms(&hub.killing);
    else if ((hub.owner_is_dead && !hub.settled) || (is_over() && !only_kept_are_left()))
        wait = WAKE_AGAIN_MS;
    return (int)wait;
}

static void read_signals(void)
{
    struct signalfd_siginfo info;
    while (read(hub.signals, &info, sizeof info) == (ssize_t)sizeof info)
        continue;
}

static bool is_done(void)
{
    return hub.control < 0 && hub.living == 0 && hub.losing == 0 && hub.settled && hub.settler == 0;
}

static void serve(void)
{
    while (!is_done()) {
        struct pollfd fds[] = {
            {hub.signals, POLLIN, 0}, {hub.control, POLLIN, 0}, {hub.shims, POLLIN, 0}, {hub.lifeline, POLLIN, 0}, {hub.owner, POLLIN, 0},
        };
        if (poll(fds, sizeof fds / sizeof *fds, wait_ms()) < 0)
            continue;
        if (fds[0].revents != 0) {
            read_signals();
            /* Only now: each look passes all shims in the kernel. */
            reap();
        }
        if (fds[1].revents != 0 && hub.control >= 0)
            read_control();
        if (fds[2].revents != 0 && hub.shims >= 0)
            read_shims();
        if ((fds[3].revents | fds[4].revents) != 0)
            owner_died();
        end_orphans();
        spare_receipts();
        if (hub.owner_is_dead)
            settle();
        else if (is_over())
            wake_shims();
    }
    if (hub.folder[0] != '\0')
        cgroup_remove(hub.folder);
}

static bool take_settle_command(const struct inbox *config)
{
    struct field field;
    char *at = hub.settle_text;
    for (size_t offset = 0; next_field(config, &offset, &field);) {
        if (field.key != KEY_SETTLE)
            continue;
        if (hub.settle_count + 1 >= MOST_ARGUMENTS || field.size + 1 > (size_t)(hub.settle_text + sizeof hub.settle_text - at))
            return false;
        memcpy(at, field.bytes, field.size);
        at[field.size] = '\0';
        hub.settle[hub.settle_count++] = at;
        at += field.size + 1;
    }
    return true;
}

static bool configure(void)
{
    struct pollfd ready = {hub.control, POLLIN, 0};
    enum got got;
    do {
        poll(&ready, 1, -1);
        got = inbox_read(&hub.control_inbox, hub.control);
    } while (got == GOT_NOTHING);
    struct inbox *config = &hub.control_inbox;
    if (got != GOT_MESSAGE || inbox_kind(config) != KIND_CONFIG || !text_of(config, KEY_OWNER, hub.owner_id, sizeof hub.owner_id) ||
        !text_of(config, KEY_STATE_DIR, hub.state_dir, sizeof hub.state_dir) || !take_settle_command(config))
        return false;
    text_of(config, KEY_CGROUP, hub.folder, sizeof hub.folder);
    inbox_clear(config);
    return true;
}

static void open_receipts(void)
{
    char path[PATH_ROOM];
    hub.receipts = -1;
    if (format(path, sizeof path, "%s/run/%s.receipts", hub.state_dir, hub.owner_id))
        hub.receipts = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (hub.receipts < 0)
        complain("receipts can't be kept in %s: %s", path, strerror(errno));
}

static int open_signals(void)
{
    sigset_t heeded, all;
    sigemptyset(&heeded);
    sigaddset(&heeded, SIGCHLD);
    sigaddset(&heeded, SIGTERM);
    sigaddset(&heeded, SIGUSR1);
    sigfillset(&all);
    /* What a terminal sends, and what else comes, stays blocked and means nothing here. */
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGCHLD, SIG_DFL);
    return signalfd(-1, &heeded, SFD_CLOEXEC | SFD_NONBLOCK);
}

int hub_main(bool has_pidfd)
{
    /* The owner waits for the first of two processes only, so that the hub is no child of it. */
    pid_t child = fork();
    if (child != 0)
        return child < 0 ? 1 : 0;
    if (chdir("/") < 0)
        return 1;
    /* Whatever else the app let its children inherit. */
    sys_close_from(has_pidfd ? OWNER_FD + 1 : OWNER_FD);
    umask(077);
    prctl(PR_SET_NAME, "tether-hub");
    for (int fd = LIFELINE_FD; fd <= OWNER_FD; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    hub.lifeline = LIFELINE_FD;
    hub.control = CONTROL_FD;
    hub.shims = SHIMS_FD;
    hub.owner = has_pidfd ? OWNER_FD : -1;
    hub.signals = open_signals();
    hub.self = is_portable() ? -1 : sys_pidfd_open(getpid());
    if (hub.self >= 0)
        fcntl(hub.self, F_SETFD, FD_CLOEXEC);
    hub.slots = mmap(NULL, MOST_SHIMS * sizeof *hub.slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (hub.signals < 0 || hub.slots == MAP_FAILED || !configure())
        return 1;
    open_receipts();
    hub.subreaper = !is_portable() && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
    if (wants_no_cgroup() || !hub.subreaper || (hub.folder[0] != '\0' && !cgroup_make(hub.folder)))
        hub.folder[0] = '\0';
    hub.orphans.by_lineage = true;
    hub.orphans.is_other = is_shim;
    outbox_begin(&box, KIND_READY);
    put_number(&box, KEY_PID, getpid());
    put_number(&box, KEY_START, (int64_t)start_of(getpid()));
    put_number(&box, KEY_VERSION, WIRE_VERSION);
    put_text(&box, KEY_TIER, hub.folder[0] != '\0' ? "cgroup" : hub.subreaper ? "shim" : "portable");
    say();
    serve();
    return 0;
}
