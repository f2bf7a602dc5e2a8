/* A message is the length of its body (four bytes, the lowest first), then the body: the version, the kind, and fields. A field is its
 * key (two bytes), its length (four bytes) and its bytes; a number has eight. A field that may come several times is a list. Descriptors
 * come beside any byte of their message, 253 at a time (unix(7), SCM_MAX_FD). Whoever sends is a process of the same user, and still
 * nothing here trusts a length. */
#define _GNU_SOURCE
#include "wire.h"

#include "sys.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD = 4, FIELD_HEAD = 6, BODY_HEAD = 2, FDS_AT_ONCE = 253, SHORT_MS = 5, SEND_TRIES = 200 };

static uint64_t get(const uint8_t *bytes, size_t size)
{
    uint64_t number = 0;
    for (size_t i = size; i-- > 0;)
        number = number << 8 | bytes[i];
    return number;
}

static void set(uint8_t *bytes, size_t size, uint64_t number)
{
    for (size_t i = 0; i < size; i++, number >>= 8)
        bytes[i] = (uint8_t)number;
}

void inbox_clear(struct inbox *inbox)
{
    for (size_t i = 0; i < inbox->fd_count; i++)
        if (inbox->fds[i] >= 0)
            close(inbox->fds[i]);
    if (inbox->mapped > 0)
        munmap(inbox->data, inbox->mapped);
    inbox->data = inbox->small;
    inbox->mapped = inbox->size = inbox->have = inbox->have_head = inbox->fd_count = 0;
}

/* Whether a call failed for want of memory, which passes; then a moment is waited. To take it for the end of a line would end trees. */
static bool is_short(void)
{
    int error = errno;
    if (error != ENOMEM && error != ENOBUFS)
        return false;
    poll(NULL, 0, SHORT_MS);
    errno = error;
    return true;
}

