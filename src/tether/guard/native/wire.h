/* Messages with file descriptors over a stream socket. See wire.c for the form; guard/wire.py is the other end. */
#ifndef TETHER_WIRE_H
#define TETHER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { WIRE_VERSION = 1 };

enum kind {
    KIND_CONFIG = 1, /* owner to hub: who it answers for */
    KIND_BYE = 2,    /* owner to hub: it ends in order, nothing is to be settled */
    KIND_READY = 3,  /* hub to owner: armed */
    KIND_LOST = 4,   /* hub to owner: a shim was killed, and its tree was ended here */
    KIND_STUCK = 5,  /* members that were killed and are still there */
    KIND_FORK = 6,   /* owner to hub: fork a shim */
    KIND_SHIM = 7,   /* shim to owner: it holds the lifeline; with the owner's end of its channel */
    KIND_REFUSED = 8,
    KIND_ARMED = 9,    /* shim to who may come and go: it holds the lease */
    KIND_SPAWNED = 10, /* shim to owner: the command was executed */
    KIND_EXITED = 11,  /* shim to owner: the command itself has ended */
    KIND_PAUSED = 12,  /* shim to owner: a signal stopped the command */
    KIND_ENDED = 13,   /* shim to owner: nothing of the tree is left */
    KIND_SPAWN = 14,
    KIND_STOP = 15,
    KIND_KILL = 16,
    KIND_CONTINUE = 17,
    KIND_SIGNAL = 18,
    KIND_ADOPT = 19,
    KIND_ADOPTED = 20,
    /* from 64 on: with a process that serves trees under a lease (hold) */
    KIND_HELLO = 64,  /* it is there: what its host is */
    KIND_ANSWER = 65, /* to a request, by its id */
    KIND_STATE = 66,  /* shim to whoever connects: how its tree is */
    KIND_RENEW = 67,
    KIND_LOOK = 68,
    KIND_LOG = 69,
    KIND_CLEAR = 70,
    KIND_PORT = 71,
    KIND_LISTENS = 72,
    KIND_DIAGNOSE = 73,
};

enum key {
    KEY_OWNER = 1,
    KEY_STATE_DIR = 2,
    KEY_CGROUP = 3,
    KEY_SETTLE = 4, /* repeated: the command that settles what the owner left */
    KEY_TIER = 5,
    KEY_PID = 6,
    KEY_START = 7,
    KEY_ERRNO = 8,
    KEY_FILENAME = 9,
    KEY_STATUS = 10,
    KEY_ENDING = 11,
    KEY_SIGNAL = 12,
    KEY_WHY = 13,
    KEY_SAID = 14,
    KEY_SHM = 15,
    KEY_TAG = 16,
    KEY_LIFE = 17,
    KEY_ARG = 18,
    KEY_ENV = 19,
    KEY_PROGRAM = 20,
    KEY_CWD = 21,
    KEY_UMASK = 22,
    KEY_TARGET = 23, /* repeated: a descriptor's number in the command; one that was sent, or -1 - number for a closed one */
    KEY_SESSION = 24,
    KEY_GROUP = 25,
    KEY_TERMINAL = 26,
    KEY_IGNORED = 27,
    KEY_MASK = 28,
    KEY_STEP_SIGNAL = 29,
    KEY_STEP_MS = 30,
    KEY_TO_MAIN = 31,
    KEY_AGAIN = 32,
    KEY_ON_DEATH = 33,
    KEY_KEEP_MS = 34,
    KEY_LOG = 35,
    KEY_RUN_DIR = 36,
    KEY_FENCE = 37,
    KEY_UID = 38,
    KEY_GID = 39,
    KEY_GROUPS = 40,
    KEY_RLIMIT = 41, /* repeated: resource, soft, hard; three numbers */
    KEY_NICE = 42,
    KEY_AFFINITY = 43, /* a bit mask, lowest processor first */
    KEY_OOM = 44,
    KEY_REASON = 45,
    KEY_DETAIL = 46,
    KEY_TO = 47, /* whom a signal is for; of what was refused: enum refused_at */
    KEY_VERSION = 48,
    KEY_INODE = 49,
    KEY_ENDS_WITH_MAIN = 50,
    KEY_SHELL = 51,
    KEY_ID = 64,
    KEY_LEASE_MS = 65,
    KEY_OFFSET = 66,
    KEY_SIZE = 67,
    KEY_DATA = 68,
    KEY_BOOT = 69,
    KEY_HOME = 70,
    KEY_ALIVE = 71,
    KEY_SHIM = 72,
    KEY_SHIM_START = 73,
    KEY_MEMBER = 74, /* repeated */
    KEY_CPU_MS = 75,
    KEY_MEMORY = 76,
    KEY_RECEIPT = 77,
    KEY_PORT = 78,
    KEY_FREE = 79,
    KEY_RUNNING = 80, /* repeated */
    KEY_MISSING = 81,
    KEY_MACHINE = 82,
    KEY_BUILD = 83,
};

