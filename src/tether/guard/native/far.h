/* The parts of `hold`, one subject a file: what is said, the folders, the lines to shims, spawning, looking. */
#ifndef TETHER_FAR_H
#define TETHER_FAR_H

#include "proc.h"
#include "sys.h"
#include "wire.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

enum { PIECE_MOST = 256 << 10, BOOT_ROOM = 64 };

/* What all parts know. */
struct far {
    char home[PATH_ROOM];  /* the folder of folders */
    char login[PATH_ROOM]; /* where commands begin: the home directory, or / */
    char boot[BOOT_ROOM];
    mode_t mask;         /* the login's umask */
    struct rlimit files; /* the login's limit of descriptors */
    bool subreaper;
    int signals;
};
extern struct far far;

/* -- far_say.c: messages to standard output --------------------------------------------------------------------------------------- */

/* What stands before each message, so that what a login prints besides is passed over. */
void say_mark(const char *mark);
void say_begin(int kind);
void say_number(int key, int64_t number);
void say_text(int key, const char *text);
void say_bytes(int key, const void *bytes, size_t size);
/* All fields of a message that was received. */
void say_fields(const struct inbox *inbox);
/* Write it. False when nobody hears any more. */
bool say_end(void);
/* Begin an answer to a request. */
void answer(int64_t id);
void answer_error(int64_t id, int number, const char *filename);

/* -- far_folder.c: what is kept of each tree --------------------------------------------------------------------------------------- */

struct who {
    int64_t life;
    pid_t shim, main;
    uint64_t shim_start, start;
    char boot[BOOT_ROOM];
};

/* Take `path` as the folder of all: made if need be, and private; 0, or an errno. */
int folder_open(const char *path);
bool folder_path(const char *tag, const char *name, char *path, size_t room);
bool folder_exists(const char *tag);
bool who_read(const char *tag, struct who *who);
void who_write(const char *tag, const struct who *who);
/* The receipt, as JSON; 0 bytes if there is none. */
size_t receipt_read(const char *tag, char *text, size_t room);
/* Leave one for a tree whose shim could not. */
void receipt_write(const char *tag, int64_t life, const char *why, const char *said);
bool folder_remove(const char *tag);
/* Remove what nobody asked for in two weeks. */
void folders_forget_old(void);
/* Say the tags of all that have no receipt. */
void folders_say_running(void);
void log_piece(const struct inbox *request, int64_t id, const char *tag);

/* -- far_tree.c: the lines to shims ------------------------------------------------------------------------------------------------ */

enum { MOST_TREES = 2048 };

struct holding {
    int fd;
    char tag[TAG_ROOM];
    struct who who;
    bool exited, ended;
    int64_t status, fence;
    int64_t spawn_id, adopt_id; /* a request that waits for its answer */
    char asked[PATH_ROOM];      /* what a refusal is about: the program, and the folder behind it */
    struct inbox inbox;
};

/* The line to a shim; made anew if an earlier login left it behind. NULL if there is no shim. */
struct holding *holding_of(const char *tag);
struct holding *holding_add(const char *tag, int fd);
nfds_t holdings_poll(struct pollfd *fds, size_t room);
void holdings_hear(const struct pollfd *fds, nfds_t count);
/* Send a message; a shim that somebody stopped is woken first. */
bool holding_send(struct holding *holding, struct outbox *box);
/* End what is left of a tree whose shim was killed. */
void end_rest(const char *tag);

/* -- far_spawn.c ------------------------------------------------------------------------------------------------------------------- */

void do_spawn(const struct inbox *request, int64_t id, const char *tag);

/* -- far_look.c -------------------------------------------------------------------------------------------------------------------- */

void do_look(int64_t id, const char *tag);
bool has_members(const char *tag);
void do_listens(const struct inbox *request, int64_t id, const char *tag);
void do_port(int64_t id);
void do_diagnose(int64_t id);

#endif
