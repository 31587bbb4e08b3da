// A stand-in for NVIDIA's driver library (libcuda.so.1), written after the "CUDA Driver API": enough of it to run the launch code
// of this crate on a machine without a GPU, and stricter than the real one. Device memory is host memory; a stream's work is
// queued and done only when someone waits for it, so that what is reused or freed too early shows; every argument is checked. Of
// several streams, only what is waited for is done: the stream itself, and of another what an event stands for.
//
// STAND_IN, a list like "version=11040 devices=0", sets what the machine has; "log=1" tells of events, and "eager=1" has all streams but
// the first work at once, as far as they need not wait. -DWITHOUT_x leaves the function x out.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t Status;
enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };
enum { BLOCKS = 4096, WORK = 4096, HANDLES = 4096, PARAMETERS = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int started;
static Status broken;  // what every call returns once a kernel has gone wrong
static __thread int current;
static int retained;
static long moment;  // pieces of work done: the clock

static long setting(const char* name, long otherwise) {
    const char* list = getenv("STAND_IN");
    size_t length = strlen(name);
    for (const char* at = list; at && *at; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL)
        if (!strncmp(at, name, length) && at[length] == '=') return atol(at + length + 1);
    return otherwise;
}

// Whether this kernel is the one to go wrong: "faulty=relu2".
static int faulty(const char* kernel) {
    const char* list = getenv("STAND_IN");
    const char* at = list ? strstr(list, "faulty=") : NULL;
    size_t length = strlen(kernel);
    return at && length && !strncmp(at + 7, kernel, length) && (at[7 + length] == ' ' || !at[7 + length]);
}

static void bug(const char* what) {
    fprintf(stderr, "stand-in: %s\n", what);
    abort();
}

// Device and page-locked memory.
static struct Block { char* at; size_t bytes; int pinned; } blocks[BLOCKS];
static size_t device_bytes;

static struct Block* block_of(const void* p, size_t bytes, int pinned) {
    for (int i = 0; i < BLOCKS; i++) {
        struct Block* b = &blocks[i];
        if (b->at && b->pinned == pinned && (char*)p >= b->at && (char*)p + bytes <= b->at + b->bytes) return b;
    }
    return NULL;
}

static Status take(void** p, size_t bytes, int pinned) {
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].at) {
            char* at = aligned_alloc(256, (bytes + 255) / 256 * 256);
            memset(at, 0xa5, bytes);
            blocks[i] = (struct Block){at, bytes, pinned};
            *p = at;
            return OK;
        }
    return NO_MEMORY;
}

// Streams, events, modules and functions: one table, each entry of one kind.
enum Kind { NONE, STREAM, EVENT, MODULE, FUNCTION };
static struct Handle {
    enum Kind kind;
    int number;       // among those of its kind, as they are made
    int recorded, pending;
    long when;
    char* text;       // of a module
    char name[128];   // of a function
    int parameters, widths[PARAMETERS];
    int most_shared;
} handles[HANDLES];

static struct Handle* handle(enum Kind kind) {
    static int made[FUNCTION + 1];
    for (int i = 0; i < HANDLES; i++)
        if (!handles[i].kind) {
            memset(&handles[i], 0, sizeof handles[i]);
            handles[i].kind = kind;
            handles[i].number = made[kind]++;
            handles[i].most_shared = 48 << 10;
            return &handles[i];
        }
    bug("out of handles");
    return NULL;
}

static int is(struct Handle* h, enum Kind kind) { return h >= handles && h < handles + HANDLES && h->kind == kind; }
static int count(enum Kind kind) {
    int n = 0;
    for (int i = 0; i < HANDLES; i++) n += handles[i].kind == kind;
    return n;
}

// What streams are to do, in the order in which it was asked for.
enum Act { TO_DEVICE, TO_HOST, WITHIN, SET, LAUNCH, RECORD, WAIT, CALLBACK };
static struct Work {
    enum Act act;
    char *to, *from;
    size_t bytes;
    int value;
    struct Handle* on;
    uint64_t args[PARAMETERS];
    void (*call)(void*);
    struct Handle* stream;
    long number, until;  // its own, and of a WAIT that of the RECORD
    int done;
} work[WORK];
static int queued;
static long asked;

static uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static float wide(const void* p, int halves, long i) {
    if (!halves) return ((const float*)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t*)p)[i] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// The kernels of product.ptx: c, a, b, m, n, k, whether a and b are turned, whether c is added to.