/* What the kernel refused, and not the program. guard/wire.py names them. */
enum refused_at {
    AT_PROGRAM = 0,
    AT_FOLDER = 1,
    AT_GROUP = 2,
    AT_NICE = 3,
    AT_AFFINITY = 4,
    AT_OOM = 5,
    AT_DESCRIPTORS = 6,
    AT_TERMINAL = 7,
    AT_GROUPS = 8,
    AT_GID = 9,
    AT_UID = 10,
    AT_REQUEST = 11, /* nothing of the command was begun */
    AT_LIMIT = 32,   /* and above: this and the number of the limit */
    AT_MOST = 64,
};

enum {
    WIRE_MOST = 32 << 20, /* bytes of one message: argv and environment of one command, which the kernel limits to 6 MiB */
    WIRE_FDS = 4096,      /* descriptors of one message */
    WIRE_SMALL = 1024,
};

/* A message being received. */
struct inbox {
    uint8_t *data; /* `small`, or a mapping of `mapped` bytes */
    size_t mapped;
    size_t size; /* of the body, once the head is whole */
    size_t have;
    size_t have_head;
    size_t fd_count;
    uint8_t head[4];
    uint8_t small[WIRE_SMALL];
    int fds[WIRE_FDS]; /* last: of most messages only the first page is ever touched */
};

enum got { GOT_NOTHING, GOT_MESSAGE, GOT_END };

/* Read what there is, without waiting. GOT_END also for a message that can't be one of ours. */
enum got inbox_read(struct inbox *inbox, int sock);
/* Forget the message and close the descriptors that came with it and were not taken. */
void inbox_clear(struct inbox *inbox);
int inbox_kind(const struct inbox *inbox);

/* One field of a message; `bytes` is not ended by a NUL. */
struct field {
    int key;
    const uint8_t *bytes;
    size_t size;
};

/* Step through the fields: begin with *at == 0. False at the end, also at one that is cut. */
bool next_field(const struct inbox *inbox, size_t *at, struct field *field);
bool find_field(const struct inbox *inbox, int key, struct field *field);
int64_t field_number(const struct field *field);
int64_t number_of(const struct inbox *inbox, int key, int64_t otherwise);
/* Copy a field as text, whole or not at all. */
bool text_of(const struct inbox *inbox, int key, char *text, size_t room);

/* A message being written: what does not fit is left out, and `cut` says so. */
struct outbox {
    size_t size, start; /* of all that is in it; where the last message begins */
    bool cut;
    uint8_t data[8192];
};

void outbox_begin(struct outbox *box, int kind);
/* Begin another message behind the one that is written: both are sent at once. */
void outbox_next(struct outbox *box, int kind);
void put_number(struct outbox *box, int key, int64_t number);
void put_text(struct outbox *box, int key, const char *text);
/* Send it, with a copy of `fd` unless that is negative. 0, or -1 with errno. */
int outbox_send(struct outbox *box, int sock, int fd);

#endif
