/* `tether-guard hold --serve FOLDER [--mark TEXT] [--umask OCTAL]`: one process for one login. It answers requests on standard input,
 * forks a shim for each tree, and passes on what shims say. When the login ends so does this; the shims go on under their leases, and
 * are found again by their sockets. */
#define _GNU_SOURCE
#include "hold.h"

#include "far.h"
#include "receipt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TETHER_GUARD_BUILD
#define TETHER_GUARD_BUILD "unknown"
#endif

struct far far;

static struct inbox requests;
static struct outbox box;

static void do_renew(const struct inbox *request, int64_t id)
{
    static const char *there[MOST_TREES];
    char tag[TAG_ROOM];
    struct field field;
    size_t count = 0;
    int64_t lease_ms = 0, fence = 0;
    /* Each tag follows its lease and its fence. */
    for (size_t at = 0; next_field(request, &at, &field);) {
        if (field.key == KEY_LEASE_MS)
            lease_ms = field_number(&field);
        else if (field.key == KEY_FENCE)
            fence = field_number(&field);
        if (field.key != KEY_TAG || !format(tag, sizeof tag, "%.*s", (int)field.size, (const char *)field.bytes))
            continue;
        struct holding *holding = holding_of(tag);
        if (holding == NULL || holding->ended || holding->fence > fence)
            continue;
        outbox_begin(&box, KIND_RENEW);
        put_number(&box, KEY_LEASE_MS, lease_ms);
        put_number(&box, KEY_FENCE, fence);
        if (holding_send(holding, &box) && count < MOST_TREES)
            there[count++] = holding->tag;
    }
    answer(id);
    for (size_t i = 0; i < count; i++)
        say_text(KEY_TAG, there[i]);
    say_end();
}

/* Ask for the end; answered at once, the end is said when it has come. */
static void do_stop(const struct inbox *request, int64_t id, const char *tag)
{
    char why[128], receipt[RECEIPT_ROOM];
    struct holding *holding = folder_exists(tag) ? holding_of(tag) : NULL;
    int64_t grace = number_of(request, KEY_STEP_MS, 0);
    bool asked = false;
    if (holding != NULL && number_of(request, KEY_FENCE, holding->fence) < holding->fence) {
        answer_error(id, EBUSY, "it has a newer owner");
        return;
    }
    if (holding != NULL) {
        text_of(request, KEY_WHY, why, sizeof why);
        outbox_begin(&box, grace > 0 ? KIND_STOP : KIND_KILL);
        put_number(&box, KEY_STEP_MS, grace);
        put_number(&box, KEY_AGAIN, number_of(request, KEY_AGAIN, 0));
        put_number(&box, KEY_FENCE, number_of(request, KEY_FENCE, holding->fence));
        put_text(&box, KEY_WHY, why);
        asked = holding_send(holding, &box);
    }
    if (!asked && folder_exists(tag) && receipt_read(tag, receipt, sizeof receipt) == 0)
        end_rest(tag);
    answer(id);
    say_number(KEY_ENDING, asked);
    say_end();
}

static void do_adopt(const struct inbox *request, int64_t id, const char *tag)
{
    struct holding *holding = folder_exists(tag) ? holding_of(tag) : NULL;
    if (holding == NULL || holding->ended) {
        answer_error(id, ESRCH, tag);
        return;
    }
    outbox_begin(&box, KIND_ADOPT);
    put_number(&box, KEY_LEASE_MS, number_of(request, KEY_LEASE_MS, 0));
    put_number(&box, KEY_FENCE, number_of(request, KEY_FENCE, 0));
    put_number(&box, KEY_LIFE, holding->who.life);
    if (!holding_send(holding, &box))
        answer_error(id, ESRCH, tag);
    else
        holding->adopt_id = id;
}

/* Remove what is kept of a tree that has ended. */
static void do_clear(int64_t id, const char *tag)
{
    char receipt[RECEIPT_ROOM];
    if (folder_exists(tag)) {
        if (receipt_read(tag, receipt, sizeof receipt) == 0 && has_members(tag)) {
            answer_error(id, EBUSY, tag);
            return;
        }
        if (!folder_remove(tag)) {
            answer_error(id, errno, tag);
            return;
        }
    }
    answer(id);
    say_end();
}

static void do_request(const struct inbox *request)
{
    char tag[TAG_ROOM];
    int64_t id = number_of(request, KEY_ID, 0);
    text_of(request, KEY_TAG, tag, sizeof tag);
    switch (inbox_kind(request)) {
    case KIND_SPAWN:
        do_spawn(request, id, tag);
        break;
    case KIND_RENEW:
        do_renew(request, id);
        break;
    case KIND_STOP:
        do_stop(request, id, tag);
        break;
    case KIND_ADOPT:
        do_adopt(request, id, tag);
        break;
    case KIND_LOOK:
        do_look(id, tag);
        break;
    case KIND_LOG:
        log_piece(request, id, tag);
        break;
    case KIND_CLEAR:
        do_clear(id, tag);
        break;
    case KIND_PORT:
        do_port(id);
        break;
    case KIND_LISTENS:
        do_listens(request, id, tag);
        break;
    case KIND_DIAGNOSE:
        do_diagnose(id);
        break;
    default:
        answer_error(id, ENOSYS, "");
        break;
    }
}