static void product(const char* types, const uint64_t* arg) {
    int in = !!strncmp(types, "f32", 3), out = !strcmp(types, "bf16");
    void* c = (void*)arg[0];
    const void *a = (void*)arg[1], *b = (void*)arg[2];
    long m = (int)arg[3], n = (int)arg[4], k = (int)arg[5];
    if (!block_of(c, m * n * (out ? 2 : 4), 0) || !block_of(a, m * k * (in ? 2 : 4), 0) || !block_of(b, k * n * (in ? 2 : 4), 0)) {
        broken = ILLEGAL_ADDRESS;
        return;
    }
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++) {
            float sum = 0;
            for (long l = 0; l < k; l++) sum += wide(a, in, arg[6] ? l * m + i : i * k + l) * wide(b, in, arg[7] ? j * k + l : l * n + j);
            if (arg[8]) sum += wide(c, out, i * n + j);
            if (out) ((uint16_t*)c)[i * n + j] = narrow(sum);
            else ((float*)c)[i * n + j] = sum;
        }
}

static void run(struct Work* w) {
    const char* name = w->on ? w->on->name : "";
    uint64_t* a = w->args;
    long n = (long)a[2];
    if (!strcmp(name, "fault") || faulty(name)) {
        broken = ILLEGAL_ADDRESS;
        // The process that is started next finds no GPU.
        if (setting("fatal", 0)) setenv("STAND_IN", "devices=0", 1);
        return;
    }
    if (!strncmp(name, "product_", 8)) {
        product(name + 8, a);
        return;
    }
    int fill = !strncmp(name, "fill_u", 6), cast = !strncmp(name, "cast_", 5);
    if (!fill && !cast) return;
    int out = !strcmp(name, "fill_u16") || !strcmp(name, "cast_f32_bf16") ? 2 : 4;
    if (!block_of((void*)a[0], n * out, 0) || (cast && !block_of((void*)a[1], n * (6 - out), 0))) {
        broken = ILLEGAL_ADDRESS;
        return;
    }
    for (long i = 0; i < n; i++) {
        uint16_t* halves = (uint16_t*)a[0];
        uint32_t* words = (uint32_t*)a[0];
        if (fill && out == 2) halves[i] = (uint16_t)a[1];
        else if (fill) words[i] = (uint32_t)a[1];
        else if (out == 2) halves[i] = narrow(((float*)a[1])[i]);
        else words[i] = (uint32_t)((uint16_t*)a[1])[i] << 16;
    }
}

// Does what a stream has among the first `end` pieces of work, after what it waits for in others.
static void advance(struct Handle* stream, int end) {
    for (int i = 0; i < end; i++) {
        struct Work* w = &work[i];
        if (w->stream != stream || w->done) continue;
        w->done = 1;
        if (w->act == WAIT) {
            for (int r = 0; r < i; r++)
                if (work[r].number == w->until) advance(work[r].stream, r + 1);
            continue;
        }
        if (w->act == RECORD) {
            w->on->when = moment, w->on->recorded = 1, w->on->pending--;
            continue;
        }
        moment++;
        if (broken) continue;
        else if (w->act == SET) memset(w->to, w->value, w->bytes);
        else if (w->act == LAUNCH) run(w);
        else if (w->act == CALLBACK) w->call(w->to);
        else memcpy(w->to, w->from, w->bytes);
    }
}

static void drain(struct Handle* stream, int end) {
    advance(stream, end);
    int left = 0;
    for (int i = 0; i < queued; i++)
        if (!work[i].done) {
            if (left != i) work[left] = work[i];
            left++;
        }
    queued = left;
}
static void drain_all(void) {
    while (queued) drain(work[0].stream, queued);
}

// What another library's work in a stream begins with, and takes.
void stand_in_drain(struct Handle* stream) {
    pthread_mutex_lock(&lock);
    drain(stream, queued);
    moment++;
    pthread_mutex_unlock(&lock);
}
int stand_in_number(struct Handle* h) { return h->number; }

static int told(void) { return setting("log", 0) != 0; }

static Status enqueue(struct Work w, struct Handle* stream) {
    if (!is(stream, STREAM)) return INVALID_HANDLE;
    if (queued == WORK) drain_all();
    w.stream = stream, w.number = ++asked;
    work[queued++] = w;
    if (stream->number && setting("eager", 0)) drain(stream, queued);
    return OK;
}

