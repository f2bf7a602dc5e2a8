#define _GNU_SOURCE
#include "far.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { HEAD = 4, ROOM = PIECE_MOST + (256 << 10) };

/* One message at a time. What does not fit is left out: lists that long are none that anybody reads. */
static uint8_t message[ROOM];
static size_t size, mark_size;

static void set(uint8_t *bytes, size_t count, uint64_t number)
{
    for (size_t i = 0; i < count; i++, number >>= 8)
        bytes[i] = (uint8_t)number;
}

void say_mark(const char *mark)
{
    mark_size = strlen(mark) < 64 ? strlen(mark) : 64;
    memcpy(message, mark, mark_size);
}

void say_begin(int kind)
{
    size = mark_size + HEAD;
    message[size++] = WIRE_VERSION;
    message[size++] = (uint8_t)kind;
}

void say_bytes(int key, const void *bytes, size_t count)
{
    if (sizeof message - size < count + 6)
        return;
    set(message + size, 2, (uint64_t)key);
    set(message + size + 2, 4, count);
    memcpy(message + size + 6, bytes, count);
    size += 6 + count;
}

void say_number(int key, int64_t number)
{
    uint8_t bytes[8];
    set(bytes, sizeof bytes, (uint64_t)number);
    say_bytes(key, bytes, sizeof bytes);
}

void say_text(int key, const char *text)
{
    say_bytes(key, text, strlen(text));
}

void say_fields(const struct inbox *inbox)
{
    struct field field;
    for (size_t at = 0; next_field(inbox, &at, &field);)
        say_bytes(field.key, field.bytes, field.size);
}

bool say_end(void)
{
    set(message + mark_size, HEAD, size - mark_size - HEAD);
    /* Whoever does not read holds up this process alone: the trees have their leases. */
    for (size_t sent = 0; sent < size;) {
        ssize_t wrote = write(STDOUT_FILENO, message + sent, size - sent);
        if (wrote < 0 && errno == EAGAIN) {
            struct pollfd ready = {STDOUT_FILENO, POLLOUT, 0};
            poll(&ready, 1, -1);
        } else if (wrote < 0 && errno != EINTR) {
            return false;
        } else if (wrote > 0) {
            sent += (size_t)wrote;
        }
    }
    return true;
}

void answer(int64_t id)
{
    say_begin(KIND_ANSWER);
    say_number(KEY_ID, id);
}

void answer_error(int64_t id, int number, const char *filename)
{
    answer(id);
    say_number(KEY_ERRNO, number);
    say_text(KEY_FILENAME, filename);
    say_end();
}