/* As recv(2) without waiting, from what is no socket: its flags belong to others too, so they stay as they are. */
static ssize_t read_ready(int fd, uint8_t *into, size_t room)
{
    struct pollfd ready = {fd, POLLIN, 0};
    if (poll(&ready, 1, 0) == 0) {
        errno = EAGAIN;
        return -1;
    }
    ssize_t got;
    do
        got = read(fd, into, room);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Receive into `room` bytes and take in descriptors. Bytes, 0 at the end, -1 with errno. */
/* A macro of the library, which compares signed with unsigned in musl. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
static struct cmsghdr *next_part(struct msghdr *message, struct cmsghdr *part)
{
    return CMSG_NXTHDR(message, part);
}
#pragma GCC diagnostic pop

static ssize_t receive(struct inbox *inbox, int sock, uint8_t *into, size_t room)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int) * FDS_AT_ONCE)];
    } control;
    struct iovec part = {into, room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got;
    do
        got = recvmsg(sock, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == ENOTSOCK ? read_ready(sock, into, room) : got;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message), *next; each != NULL; each = next) {
        next = next_part(&message, each);
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(each) + i * sizeof fd, sizeof fd);
            if (inbox->fd_count < WIRE_FDS)
                inbox->fds[inbox->fd_count++] = fd;
            else
                close(fd);
        }
    }
    return got;
}

static bool begin_body(struct inbox *inbox)
{
    size_t size = (size_t)get(inbox->head, HEAD);
    if (size < BODY_HEAD || size > WIRE_MOST)
        return false;
    inbox->data = inbox->small;
    if (size > sizeof inbox->small) {
        void *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED)
            return false;
        inbox->data = mapping;
        inbox->mapped = size;
    }
    inbox->size = size;
    return true;
}

enum got inbox_read(struct inbox *inbox, int sock)
{
    if (inbox->data == NULL)
        inbox_clear(inbox);
    for (;;) {
        bool in_head = inbox->have_head < HEAD;
        uint8_t *into = in_head ? inbox->head + inbox->have_head : inbox->data + inbox->have;
        size_t room = in_head ? HEAD - inbox->have_head : inbox->size - inbox->have;
        ssize_t got = receive(inbox, sock, into, room);
        if (got < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || is_short() ? GOT_NOTHING : GOT_END;
        if (got == 0)
            return GOT_END;
        if (in_head) {
            inbox->have_head += (size_t)got;
            if (inbox->have_head == HEAD && !begin_body(inbox))
                return GOT_END;
            continue;
        }
        inbox->have += (size_t)got;
        if (inbox->have == inbox->size)
            return inbox->data[0] == WIRE_VERSION ? GOT_MESSAGE : GOT_END;
    }
}

int inbox_kind(const struct inbox *inbox)
{
    return inbox->data[1];
}

bool next_field(const struct inbox *inbox, size_t *at, struct field *field)
{
    size_t from = *at == 0 ? BODY_HEAD : *at;
    if (from > inbox->size || inbox->size - from < FIELD_HEAD)
        return false;
    size_t size = (size_t)get(inbox->data + from + 2, 4);
    if (inbox->size - from - FIELD_HEAD < size)
        return false;
    field->key = (int)get(inbox->data + from, 2);
    field->bytes = inbox->data + from + FIELD_HEAD;
    field->size = size;
    *at = from + FIELD_HEAD + size;
    return true;
}

bool find_field(const struct inbox *inbox, int key, struct field *field)
{
    for (size_t at = 0; next_field(inbox, &at, field);)
        if (field->key == key)
            return true;
    return false;
}

int64_t field_number(const struct field *field)
{
    return field->size == 8 ? (int64_t)get(field->bytes, 8) : 0;
}

int64_t number_of(const struct inbox *inbox, int key, int64_t otherwise)
{
    struct field field;
    return find_field(inbox, key, &field) && field.size == 8 ? field_number(&field) : otherwise;
}

bool text_of(const struct inbox *inbox, int key, char *text, size_t room)
{
    struct field field;
    text[0] = '\0';
    if (!find_field(inbox, key, &field) || field.size >= room || memchr(field.bytes, '\0', field.size) != NULL)
        return false;
    memcpy(text, field.bytes, field.size);
    text[field.size] = '\0';
    return true;
}

void outbox_begin(struct outbox *box, int kind)
{
    box->start = 0;
    box->data[HEAD] = WIRE_VERSION;
    box->data[HEAD + 1] = (uint8_t)kind;
    box->size = HEAD + BODY_HEAD;
    box->cut = false;
}

static void end_message(struct outbox *box)
{
    set(box->data + box->start, HEAD, box->size - box->start - HEAD);
}

void outbox_next(struct outbox *box, int kind)
{
    end_message(box);
    if (sizeof box->data - box->size < HEAD + BODY_HEAD) {
        box->cut = true;
        return;
    }
    box->start = box->size;
    box->data[box->start + HEAD] = WIRE_VERSION;
    box->data[box->start + HEAD + 1] = (uint8_t)kind;
    box->size = box->start + HEAD + BODY_HEAD;
}

static void put(struct outbox *box, int key, const void *bytes, size_t size)
{
    if (sizeof box->data - box->size < FIELD_HEAD + size) {
        box->cut = true;
        return;
    }
    set(box->data + box->size, 2, (uint64_t)key);
    set(box->data + box->size + 2, 4, size);
    memcpy(box->data + box->size + FIELD_HEAD, bytes, size);
    box->size += FIELD_HEAD + size;
}

void put_number(struct outbox *box, int key, int64_t number)
{
    uint8_t bytes[8];
    set(bytes, sizeof bytes, (uint64_t)number);
    put(box, key, bytes, sizeof bytes);
}

void put_text(struct outbox *box, int key, const char *text)
{
    put(box, key, text, strlen(text));
}

int outbox_send(struct outbox *box, int sock, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    end_message(box);
    struct iovec part = {box->data, box->size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    ssize_t sent;
    int tries = 0;
    do
        sent = sendmsg(sock, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && (errno == EINTR || (is_short() && ++tries < SEND_TRIES)));
    if (sent < 0)
        return -1;
    if ((size_t)sent == box->size)
        return 0;
    /* Half a message would garble all that follows it: without the line the other end knows at least that. */
    shutdown(sock, SHUT_RDWR);
    errno = EAGAIN;
    return -1;
}
