// A stand-in for NCCL, written after NVIDIA's "NCCL API": ranks are processes that exchange over shared memory, work is done in the stream of the stand-in for the driver
// (crates/kernels/tests/stand_in/cuda.c), that is, when somebody waits for it. It is stricter than the real one: every argument is checked, and a communicator is made only
// when all ranks are there. What it can't show is how fast anything is, and whether a GPU does what is expected of it.
//
// STAND_IN, a list like "nccl=error", sets what goes wrong. -DWITHOUT_x leaves the function x out.
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int Status;
enum { OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum { RANKS = 8, SLOT = 1 << 20, GROUP = 64 };
typedef struct { char bytes[128]; } UniqueId;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;

// What ranks share.
typedef struct {
    atomic_int ranks, joined, come, round, ended;
    char slots[RANKS][SLOT];
} Shared;
typedef struct { Shared* shared; int rank, ranks, collectives; atomic_int aborted, status; int destroyed; } Comm;

static int set(const char* what) { return getenv("STAND_IN") && strstr(getenv("STAND_IN"), what); }
static void* driver(const char* name) {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return library ? dlsym(library, name) : NULL;
}
static int owns(const void* p, size_t bytes) { return ((int (*)(const void*, size_t))driver("stand_in_owns"))(p, bytes); }

Status ncclGetVersion(int* version) {
    *version = set("nccl=old") ? 2708 : 22005;
    return OK;
}
const char* ncclGetErrorString(Status status) {
    switch (status) {
        case OK: return "no error";
        case INVALID_ARGUMENT: return "invalid argument";
        case REMOTE_ERROR: return "remote process exited or there was a network error";
        default: return "unhandled system error";
    }
}
const char* ncclGetLastError(Comm* comm) { return comm && comm->status == REMOTE_ERROR ? "socket closed by peer" : ""; }

Status ncclGetUniqueId(UniqueId* id) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0x5a, sizeof *id);
    snprintf(id->bytes, 64, "/farthing-nccl-%d-%ld", getpid(), now.tv_nsec);
    int fd = shm_open(id->bytes, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(Shared))) return SYSTEM_ERROR;
    close(fd);
    return OK;
}
// The id is passed by value: all of its 128 bytes have to arrive.
Status ncclCommInitRankConfig(Comm** comm, int ranks, UniqueId id, int rank, Config* config) {
    for (int i = 64; i < 128; i++)
        if (id.bytes[i] != 0x5a) return INVALID_ARGUMENT;
    if (!config || config->size < 20 || config->magic != 0xcafebeef || config->version < 21400 || config->blocking) return INVALID_ARGUMENT;
    if (ranks < 1 || ranks > RANKS || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    int fd = shm_open(id.bytes, O_RDWR, 0600);
    if (fd < 0) return SYSTEM_ERROR;
    *comm = calloc(1, sizeof(Comm));
    (*comm)->shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    (*comm)->rank = rank, (*comm)->ranks = ranks, (*comm)->status = IN_PROGRESS;
    if (++(*comm)->shared->joined == ranks) shm_unlink(id.bytes);
    return IN_PROGRESS;
}
Status ncclCommGetAsyncError(Comm* comm, Status* status) {
    if (!comm || comm->destroyed) return INVALID_ARGUMENT;
    if (comm->status == IN_PROGRESS && comm->shared->joined == comm->ranks && !set("nccl=never")) comm->status = OK;
    if (set("nccl=error") && comm->collectives > 2) comm->status = REMOTE_ERROR;
    *status = comm->status;
    return OK;
}
Status ncclCommAbort(Comm* comm) {
    if (!comm || comm->destroyed) return INVALID_ARGUMENT;
    comm->aborted = comm->destroyed = 1;
    return OK;
}
Status ncclCommFinalize(Comm* comm) { return comm && !comm->destroyed ? OK : INVALID_ARGUMENT; }
Status ncclCommDestroy(Comm* comm) {
    if (!comm || comm->destroyed) return INVALID_ARGUMENT;
    comm->destroyed = 1;
    printf("> a communicator ended in peace\n");
    fflush(stdout);
    return OK;
}

// Waits for all ranks; whether they have come.
static int meet(Comm* comm) {
    Shared* s = comm->shared;
    int round = s->round;
    if (++s->come == comm->ranks) {
        s->come = 0;
        s->round++;
        return 1;
    }
    while (s->round == round) {
        if (comm->aborted) return 0;
        sched_yield();
    }
    return 1;
}

enum Kind { REDUCE_SCATTER, REDUCE, ALL_GATHER, BROADCAST, ALL_REDUCE };
typedef struct { enum Kind kind; const char* from; char* to; size_t count; int type, root; Comm* comm; } Work;
static size_t width(int type) { return type == 7 ? 4 : type == 8 ? 8 : type == 9 ? 2 : 0; }

static double value(const char* p, int type) {
    uint32_t bits;
    float x;
    switch (type) {
        case 8: return *(const double*)p;
        case 9: bits = (uint32_t)*(const uint16_t*)p << 16; break;
        default: bits = *(const uint32_t*)p;
    }
    memcpy(&x, &bits, 4);
    return x;
}
static void put(char* p, int type, double sum) {
    float x = (float)sum;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (type == 8) *(double*)p = sum;
    else if (type == 9) *(uint16_t*)p = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    else *(uint32_t*)p = bits;
}

// In the stream, when somebody waits for it.
static void run(void* p) {
    Work* w = p;
    Comm* comm = w->comm;
    size_t size = width(w->type), all = w->count * size;
    if (w->kind == REDUCE_SCATTER) all *= comm->ranks;
    int sends = w->kind != BROADCAST || comm->rank == w->root;
    for (size_t at = 0; at < all && !comm->aborted; at += SLOT) {
        size_t n = all - at < SLOT ? all - at : SLOT;
        if (sends) memcpy(comm->shared->slots[comm->rank], w->from + at, n);
        if (!meet(comm)) break;
        for (size_t i = 0; i < n; i += size) {
            size_t element = at + i;
            char* to = w->to ? w->to + element : NULL;
            if (w->kind == ALL_GATHER) {
                for (int r = 0; r < comm->ranks; r++) memcpy(w->to + r * all + element, comm->shared->slots[r] + i, size);
                continue;
            }
            if (w->kind == BROADCAST) {
                memcpy(to, comm->shared->slots[w->root] + i, size);
                continue;
            }
            if (w->kind == REDUCE && comm->rank != w->root) continue;
            if (w->kind == REDUCE_SCATTER) {
                size_t own = w->count * size * comm->rank;
                if (element < own || element >= own + w->count * size) continue;
                to = w->to + element - own;
            }
            double sum = 0;
            // Not in the order of ranks: nobody may rely on that.
            for (int r = comm->ranks - 1; r >= 0; r--) sum += value(comm->shared->slots[r] + i, w->type);
            put(to, w->type, sum);
        }
        if (!meet(comm)) break;
    }
    free(w);
}

static __thread int depth, held;
static __thread struct { Work* work; void* stream; } group[GROUP];

static Status launch(Work* w, void* stream) {
    static const char* names[] = {"reduce_scatter", "reduce", "all_gather", "broadcast", "all_reduce"};
    if (set("log=1")) {
        printf("> %s in stream %d\n", names[w->kind], ((int (*)(void*))driver("stand_in_number"))(stream));
        fflush(stdout);
    }
    Status (*call)(void*, void (*)(void*), void*) = (Status(*)(void*, void (*)(void*), void*))driver("stand_in_call");
    return call(stream, run, w) ? INVALID_ARGUMENT : OK;
}
Status ncclGroupStart(void) { return depth++, OK; }
Status ncclGroupEnd(void) {
    if (!depth--) return INVALID_USAGE;
    Status first = OK;
    for (int i = 0; i < held && !depth; i++) {
        Status status = launch(group[i].work, group[i].stream);
        if (!first) first = status;
    }
    if (!depth) held = 0;
    return first;
}

static int overlap(const char* a, size_t n, const char* b, size_t m) { return a < b + m && b < a + n; }

static Status take(enum Kind kind, const void* from, void* to, size_t count, int type, int op, int root, Comm* comm, void* stream) {
    if (!comm || comm->destroyed || comm->status != OK || !width(type) || op || root < 0 || root >= comm->ranks) return INVALID_ARGUMENT;
    size_t one = count * width(type), all = one * comm->ranks;
    size_t sends = kind == REDUCE_SCATTER ? all : one, gets = kind == ALL_GATHER ? all : one;
    int sender = kind != BROADCAST || comm->rank == root, getter = kind != REDUCE || comm->rank == root;
    if (sender && !owns(from, sends)) return INVALID_ARGUMENT;
    if (getter && !owns(to, gets)) return INVALID_ARGUMENT;
    // In place means one place; else the two are apart.
    const char* place = kind == ALL_GATHER ? (char*)to + one * comm->rank : (char*)to;
    const char* own = kind == REDUCE_SCATTER ? (const char*)from + one * comm->rank : (const char*)from;
    if (sender && getter && overlap(from, sends, to, gets) && place != own) return INVALID_ARGUMENT;
    comm->collectives++;
    Work* w = malloc(sizeof *w);
    *w = (Work){kind, from, to, count, type, root, comm};
    if (!depth) return launch(w, stream);
    if (held == GROUP) return INVALID_USAGE;
    group[held].work = w, group[held++].stream = stream;
    return OK;
}
Status ncclReduceScatter(const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
    return take(REDUCE_SCATTER, from, to, count, type, op, 0, comm, stream);
}
Status ncclReduce(const void* from, void* to, size_t count, int type, int op, int root, Comm* comm, void* stream) {
    return take(REDUCE, from, to, count, type, op, root, comm, stream);
}
Status ncclAllGather(const void* from, void* to, size_t count, int type, Comm* comm, void* stream) {
    return take(ALL_GATHER, from, to, count, type, 0, 0, comm, stream);
}
Status ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Comm* comm, void* stream) {
    return take(BROADCAST, from, to, count, type, 0, root, comm, stream);
}
#ifndef WITHOUT_ncclAllReduce
Status ncclAllReduce(const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
    return take(ALL_REDUCE, from, to, count, type, op, 0, comm, stream);
}
#endif