// Work of another library in a stream, and whether memory is the device's.
Status stand_in_call(struct Handle* stream, void (*call)(void*), void* with) {
    pthread_mutex_lock(&lock);
    Status status = enqueue((struct Work){.act = CALLBACK, .to = with, .call = call}, stream);
    pthread_mutex_unlock(&lock);
    return status;
}
int stand_in_owns(const void* p, size_t bytes) {
    pthread_mutex_lock(&lock);
    int owns = block_of(p, bytes, 0) != NULL;
    pthread_mutex_unlock(&lock);
    return owns;
}

#define CALL pthread_mutex_lock(&lock); Status status = OK
#define DONE pthread_mutex_unlock(&lock); return status
#define IN_CONTEXT \
    CALL; \
    if (!started) status = NOT_INITIALIZED; \
    else if (!current) status = INVALID_CONTEXT; \
    else if (broken) status = broken; \
    else

Status cuGetErrorName(uint32_t status, const char** text) {
    switch (status) {
        case INVALID_VALUE: *text = "CUDA_ERROR_INVALID_VALUE"; return OK;
        case NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; return OK;
        case INVALID_CONTEXT: *text = "CUDA_ERROR_INVALID_CONTEXT"; return OK;
        case INVALID_PTX: *text = "CUDA_ERROR_INVALID_PTX"; return OK;
        case NOT_FOUND: *text = "CUDA_ERROR_NOT_FOUND"; return OK;
        case ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; return OK;
        default: *text = NULL; return INVALID_VALUE;
    }
}

Status cuGetErrorString(uint32_t status, const char** text) {
    switch (status) {
        case INVALID_PTX: *text = "a PTX JIT compilation failed"; return OK;
        case NOT_FOUND: *text = "named symbol not found"; return OK;
        case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; return OK;
        default: *text = NULL; return INVALID_VALUE;
    }
}

Status cuDriverGetVersion(int* version) {
    *version = (int)setting("version", 12080);
    return setting("stub", 0) ? 34 : OK;
}
Status cuInit(unsigned flags) {
    CALL;
    status = flags ? INVALID_VALUE : (Status)(setting("stub", 0) ? 34 : setting("init", 0));
    started = status == OK;
    DONE;
}
Status cuDeviceGetCount(int* n) {
    *n = (int)setting("devices", 1);
    return started ? OK : NOT_INITIALIZED;
}
Status cuDeviceGet(int* device, int ordinal) {
    *device = 70 + ordinal;  // a handle is not an ordinal
    return ordinal >= 0 && ordinal < setting("devices", 1) ? OK : INVALID_DEVICE;
}
Status cuDeviceGetName(char* name, int length, int device) {
    if (device < 70) return INVALID_DEVICE;
    snprintf(name, length, "Stand-in %d", device - 70);
    return OK;
}
Status cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device < 70) return INVALID_DEVICE;
    switch (attribute) {
        case 16: *value = 2; return OK;                              // MULTIPROCESSOR_COUNT
        case 75: *value = (int)setting("major", 9); return OK;       // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = (int)setting("minor", 0); return OK;       // COMPUTE_CAPABILITY_MINOR
        case 97: *value = (int)setting("shared", 227 << 10); return OK;  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        default: return INVALID_VALUE;
    }
}
Status cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = (size_t)setting("memory", 1 << 28);
    return device < 70 ? INVALID_DEVICE : OK;
}
Status cuDevicePrimaryCtxRetain(void** context, int device) {
    CALL;
    status = device < 70 ? INVALID_DEVICE : (Status)setting("retain", 0);
    if (!status) *context = handles, retained++;
    DONE;
}
Status cuDevicePrimaryCtxRelease_v2(int device) {
    CALL;
    if (device < 70 || !retained) status = INVALID_CONTEXT;
    else if (!--retained) {
        int memory = 0, pinned = 0;
        for (int i = 0; i < BLOCKS; i++) memory += blocks[i].at && !blocks[i].pinned, pinned += blocks[i].at && blocks[i].pinned;
        printf("> left: %d device blocks, %d pinned, %d streams, %d events, %d modules\n", memory, pinned, count(STREAM), count(EVENT),
               count(MODULE));
        fflush(stdout);
    }
    DONE;
}
Status cuCtxSetCurrent(void* context) {
    current = context == handles;
    return current || !context ? OK : INVALID_CONTEXT;
}

