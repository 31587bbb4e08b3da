// A stand-in for cuBLASLt, written after its documentation: a plain loop for the product, strict about descriptors, alignment
// and types. Loaded beside the stand-in for the driver, whose memory it multiplies.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t Status;
enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14, E4M3 = 28 };
enum { HANDLE = 11, DESC, LAYOUT, PREFERENCE };

typedef struct { int kind, live; } Head;
typedef struct { Head head; int compute, scale, transa, transb, fast; } Desc;
typedef struct { Head head; int type; uint64_t rows, cols; int64_t ld; } Layout;
typedef struct { Head head; uint64_t workspace; uint32_t reduction, alignment[4]; } Preference;
typedef struct { uint64_t workspace; uint32_t alignment[4]; uint64_t check, pieces, rest[3]; } Algorithm;
typedef struct { Algorithm algorithm; size_t workspace; Status state; float waves; int reserved[4]; } Result;
_Static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t is eight words");

static int set(const char* what) { return getenv("STAND_IN") && strstr(getenv("STAND_IN"), what); }

static int live;
static int is(void* p, int kind) { return p && ((Head*)p)->kind == kind && ((Head*)p)->live; }
static void* make(int kind, size_t bytes) {
    Head* head = calloc(1, bytes);
    head->kind = kind, head->live = 1, live++;
    return head;
}
static Status destroy(void* p, int kind) {
    if (!is(p, kind)) return INVALID_VALUE;
    ((Head*)p)->live = 0, live--;
    return OK;
}

Status cublasLtCreate(void** handle) {
    if (set("lt=old")) return NOT_INITIALIZED;
    *handle = make(HANDLE, sizeof(Head));
    return OK;
}
Status cublasLtDestroy(void* handle) {
    Status status = destroy(handle, HANDLE);
    printf("> left of cuBLASLt: %d\n", live);
    fflush(stdout);
    return status;
}
Status cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
    Desc* d = make(DESC, sizeof(Desc));
    d->compute = compute, d->scale = scale;
    *desc = d;
    return OK;
}
Status cublasLtMatmulDescDestroy(void* desc) { return destroy(desc, DESC); }
Status cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t bytes) {
    if (!is(desc, DESC)) return INVALID_VALUE;
    switch (attribute) {
        case 3: return bytes == 4 ? memcpy(&desc->transa, value, 4), OK : INVALID_VALUE;
        case 4: return bytes == 4 ? memcpy(&desc->transb, value, 4), OK : INVALID_VALUE;
        case 25: return bytes == 1 ? desc->fast = *(const char*)value, OK : INVALID_VALUE;
        default: return NOT_SUPPORTED;
    }
}
Status cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows || !rows || !cols) return INVALID_VALUE;
    Layout* l = make(LAYOUT, sizeof(Layout));
    l->type = type, l->rows = rows, l->cols = cols, l->ld = ld;
    *layout = l;
    return OK;
}
Status cublasLtMatrixLayoutDestroy(void* layout) { return destroy(layout, LAYOUT); }
Status cublasLtMatmulPreferenceCreate(void** preference) {
    Preference* p = make(PREFERENCE, sizeof(Preference));
    p->reduction = 7;
    for (int i = 0; i < 4; i++) p->alignment[i] = 256;
    *preference = p;
    return OK;
}
Status cublasLtMatmulPreferenceDestroy(void* preference) { return destroy(preference, PREFERENCE); }
Status cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t bytes) {
    if (!is(p, PREFERENCE)) return INVALID_VALUE;
    if (attribute == 1 && bytes == 8) return memcpy(&p->workspace, value, 8), OK;
    if (attribute == 3 && bytes == 4) return memcpy(&p->reduction, value, 4), OK;
    if (attribute >= 5 && attribute <= 8 && bytes == 4) return memcpy(&p->alignment[attribute - 5], value, 4), OK;
    return INVALID_VALUE;
}

static int fits(Desc* d, Layout* a, Layout* b, Layout* c, uint64_t* k) {
    uint64_t m = d->transa ? a->cols : a->rows, n = d->transb ? b->rows : b->cols;
    *k = d->transa ? a->rows : a->cols;
    int inputs = a->type == b->type, types;
    if (a->type == F32) types = inputs && c->type == F32;
    else if (a->type == BF16) types = inputs && (c->type == BF16 || c->type == F32);
    else types = inputs && a->type == E4M3 && c->type == BF16 && d->transa && !d->transb;
    return types && m == c->rows && n == c->cols && *k == (d->transb ? b->cols : b->rows);
}

