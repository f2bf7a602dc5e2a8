/* The process that serves the trees of a host to whoever logged in there. */
#ifndef TETHER_HOLD_H
#define TETHER_HOLD_H

/* Serve requests on standard input until that ends; the trees go on under their leases. The exit status. */
int hold_main(int count, char **words);

#endif