Status cuStreamCreate(void** stream, unsigned flags) {
    IN_CONTEXT if (flags > 1) status = INVALID_VALUE;
    else *stream = handle(STREAM);
    DONE;
}
Status cuStreamDestroy_v2(struct Handle* stream) {
    IN_CONTEXT if (!is(stream, STREAM)) status = INVALID_HANDLE;
    else drain(stream, queued), stream->kind = NONE;
    DONE;
}
Status cuStreamSynchronize(struct Handle* stream) {
    IN_CONTEXT if (!is(stream, STREAM)) status = INVALID_HANDLE;
    else drain(stream, queued), status = broken;
    DONE;
}

Status cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    IN_CONTEXT if (!bytes) status = INVALID_VALUE;
    else if (device_bytes + bytes > (size_t)setting("memory", 1 << 28)) status = NO_MEMORY;
    else if (!(status = take((void**)at, bytes, 0))) device_bytes += bytes;
    DONE;
}
// What other programs have taken is `busy`.
Status cuMemGetInfo_v2(size_t* left, size_t* all) {
    IN_CONTEXT *all = (size_t)setting("memory", 1 << 28), *left = *all - device_bytes - (size_t)setting("busy", 0);
    DONE;
}
static Status give(void* at, int pinned) {
    struct Block* b = block_of(at, 0, pinned);
    if (!b || b->at != at) return INVALID_VALUE;
    for (int i = 0; i < queued; i++)
        if (work[i].act != RECORD && work[i].act != WAIT) bug("memory is freed while work is queued");
    if (!pinned) device_bytes -= b->bytes;
    free(b->at);
    b->at = NULL;
    return OK;
}
Status cuMemFree_v2(uint64_t at) {
    IN_CONTEXT status = give((void*)at, 0);
    DONE;
}
Status cuMemHostAlloc(void** at, size_t bytes, unsigned flags) {
    IN_CONTEXT status = flags > 7 ? INVALID_VALUE : take(at, bytes, 1);
    DONE;
}
Status cuMemFreeHost(void* at) {
    IN_CONTEXT status = give(at, 1);
    DONE;
}
Status cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, struct Handle* stream) {
    IN_CONTEXT if (!block_of((void*)to, bytes, 0)) status = INVALID_VALUE;
    else if (!block_of(from, bytes, 1)) bug("a copy from memory that is not page-locked may read it later");
    else status = enqueue((struct Work){TO_DEVICE, (char*)to, (char*)from, bytes}, stream);
    DONE;
}
Status cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, struct Handle* stream) {
    IN_CONTEXT if (!block_of((void*)from, bytes, 0)) status = INVALID_VALUE;
    else status = enqueue((struct Work){TO_HOST, to, (char*)from, bytes}, stream);
    DONE;
}
Status cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, struct Handle* stream) {
    IN_CONTEXT if (!block_of((void*)to, bytes, 0) || !block_of((void*)from, bytes, 0)) status = INVALID_VALUE;
    else status = enqueue((struct Work){WITHIN, (char*)to, (char*)from, bytes}, stream);
    DONE;
}
Status cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, struct Handle* stream) {
    IN_CONTEXT if (!block_of((void*)to, bytes, 0)) status = INVALID_VALUE;
    else status = enqueue((struct Work){SET, (char*)to, NULL, bytes, value}, stream);
    DONE;
}

