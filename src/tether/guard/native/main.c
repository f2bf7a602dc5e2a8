/* tether-guard: holds process trees. See the manual page, tether-guard.1. */
#include "hold.h"
#include "hub.h"
#include "run.h"
#include "sys.h"
#include "wire.h"

#include <stdio.h>
#include <string.h>

#ifndef TETHER_GUARD_BUILD
#define TETHER_GUARD_BUILD "unknown"
#endif

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "hub") == 0)
        return hub_main(argc > 2 && strcmp(argv[2], "pidfd") == 0);
    if (strcmp(mode, "hold") == 0)
        return hold_main(argc - 2, argv + 2);
    if (strcmp(mode, "run") == 0)
        return run_main(argc, argv);
    if (strcmp(mode, "--version") == 0) {
        printf("tether-guard, wire %d, build %s\n", WIRE_VERSION, TETHER_GUARD_BUILD);
        return 0;
    }
    fputs("usage: tether-guard hub | hold --serve FOLDER | run | --version\nIt is started by tether, and holds what that starts.\n",
          stderr);
    return 2;
}