/* -- the loop --------------------------------------------------------------------------------------------------------------------- */

static bool read_requests(void)
{
    for (;;) {
        enum got got = inbox_read(&requests, STDIN_FILENO);
        if (got == GOT_NOTHING)
            return true;
        if (got == GOT_END)
            return false;
        do_request(&requests);
        inbox_clear(&requests);
    }
}

static void reap(void)
{
    struct signalfd_siginfo info;
    while (read(far.signals, &info, sizeof info) == (ssize_t)sizeof info)
        continue;
    /* Shims that live on when this process ends are init's. */
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
}

static void serve(void)
{
    static struct pollfd fds[MOST_TREES + 2];
    for (;;) {
        fds[0] = (struct pollfd){STDIN_FILENO, POLLIN, 0};
        fds[1] = (struct pollfd){far.signals, POLLIN, 0};
        nfds_t count = holdings_poll(fds + 2, MOST_TREES);
        if (poll(fds, count + 2, -1) < 0)
            continue;
        if (fds[1].revents != 0)
            reap();
        holdings_hear(fds + 2, count);
        if (fds[0].revents != 0 && !read_requests())
            return;
    }
}

static void set_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigset_t heeded;
    sigemptyset(&heeded);
    sigaddset(&heeded, SIGCHLD);
    sigaddset(&heeded, SIGTERM);
    sigaddset(&heeded, SIGUSR1);
    far.signals = signalfd(-1, &heeded, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void find_login(void)
{
    char text[BOOT_ROOM];
    const char *home = getenv("HOME");
    if (home == NULL || chdir(home) < 0 || !format(far.login, sizeof far.login, "%s", home))
        format(far.login, sizeof far.login, "/");
    if (chdir("/") < 0)
        complain("/ can't be entered");
    if (read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", text, sizeof text) > 0)
        format(far.boot, sizeof far.boot, "%.*s", (int)strcspn(text, "\n"), text);
    getrlimit(RLIMIT_NOFILE, &far.files);
    struct rlimit most = {far.files.rlim_max, far.files.rlim_max};
    setrlimit(RLIMIT_NOFILE, &most);
}

static void greet(void)
{
    struct utsname name;
    say_begin(KIND_HELLO);
    say_number(KEY_VERSION, WIRE_VERSION);
    say_text(KEY_BUILD, TETHER_GUARD_BUILD);
    say_text(KEY_BOOT, far.boot);
    say_text(KEY_HOME, far.home);
    say_number(KEY_UID, geteuid());
    say_text(KEY_TIER, far.subreaper ? "shim" : "portable");
    say_text(KEY_MACHINE, uname(&name) == 0 ? name.machine : "");
    say_end();
}

/* Print this program's checksum, that of zip files (CRC-32): a copy may have been cut or damaged. */
static int print_sum(void)
{
    static uint8_t bytes[1 << 16];
    uint32_t sum = ~0U;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ssize_t got;
    while (fd >= 0 && (got = read(fd, bytes, sizeof bytes)) > 0)
        for (ssize_t i = 0; i < got; i++) {
            sum ^= bytes[i];
            for (int bit = 0; bit < 8; bit++)
                sum = sum >> 1 ^ (0xEDB88320U & (0U - (sum & 1)));
        }
    if (fd >= 0)
        printf("%08x\n", (unsigned)~sum);
    return fd >= 0 ? 0 : 1;
}

int hold_main(int count, char **words)
{
    if (count == 1 && strcmp(words[0], "--sum") == 0)
        return print_sum();
    const char *folder = NULL;
    far.mask = umask(077);
    for (int i = 0; i + 1 < count; i += 2) {
        if (strcmp(words[i], "--serve") == 0)
            folder = words[i + 1];
        else if (strcmp(words[i], "--mark") == 0)
            say_mark(words[i + 1]);
        else if (strcmp(words[i], "--umask") == 0)
            far.mask = (mode_t)strtol(words[i + 1], NULL, 8) & 0777;
    }
    if (folder == NULL) {
        complain("hold --serve FOLDER: the folder is missing");
        return 2;
    }
    prctl(PR_SET_NAME, "tether-hold");
    set_signals();
    find_login();
    far.subreaper = !is_portable() && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
    /* Only a question: what a shim loses is found by its marks, and is nobody's child here. */
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
    int number = far.boot[0] == '\0' ? ENOSYS : folder_open(folder);
    if (number != 0 || far.signals < 0) {
        say_begin(KIND_REFUSED);
        say_number(KEY_ERRNO, number != 0 ? number : EMFILE);
        say_text(KEY_FILENAME, far.boot[0] == '\0' ? "/proc" : folder);
        say_end();
        return 1;
    }
    folders_forget_old();
    greet();
    serve();
    return 0;
}
