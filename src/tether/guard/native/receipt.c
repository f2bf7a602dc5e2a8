#define _GNU_SOURCE
#include "receipt.h"

#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct line {
    char text[RECEIPT_ROOM];
    size_t size;
};

static void put(struct line *line, const char *text)
{
    size_t size = strlen(text);
    if (line->size + size + 1 > sizeof line->text)
        return;
    memcpy(line->text + line->size, text, size + 1);
    line->size += size;
}

static void put_string(struct line *line, const char *text)
{
    char escaped[8];
    put(line, "\"");
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at < 0x20 || *at >= 0x7f || *at == '"' || *at == '\\')
            snprintf(escaped, sizeof escaped, "\\u%04x", *at);
        else
            snprintf(escaped, sizeof escaped, "%c", *at);
        put(line, escaped);
    }
    put(line, "\"");
}

static void write_line(struct line *line, const struct receipt *receipt)
{
    char number[32];
    line->size = 0;
    put(line, "{\"tag\": ");
    put_string(line, receipt->tag);
    snprintf(number, sizeof number, ", \"life\": %lld", (long long)receipt->life);
    put(line, number);
    snprintf(number, sizeof number, ", \"status\": %d", receipt->status);
    put(line, receipt->has_status ? number : ", \"status\": null");
    put(line, ", \"why\": ");
    put_string(line, receipt->why);
    put(line, ", \"said\": ");
    put_string(line, receipt->said);
    put(line, ", \"shm\": [");
    for (size_t i = 0; i < receipt->removed->count && line->size < RECEIPT_ROOM - 2 * NAME_ROOM; i++) {
        put(line, i == 0 ? "" : ", ");
        put_string(line, receipt->removed->list[i].name);
    }
    put(line, "]}\n");
}

void receipt_append(int fd, const struct receipt *receipt)
{
    static struct line line;
    write_line(&line, receipt);
    /* One write to a file opened for appending: what others append stands before it or after it. */
    if (write(fd, line.text, line.size) < 0)
        complain("the receipt of %s could not be written: %s", receipt->tag, strerror(errno));
}

void receipt_leave(const char *run_dir, const struct receipt *receipt)
{
    static struct line line;
    char path[PATH_ROOM], fresh[PATH_ROOM], sock[PATH_ROOM];
    if (!format(path, sizeof path, "%s/%s.%lld.ended", run_dir, receipt->tag, (long long)receipt->life) ||
        !format(fresh, sizeof fresh, "%s.new", path) ||
        !format(sock, sizeof sock, "%s/%s.%lld.sock", run_dir, receipt->tag, (long long)receipt->life))
        return;
    write_line(&line, receipt);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, line.text, line.size) != (ssize_t)line.size || rename(fresh, path) < 0)
        complain("the receipt of %s could not be left: %s", receipt->tag, strerror(errno));
    if (fd >= 0)
        close(fd);
    unlink(sock);
}
