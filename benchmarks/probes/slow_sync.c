/* A disk that takes long to sync, played: each sync of the process that this is loaded into takes 50 ms. */
#include <time.h>

static int slow(void) {
    struct timespec pause = {0, 50 * 1000 * 1000};
    nanosleep(&pause, 0);
    return 0;
}

int fsync(int descriptor) { (void)descriptor; return slow(); }
int fdatasync(int descriptor) { (void)descriptor; return slow(); }
