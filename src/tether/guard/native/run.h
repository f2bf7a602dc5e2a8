#ifndef TETHER_RUN_H
#define TETHER_RUN_H

/* Be what `tether run` becomes once its command runs: see run.c. The exit status, if it does not end by a signal. */
int run_main(int argc, char **argv);

#endif
