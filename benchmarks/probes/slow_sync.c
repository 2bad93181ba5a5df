/* Simulates a slow disk: every sync takes 50 ms in a process that preloads this library. */
#include <time.h>

static int slow(void) {
    struct timespec pause = {0, 50 * 1000 * 1000};
    nanosleep(&pause, 0);
    return 0;
}

int fsync(int descriptor) { (void)descriptor; return slow(); }
int fdatasync(int descriptor) { (void)descriptor; return slow(); }