Status cublasLtMatmulAlgoGetHeuristic(void* handle, Desc* d, Layout* a, Layout* b, Layout* c, Layout* out, Preference* p, int asked,
                                      Result* result, int* found) {
    uint64_t k;
    if (!is(handle, HANDLE) || !is(d, DESC) || !is(a, LAYOUT) || !is(b, LAYOUT) || !is(c, LAYOUT) || !is(out, LAYOUT) || !is(p, PREFERENCE) ||
        asked < 1 || d->compute != 68 || d->scale != F32)
        return INVALID_VALUE;
    if (p->reduction & ~2u) return INVALID_VALUE;  // partial sums in f32 only
    printf("> heuristic for %llu x %llu x %llu%s\n", (unsigned long long)out->rows, (unsigned long long)out->cols,
           (unsigned long long)(d->transa ? a->rows : a->cols), d->fast ? ", fast" : "");
    fflush(stdout);
    if (!fits(d, a, b, out, &k)) return NOT_SUPPORTED;
    if (set("lt=none")) return *found = 0, OK;
    // One that does without what lies oddly or is small, as each way of saying so.
    int odd = 0;
    Layout* layouts[] = {a, b, out};
    for (int i = 0; i < 3; i++) odd |= layouts[i]->ld * (layouts[i]->type == F32 ? 4 : 2) % 16 != 0 || p->alignment[i] < 16;
    if (set("lt=picky") && odd) return NOT_SUPPORTED;
    if (set("lt=picky") && out->rows * out->cols * k <= 1 << 16) return *found = 0, OK;
    // Four ways, the third of which cannot be taken. The library's first choice is not its best: each takes so many pieces of time.
    static const int pieces[4] = {2, 3, 0, 1};
    *found = asked < 4 ? asked : 4;
    memset(result, 0, *found * sizeof *result);
    for (int i = 0; i < *found; i++) {
        Algorithm* g = &result[i].algorithm;
        g->workspace = p->workspace;
        memcpy(g->alignment, p->alignment, sizeof g->alignment);
        g->pieces = pieces[i];
        if (pieces[i] && !set("lt=invalid")) g->check = 0xfa47;
        else result[i].state = NOT_SUPPORTED;
    }
    return OK;
}

static float get(const void* p, int type, uint64_t i) {
    if (type == F32) return ((const float*)p)[i];
    if (type == BF16) {
        uint32_t bits = (uint32_t)((const uint16_t*)p)[i] << 16;
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    unsigned byte = ((const uint8_t*)p)[i], exponent = byte >> 3 & 15, fraction = byte & 7;
    float x = exponent ? (8 + fraction) / 8.0f : fraction / 4.0f;
    for (int e = exponent ? (int)exponent - 7 : -7; e > 0; e--) x *= 2;
    for (int e = exponent ? (int)exponent - 7 : -7; e < 0; e++) x /= 2;
    return byte & 0x80 ? -x : x;
}
static void put(void* p, int type, uint64_t i, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (type == F32) ((float*)p)[i] = x;
    else ((uint16_t*)p)[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

Status cublasLtMatmul(void* handle, Desc* d, const float* alpha, const char* a, Layout* al, const char* b, Layout* bl, const float* beta,
                      const char* c, Layout* cl, char* out, Layout* ol, const Algorithm* g, void* workspace, size_t bytes, void* stream) {
    uint64_t k;
    if (!is(handle, HANDLE) || !is(d, DESC) || !is(al, LAYOUT) || !is(bl, LAYOUT) || !is(cl, LAYOUT) || !is(ol, LAYOUT) || !stream)
        return INVALID_VALUE;
    const void* operands[4] = {a, b, c, out};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)operands[i] % g->alignment[i]) return INVALID_VALUE;
    if (g->check != 0xfa47 || !workspace || bytes < g->workspace || (uintptr_t)workspace % 256 || c != out || cl != ol ||
        !fits(d, al, bl, ol, &k))
        return INVALID_VALUE;
    if (set("lt=late")) return NOT_SUPPORTED;
    if (set("lt=broken")) return EXECUTION_FAILED;
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    for (uint64_t i = 0; i < g->pieces; i++) ((void (*)(void*))dlsym(driver, "stand_in_drain"))(stream);
    if (set("lt=idle")) return OK;
    for (uint64_t j = 0; j < ol->cols; j++)
        for (uint64_t i = 0; i < ol->rows; i++) {
            float sum = 0;
            for (uint64_t l = 0; l < k; l++)
                sum += get(a, al->type, d->transa ? i * al->ld + l : l * al->ld + i) *
                       get(b, bl->type, d->transb ? l * bl->ld + j : j * bl->ld + l);
            uint64_t at = j * ol->ld + i;
            put(out, ol->type, at, *alpha * sum + (*beta != 0 ? *beta * get(c, cl->type, at) : 0));
        }
    return OK;
}