Status cuModuleLoadDataEx(void** module, const char* text, unsigned n, int* options, void** values) {
    IN_CONTEXT {
        const char* wrong = strstr(text, "nonsense");
        for (unsigned i = 0; i < n && wrong; i++)
            if (options[i] == 5 && i + 1 < n && options[i + 1] == 6) {  // ERROR_LOG_BUFFER and its size
                size_t room = (unsigned)(uintptr_t)values[i + 1];
                int used = snprintf(values[i], room, "ptxas application ptx input, line 3; fatal: nonsense");
                values[i + 1] = (void*)(uintptr_t)used;
            }
        if (wrong) status = INVALID_PTX;
        else {
            struct Handle* m = handle(MODULE);
            m->text = strdup(text);
            *module = m;
            printf("> loaded a module\n");
            fflush(stdout);
        }
    }
    DONE;
}
Status cuModuleUnload(struct Handle* module) {
    IN_CONTEXT if (!is(module, MODULE)) status = INVALID_HANDLE;
    else free(module->text), module->kind = NONE;
    DONE;
}
Status cuModuleGetFunction(void** function, struct Handle* module, const char* name) {
    IN_CONTEXT if (!is(module, MODULE)) status = INVALID_HANDLE;
    else {
        char head[160];
        snprintf(head, sizeof head, ".entry %s(", name);
        const char* at = strstr(module->text, head);
        if (!at) status = NOT_FOUND;
        else {
            struct Handle* f = handle(FUNCTION);
            snprintf(f->name, sizeof f->name, "%s", name);
            const char* end = strchr(at, ')');
            while ((at = strstr(at, ".param .")) && at < end) {
                at += strlen(".param .") + 1;  // and the letter before the bits
                f->widths[f->parameters++] = atoi(at) / 8;
            }
            *function = f;
        }
    }
    DONE;
}
Status cuFuncSetAttribute(struct Handle* function, int attribute, int value) {
    IN_CONTEXT if (!is(function, FUNCTION) || attribute != 8 || value > setting("shared", 227 << 10)) status = INVALID_VALUE;
    else function->most_shared = value;
    DONE;
}
Status cuLaunchKernel(struct Handle* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                      struct Handle* stream, void** parameters, void** extra) {
    IN_CONTEXT if (!is(f, FUNCTION)) status = INVALID_HANDLE;
    else if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 0x7fffffff || bx * by * bz == 0 || bx * by * bz > 1024 ||
             (int)shared > f->most_shared || extra)
        status = INVALID_VALUE;
    else {
        struct Work w = {LAUNCH, NULL, NULL, 0, 0, f};
        printf("> launch %s (%u,%u,%u) x (%u,%u,%u), %u shared:", f->name, gx, gy, gz, bx, by, bz, shared);
        for (int i = 0; i < f->parameters; i++) {
            if ((uintptr_t)parameters[i] % f->widths[i]) bug("a parameter is not aligned");
            memcpy(&w.args[i], parameters[i], f->widths[i]);
            // Addresses differ from run to run.
            if (block_of((void*)w.args[i], 1, 0)) printf(" address");
            else printf(" %0*llx", 2 * f->widths[i], (unsigned long long)w.args[i]);
        }
        printf("\n");
        fflush(stdout);
        status = enqueue(w, stream);
    }
    DONE;
}

Status cuEventCreate(void** event, unsigned flags) {
    IN_CONTEXT {
        struct Handle* e = handle(EVENT);
        e->most_shared = (int)flags;
        *event = e;
    }
    DONE;
}
Status cuEventDestroy_v2(struct Handle* event) {
    IN_CONTEXT if (!is(event, EVENT)) status = INVALID_HANDLE;
    else event->kind = NONE;
    DONE;
}
Status cuEventRecord(struct Handle* event, struct Handle* stream) {
    IN_CONTEXT if (!is(event, EVENT)) status = INVALID_HANDLE;
    else {
        event->pending++;
        if ((status = enqueue((struct Work){RECORD, NULL, NULL, 0, 0, event}, stream))) event->pending--;
        else if (told()) printf("> event %d is recorded in stream %d\n", event->number, stream->number), fflush(stdout);
    }
    DONE;
}
Status cuStreamWaitEvent(struct Handle* stream, struct Handle* event, unsigned flags) {
    IN_CONTEXT if (!is(event, EVENT) || !is(stream, STREAM)) status = INVALID_HANDLE;
    else if (flags > 1) status = INVALID_VALUE;
    else {
        // What was recorded last, now; where that is done, or never was, there is nothing to wait for.
        long until = 0;
        for (int i = 0; i < queued; i++)
            if (!work[i].done && work[i].act == RECORD && work[i].on == event) until = work[i].number;
        status = enqueue((struct Work){.act = WAIT, .until = until}, stream);
        if (told()) printf("> stream %d waits for event %d\n", stream->number, event->number), fflush(stdout);
    }
    DONE;
}
Status cuEventSynchronize(struct Handle* event) {
    IN_CONTEXT if (!is(event, EVENT)) status = INVALID_HANDLE;
    else
        while (event->pending)
            for (int i = 0; i < queued; i++)
                if (work[i].act == RECORD && work[i].on == event) {
                    drain(work[i].stream, i + 1);
                    break;
                }
    if (!status) status = broken;
    DONE;
}
#ifndef WITHOUT_cuEventElapsedTime
Status cuEventElapsedTime(float* ms, struct Handle* from, struct Handle* to) {
    IN_CONTEXT if (!is(from, EVENT) || !is(to, EVENT) || !from->recorded || !to->recorded || ((from->most_shared | to->most_shared) & 2))
        status = INVALID_HANDLE;
    else if (from->pending || to->pending) status = 600;  // NOT_READY
    else *ms = (float)(to->when - from->when);
    DONE;
}
#endif
