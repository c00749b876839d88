/* A V4L2 camera for machines whose kernel has none, to be loaded with LD_PRELOAD.
 *
 * The device file FAKE_V4L2_DEVICE (default /dev/video0) delivers the pictures of FAKE_V4L2_FRAMES (raw YUYV 4:2:2,
 * FAKE_V4L2_SIZE, default 640x480, one after the other, again from the first) FAKE_V4L2_FPS times a second (default 15).
 * FAKE_V4L2_CONTROL names a file whose first letter is the camera's state: r(un), f(reeze) or u(nplug).
 *
 * Its file descriptor is a timer that expires with each picture, so select() and poll() work as on the real thing.
 * One camera, opened once at a time, memory-mapped buffers only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BUFFERS_MAX = 8, BUFFER_STRIDE = 1 << 24 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int camera = -1; /* the file descriptor while the device is open */
static char state = 'r';
static int streaming;
static unsigned width = 640, height = 480;
static double fps = 15;

static uint8_t *pictures;
static size_t picture_bytes, picture_count;
static uint64_t sequence;

static void *buffers[BUFFERS_MAX];
static unsigned buffer_count;
static unsigned queue[BUFFERS_MAX], queued; /* buffers waiting for a picture, oldest first */

#define REAL(name, result, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int fail(int error) {
    errno = error;
    return -1;
}

static char read_state(void) {
    const char *path = getenv("FAKE_V4L2_CONTROL");
    FILE *file = path ? fopen(path, "re") : NULL;
    int letter = file ? fgetc(file) : 'r';
    if (file) fclose(file);
    return letter == 'f' || letter == 'u' ? (char)letter : 'r';
}

static void set_timer(double period_s) {
    struct itimerspec timer = {0};
    timer.it_interval.tv_sec = (time_t)period_s;
    timer.it_interval.tv_nsec = (long)((period_s - (double)timer.it_interval.tv_sec) * 1e9);
    timer.it_value = timer.it_interval;
    timerfd_settime(camera, 0, &timer, NULL);
}

/* A frozen camera's timer never expires; an unplugged one's does at once, so that its reader sees the error. */
static void apply_state(void) {
    if (camera >= 0 && streaming) set_timer(state == 'r' ? 1 / fps : state == 'u' ? 0.001 : 0);
}

