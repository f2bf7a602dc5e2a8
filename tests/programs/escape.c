/* escape.py for a host that has nothing: static, and needs no file but /proc. Twelve descendants try to outlive it.
 *
 * usage: escape FOLDER
 *
 * Each writes its pid and start time into FOLDER/KIND.pid; the one that re-forks all the time holds a lock on FOLDER/refork.lock. When all
 * have begun, FOLDER/all is made. Everything ends by itself after LIFETIME_S. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIFETIME_S = 90, ROOM = 4096 };

static const char *folder;
static time_t end;
static char **words;

static void begun(const char *kind)
{
    char path[ROOM], fresh[ROOM + 8], text[1024];
    int fd = open("/proc/self/stat", O_RDONLY);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got < 0 ? 0 : got] = '\0';
    char *at = strrchr(text, ')') + 2;
    for (int field = 3; field < 22; field++)
        at = strchr(at, ' ') + 1;
    snprintf(path, sizeof path, "%s/%s.pid", folder, kind);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    FILE *file = fopen(fresh, "w");
    if (file == NULL)
        _exit(1);
    fprintf(file, "%d %lld", (int)getpid(), strtoll(at, NULL, 10));
    fclose(file);
    rename(fresh, path);
}

static void *linger(void *nothing)
{
    (void)nothing;
    while (time(NULL) < end)
        usleep(100000);
    _exit(0);
}

static void stay(const char *kind)
{
    begun(kind);
    linger(NULL);
}

static void leave(void)
{
    setsid();
    if (fork() != 0)
        _exit(0);
}

static void session(const char *kind)
{
    setsid();
    stay(kind);
}

static void daemonic(const char *kind)
{
    leave();
    if (chdir("/") == 0)
        stay(kind);
}

static void empty_environment(const char *kind)
{
    char *none[] = {NULL};
    leave();
    execve("/proc/self/exe", (char *[]){"escape", (char *)folder, "--stay", (char *)kind, NULL}, none);
}

static void new_title(const char *kind)
{
    setsid();
    for (char **word = words; *word != NULL; word++)
        if (word != words + 1)
            memset(*word, 'x', strlen(*word));
    for (char **variable = words + 3; *variable != NULL; variable++)
        memset(*variable, 'x', strlen(*variable));
    stay(kind);
}

static void ignore_signals(const char *kind)
{
    for (int signum = 1; signum < 65; signum++)
        signal(signum, SIG_IGN);
    stay(kind);
}

static void stopped(const char *kind)
{
    setsid();
    begun(kind);
    raise(SIGSTOP);
    linger(NULL);
}

static void refork(const char *kind)
{
    char path[ROOM];
    snprintf(path, sizeof path, "%s/%s.lock", folder, kind);
    flock(open(path, O_CREAT | O_RDWR, 0600), LOCK_EX);
    while (time(NULL) < end) {
        if (fork() != 0)
            _exit(0);
        setsid();
    }
}

static void closed_files(const char *kind)
{
    leave();
    begun(kind);
    for (int fd = 0; fd < 1024; fd++)
        close(fd);
    linger(NULL);
}

static void deep(const char *kind)
{
    for (int i = 0; i < 12; i++) {
        setsid();
        if (fork() != 0)
            linger(NULL);
    }
    stay(kind);
}

static void respawning(const char *kind)
{
    begun(kind);
    while (time(NULL) < end) {
        pid_t child = fork();
        if (child == 0) {
            setsid();
            linger(NULL);
        }
        waitpid(child, NULL, 0);
    }
}

static void clone_parent(const char *kind)
{
    if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0) {
        setsid();
        stay(kind);
    }
}

static void dead_leader(const char *kind)
{
    pthread_t thread;
    leave();
    begun(kind);
    pthread_create(&thread, NULL, linger, NULL);
    pthread_exit(NULL);
}

static const struct {
    const char *name;
    void (*escape)(const char *kind);
} kinds[] = {
    {"session", session}, {"daemon", daemonic}, {"empty_environment", empty_environment}, {"new_title", new_title},
    {"ignore_signals", ignore_signals}, {"stopped", stopped}, {"refork", refork}, {"closed_files", closed_files},
    {"deep", deep}, {"respawning", respawning}, {"clone_parent", clone_parent}, {"dead_leader", dead_leader},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

int main(int argc, char **argv)
{
    char path[ROOM];
    folder = argc > 1 ? strdup(argv[1]) : ".";
    words = argv;
    end = time(NULL) + LIFETIME_S;
    if (argc > 3 && strcmp(argv[2], "--stay") == 0)
        stay(argv[3]);
    for (int i = 0; i < KINDS; i++)
        if (fork() == 0) {
            kinds[i].escape(kinds[i].name);
            _exit(1);
        }
    for (int i = 0; i < KINDS && time(NULL) < end;) {
        snprintf(path, sizeof path, "%s/%s.%s", folder, kinds[i].name, strcmp(kinds[i].name, "refork") == 0 ? "lock" : "pid");
        if (access(path, F_OK) == 0)
            i++;
        else
            usleep(5000);
    }
    snprintf(path, sizeof path, "%s/all", folder);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    linger(NULL);
}
