/* The process behind `tether run`: it has the place of the command in its shell's eyes, and holds the owner's end of the lifeline. It
 * passes on what it is sent, stops when the command is stopped, and ends as the command ended, when nothing of that is left.
 *
 *     tether-guard run CHANNEL CONTROL GRACE_MS PARENT MAIN [STATUS]
 *
 * CHANNEL is the socket to the shim, CONTROL the one to the hub, PARENT a pidfd of whoever started it or -1, MAIN the command's pid, STATUS
 * its exit code if it has ended already. */
#define _GNU_SOURCE
#include "run.h"

#include "proc.h"
#include "sys.h"
#include "wire.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { FAILED = 125, ORPHANS_MS = 10000 };

static struct run {
    int channel, control, signals, parent;
    int64_t grace_ms;
    pid_t main;
    bool exited, ended;
    int status;
    int64_t lost_at;
    struct inbox inbox, control_inbox;
} run;

static struct outbox box;

static void ask(int kind, const char *why)
{
    outbox_begin(&box, kind);
    put_text(&box, KEY_WHY, why);
    put_number(&box, KEY_STEP_MS, run.grace_ms);
    outbox_send(&box, run.channel, -1);
}

static void pass_on(int signum)
{
    outbox_begin(&box, KIND_SIGNAL);
    put_number(&box, KEY_SIGNAL, signum);
    put_number(&box, KEY_TO, 0);
    outbox_send(&box, run.channel, -1);
}

/* The command was stopped: as the shell sees it, that is this process. Unless somebody has continued it since. */
static void pause_too(void)
{
    struct stat_line line;
    if (!read_stat(run.main, &line) || line.state != 'T')
        return;
    kill(getpid(), SIGSTOP);
    ask(KIND_CONTINUE, "");
}

static void heed_signal(const struct signalfd_siginfo *info)
{
    int signum = (int)info->ssi_signo;
    if (signum == SIGCHLD)
        return;
    if (signum == SIGCONT)
        ask(KIND_CONTINUE, "");
    else if (signum == SIGTERM || signum == SIGHUP)
        ask(KIND_STOP, "asked by signal");
    else if (info->ssi_code != SI_KERNEL)
        /* Sent to this process alone. What a terminal sends, the command has had itself, and once is enough. */
        pass_on(signum);
}

static void read_signals(void)
{
    struct signalfd_siginfo info;
    while (read(run.signals, &info, sizeof info) == (ssize_t)sizeof info)
        heed_signal(&info);
}

static void say_stuck(void)
{
    struct field field;
    char text[128];
    for (size_t at = 0; next_field(&run.inbox, &at, &field);) {
        if (field.key == KEY_PID)
            fprintf(stderr, "tether run: pid %lld was killed and is still there", (long long)field_number(&field));
        else if (field.key == KEY_REASON && format(text, sizeof text, "%.*s", (int)field.size, (const char *)field.bytes))
            fprintf(stderr, " (%s)\n", text);
    }
}

static void read_channel(void)
{
    for (;;) {
        enum got got = inbox_read(&run.inbox, run.channel);
        if (got == GOT_NOTHING)
            return;
        if (got == GOT_END) {
            /* The shim was killed: the hub ends the tree, and says so. */
            close(run.channel);
            run.channel = -1;
            run.lost_at = now_ms();
            return;
        }
        switch (inbox_kind(&run.inbox)) {
        case KIND_EXITED:
            run.exited = true;
            run.status = (int)number_of(&run.inbox, KEY_STATUS, 0);
            ask(KIND_STOP, "its command ended");
            break;
        case KIND_PAUSED:
            pause_too();
            break;
        case KIND_STUCK:
            say_stuck();
            break;
        case KIND_ENDED:
            run.ended = true;
            break;
        default:
            break;
        }
        inbox_clear(&run.inbox);
        if (run.ended)
            return;
    }
}

static void read_control(void)
{
    enum got got = inbox_read(&run.control_inbox, run.control);
    if (got == GOT_NOTHING)
        return;
    if (got == GOT_END || (inbox_kind(&run.control_inbox) == KIND_LOST && run.channel < 0)) {
        close(run.control);
        run.control = -1;
    }
    inbox_clear(&run.control_inbox);
}

static _Noreturn void end_as_it_ended(void)
{
    if (run.status < 0) {
        struct rlimit none = {0, 0};
        sigset_t all;
        /* The command has left its core, if any. */
        setrlimit(RLIMIT_CORE, &none);
        signal(-run.status, SIG_DFL);
        kill(getpid(), -run.status);
        sigfillset(&all);
        sigprocmask(SIG_UNBLOCK, &all, NULL);
        _exit(128 - run.status);
    }
    _exit(run.status);
}

static bool is_over(void)
{
    if (run.ended)
        return true;
    return run.channel < 0 && (run.control < 0 || now_ms() - run.lost_at > ORPHANS_MS);
}

int run_main(int argc, char **argv)
{
    sigset_t all;
    if (argc < 7)
        return FAILED;
    run.channel = atoi(argv[2]);
    run.control = atoi(argv[3]);
    run.grace_ms = atoll(argv[4]);
    run.parent = atoi(argv[5]);
    run.main = (pid_t)atoi(argv[6]);
    prctl(PR_SET_NAME, "tether-run");
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    run.signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (run.signals < 0)
        return FAILED;
    if (argc > 7) {
        run.exited = true;
        run.status = atoi(argv[7]);
        ask(KIND_STOP, "its command ended");
    }
    while (!is_over()) {
        /* Without a shim there is nobody to pass signals on to. */
        struct pollfd fds[] = {
            {run.channel < 0 ? -1 : run.signals, POLLIN, 0}, {run.channel, POLLIN, 0}, {run.control, POLLIN, 0}, {run.parent, POLLIN, 0}};
        if (poll(fds, sizeof fds / sizeof *fds, run.channel < 0 ? 1000 : -1) < 0)
            continue;
        /* The channel first: what it says of a pause is older than the signal that ends it. */
        if (fds[1].revents != 0)
            read_channel();
        if (fds[0].revents != 0 && run.channel >= 0)
            read_signals();
        if (fds[2].revents != 0)
            read_control();
        if (fds[3].revents != 0) {
            close(run.parent);
            run.parent = -1;
            ask(KIND_STOP, "its parent died");
        }
    }
    if (run.exited)
        end_as_it_ended();
    fputs("tether run: the guard of the command was killed, so it was ended\n", stderr);
    return FAILED;
}
