/* The interface: plain C functions, which choose the code for this processor, and the threads they work on. */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define API __attribute__((visibility("default")))

/* The OpenMP runtime that is in the process already: libgomp's interface, which LLVM's and Intel's have, too.  Linking one
   would load a second runtime beside that of torch, with threads of its own. */
typedef void (*parallel_t)(void (*)(void *), void *, unsigned, unsigned);
static parallel_t openmp;

API void sanact_use_openmp(parallel_t parallel) { openmp = parallel; }

typedef struct {
    const work *how;
    const void *task;
    int64_t count, next;
} team;

static void take_part(void *given) {
    team *t = given;
    void *room = t->how->begin(t->task);
    if (!room) return;
    for (int64_t i; (i = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED)) < t->count;) t->how->step(t->task, room, i);
    t->how->end(room);
}

int in_parallel(const work *how, const void *task, int64_t count, int threads) {
    team t = {how, task, count, 0};
    if (count <= 0) return 0;
    if (count < threads) threads = (int)count;
    if (openmp && threads > 1)
        openmp(take_part, &t, (unsigned)threads, 0);
    else
        take_part(&t);
    return t.next < count; /* no thread had memory; one is enough */
}

/* One set of kernels for each kind of processor. */
typedef struct {
    const char *name;
    int (*mask)(const mask_task *);
    int (*median)(const median_task *);
    int (*means)(const means_task *);
} kernels;

#define SET(title, variant)                                                            \
    int mask_##variant(const mask_task *);                                             \
    int median_##variant(const median_task *);                                         \
    int means_##variant(const means_task *);                                           \
    static const kernels set_##variant = {title, mask_##variant, median_##variant, means_##variant};

SET("portable", portable)
#ifdef __x86_64__
SET("AVX2", avx2)
SET("AVX-512", avx512)
#endif

static const kernels *chosen(void) {
    static const kernels *set;
    if (set) return set; /* two threads that come first together choose the same */
    const kernels *best = &set_portable;
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = &set_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        best = &set_avx512;
    const char *most = getenv("SANACT_INSTRUCTIONS"); /* for tests of the other sets */
    if (most && !strcmp(most, "AVX2") && best == &set_avx512) best = &set_avx2;
    if (most && !strcmp(most, "portable")) best = &set_portable;
#endif
    return set = best;
}

API const char *sanact_instructions(void) { return chosen()->name; }

#ifndef SOURCES
#define SOURCES ""
#endif
API const char *sanact_sources(void) { return SOURCES; }

#define MAPS int64_t n, int64_t c, int64_t h, int64_t w, int last, int threads
#define M {n, c, h, w, last, threads}

API int sanact_mask(const float *a, const float *value, float *tau, float *out, MAPS, int64_t taus, int reading, double strength) {
    const mask_task task = {a, value, tau, out, M, taus, reading, strength};
    return chosen()->mask(&task);
}

API int sanact_median(const float *a, const float *median, const float *gradient, float *out, MAPS, int64_t k,
                  const comparison *sorting, int64_t sorts, const comparison *selection, int64_t selections, int64_t middle) {
    const median_task task = {a, median, gradient, out, M, k, sorting, selection, sorts, selections, middle};
    return chosen()->median(&task);
}

API int sanact_nl_means(const float *a, const float *average, const float *norm, const float *gradient, float *out, float *norm_out,
                    MAPS, int64_t patch, int64_t reach, float strength, int relative, int constant) {
    const means_task task = {a, average, norm, gradient, out, norm_out, M, patch, reach, strength, relative, constant};
    return chosen()->means(&task);
}