static void *follow_control(void *unused) {
    for (;;) {
        usleep(20000);
        char now = read_state();
        pthread_mutex_lock(&lock);
        if (now != state) {
            state = now;
            apply_state();
        }
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static void load_pictures(void) {
    REAL("open64", int, const char *, int, ...);
    const char *path = getenv("FAKE_V4L2_FRAMES"), *size = getenv("FAKE_V4L2_SIZE"), *rate = getenv("FAKE_V4L2_FPS");
    if (size) sscanf(size, "%ux%u", &width, &height);
    if (rate) fps = atof(rate);
    picture_bytes = (size_t)width * height * 2;
    int file = path ? real(path, O_RDONLY | O_CLOEXEC) : -1;
    struct stat status;
    if (file < 0 || fstat(file, &status) || (size_t)status.st_size < picture_bytes) {
        fprintf(stderr, "fake_v4l2: FAKE_V4L2_FRAMES holds no %ux%u picture\n", width, height);
        exit(2);
    }
    picture_count = (size_t)status.st_size / picture_bytes;
    pictures = mmap(NULL, picture_count * picture_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    pthread_t thread;
    pthread_create(&thread, NULL, follow_control, NULL);
    pthread_detach(thread);
}

static int open_camera(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_pictures);
    pthread_mutex_lock(&lock);
    state = read_state();
    int result;
    if (state == 'u') result = fail(ENOENT);
    else if (camera >= 0) result = fail(EBUSY);
    else {
        result = camera = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        streaming = 0;
        buffer_count = queued = 0;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int is_camera(const char *path) {
    const char *device = getenv("FAKE_V4L2_DEVICE");
    return path && !strcmp(path, device ? device : "/dev/video0");
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(#name, int, const char *, int, ...); \
        if (is_camera(path)) return open_camera(); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

int close(int file) {
    REAL("close", int, int);
    pthread_mutex_lock(&lock);
    if (file >= 0 && file == camera) {
        camera = -1;
        streaming = 0;
    }
    pthread_mutex_unlock(&lock);
    return real(file);
}

#define MMAP(name) \
    void *name(void *address, size_t length, int protection, int flags, int file, off_t offset) { \
        REAL(#name, void *, void *, size_t, int, int, int, off_t); \
        if (file >= 0 && file == camera) return buffers[offset / BUFFER_STRIDE]; \
        return real(address, length, protection, flags, file, offset); \
    }
MMAP(mmap)
MMAP(mmap64)

static int query_capability(struct v4l2_capability *capability) {
    memset(capability, 0, sizeof *capability);
    strcpy((char *)capability->driver, "fake_v4l2");
    strcpy((char *)capability->card, "Fake camera");
    capability->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
    capability->capabilities = capability->device_caps | V4L2_CAP_DEVICE_CAPS;
    return 0;
}

/* There is one format, whatever is asked for. */
static int tell_format(struct v4l2_format *format) {
    if (format->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    struct v4l2_pix_format *picture = &format->fmt.pix;
    picture->width = width;
    picture->height = height;
    picture->pixelformat = V4L2_PIX_FMT_YUYV;
    picture->field = V4L2_FIELD_NONE;
    picture->bytesperline = width * 2;
    picture->sizeimage = (unsigned)picture_bytes;
    picture->colorspace = V4L2_COLORSPACE_SRGB;
    return 0;
}

static int tell_rate(struct v4l2_streamparm *parameters) {
    parameters->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    parameters->parm.capture.timeperframe.numerator = 1000;
    parameters->parm.capture.timeperframe.denominator = (unsigned)(fps * 1000);
    return 0;
}

static int request_buffers(struct v4l2_requestbuffers *request) {
    if (request->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
    if (request->count > BUFFERS_MAX) request->count = BUFFERS_MAX;
    buffer_count = request->count;
    queued = 0;
    for (unsigned i = 0; i < buffer_count; i++) /* the reader unmaps what it mapped, so each time is a new one */
        buffers[i] = mmap(NULL, picture_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return 0;
}

static int query_buffer(struct v4l2_buffer *buffer) {
    if (buffer->index >= buffer_count) return fail(EINVAL);
    buffer->length = (unsigned)picture_bytes;
    buffer->m.offset = buffer->index * BUFFER_STRIDE;
    buffer->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    return 0;
}

static int queue_buffer(const struct v4l2_buffer *buffer) {
    if (buffer->index >= buffer_count || queued == BUFFERS_MAX) return fail(EINVAL);
    queue[queued++] = buffer->index;
    return 0;
}

static int dequeue_buffer(struct v4l2_buffer *buffer) {
    uint64_t expired;
    if (!streaming) return fail(EINVAL);
    if (read(camera, &expired, sizeof expired) != sizeof expired || !queued) return fail(EAGAIN);
    sequence += expired;
    buffer->index = queue[0];
    memmove(queue, queue + 1, --queued * sizeof *queue);
    memcpy(buffers[buffer->index], pictures + sequence % picture_count * picture_bytes, picture_bytes);
    query_buffer(buffer);
    buffer->bytesused = (unsigned)picture_bytes;
    buffer->sequence = (unsigned)sequence;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    buffer->timestamp.tv_sec = now.tv_sec;
    buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    return 0;
}

static int set_streaming(int on) {
    streaming = on;
    queued = on ? queued : 0;
    if (on) apply_state();
    else set_timer(0);
    return 0;
}

static int control_camera(unsigned long request, void *argument) {
    if (state == 'u') return fail(ENODEV);
    switch ((uint32_t)request) {
    case VIDIOC_QUERYCAP: return query_capability(argument);
    case VIDIOC_ENUMINPUT: return ((struct v4l2_input *)argument)->index ? fail(EINVAL) : 0;
    case VIDIOC_G_INPUT: return *(int *)argument = 0;
    case VIDIOC_S_INPUT: return *(int *)argument ? fail(EINVAL) : 0;
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: return tell_format(argument);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: return tell_rate(argument);
    case VIDIOC_REQBUFS: return request_buffers(argument);
    case VIDIOC_QUERYBUF: return query_buffer(argument);
    case VIDIOC_QBUF: return queue_buffer(argument);
    case VIDIOC_DQBUF: return dequeue_buffer(argument);
    case VIDIOC_STREAMON: return set_streaming(1);
    case VIDIOC_STREAMOFF: return set_streaming(0);
    default: return fail(EINVAL);
    }
}

int ioctl(int file, unsigned long request, ...) {
    REAL("ioctl", int, int, unsigned long, ...);
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (file < 0 || file != camera) return real(file, request, argument);
    pthread_mutex_lock(&lock);
    int result = control_camera(request, argument);
    pthread_mutex_unlock(&lock);
    return result;
}
