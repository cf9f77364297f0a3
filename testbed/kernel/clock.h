/*
 * Given to the compiler with the file that is user-mode Linux's clock (arch/um/kernel/time.c), before that file's own first line.
 *
 * Linux's defaults count time in steps of 256 ns, let every look at the clock take one step, and set no timer nearer than 500 ns. A
 * message of 1 kB takes 17 us at 500 Mbit/s: five looks at the clock would be an error of 8 %. Steps of 1 ns are as much time as a loop
 * needs that waits for the clock to move.
 */
#ifndef __UM_HOST__
#include <linux/time-internal.h>
#undef TIMER_MULTIPLIER
#define TIMER_MULTIPLIER 1
#undef TIMER_MIN_DELTA
#define TIMER_MIN_DELTA 1
#endif
