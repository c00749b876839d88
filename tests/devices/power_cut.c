/* Records what a program does to the files whose path begins with POWER_CUT_FILES, to be loaded with LD_PRELOAD.
 *
 * POWER_CUT_LOG receives, in order and in the machine's byte order, records of a kind (1 byte), three 64-bit numbers
 * and data: 'o'pen (file, 0, length of the path, path), 'w'rite (file, offset, length, data), 't'runcate (file,
 * length, 0) and 's'ync (file, 0, 0). A file is known by its inode number.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;
static char watched[1024];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void record(char kind, uint64_t file, uint64_t a, uint64_t b, const void *data, size_t length)
{
    uint64_t numbers[3] = {file, a, b};
    struct iovec parts[3] = {{&kind, 1}, {numbers, sizeof numbers}, {(void *)data, length}};
    pthread_mutex_lock(&lock);
    if (log_file < 0)
        log_file = REAL(open)(getenv("POWER_CUT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (writev(log_file, parts, 3) < 0)
        abort();
    pthread_mutex_unlock(&lock);
}

static uint64_t inode(int descriptor)
{
    struct stat status;
    return watched[descriptor] && fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

static int opened(const char *path, int descriptor)
{
    const char *files = getenv("POWER_CUT_FILES");
    if (descriptor < 0 || descriptor >= (int)sizeof watched)
        return descriptor;
    watched[descriptor] = files && strncmp(path, files, strlen(files)) == 0;
    if (watched[descriptor])
        record('o', inode(descriptor), 0, strlen(path), path, strlen(path));
    return descriptor;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                                      \
        va_end(rest);                                                                                                  \
        return opened(path, REAL(name)(path, flags, mode));                                                            \
    }
OPEN(open)
OPEN(open64)

#define WRITE_AT(name, offset_type)                                                                                    \
    ssize_t name(int descriptor, const void *data, size_t length, offset_type offset)                                  \
    {                                                                                                                  \
        ssize_t written = REAL(name)(descriptor, data, length, offset);                                                \
        if (descriptor < (int)sizeof watched && inode(descriptor) && written > 0)                                      \
            record('w', inode(descriptor), offset, written, data, written);                                            \
        return written;                                                                                                \
    }
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)

#define TRUNCATE(name, offset_type)                                                                                    \
    int name(int descriptor, offset_type length)                                                                       \
    {                                                                                                                  \
        int result = REAL(name)(descriptor, length);                                                                   \
        if (descriptor < (int)sizeof watched && inode(descriptor) && result == 0)                                      \
            record('t', inode(descriptor), length, 0, 0, 0);                                                           \
        return result;                                                                                                 \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                                                     \
    int name(int descriptor)                                                                                           \
    {                                                                                                                  \
        int result = REAL(name)(descriptor);                                                                           \
        if (descriptor < (int)sizeof watched && inode(descriptor) && result == 0)                                      \
            record('s', inode(descriptor), 0, 0, 0, 0);                                                                \
        return result;                                                                                                 \
    }
SYNC(fsync)
SYNC(fdatasync)
