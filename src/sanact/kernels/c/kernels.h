/* What the compiled kernels and their callers share. */
#ifndef SANACT_KERNELS_H
#define SANACT_KERNELS_H

#include <stdint.h>

/* Maps (N, C, H, W) of float32, dense: each contiguous, or with the channels innermost (`last`). */
typedef struct {
    int64_t n, c, h, w;
    int32_t last, threads;
} maps_t;

/* A comparison of two wires i < j, and whether the smaller, the larger is needed afterwards. */
typedef struct {
    int16_t i, j, smaller, larger;
} comparison;

typedef struct {
    const float *a, *median, *gradient; /* the last two of the backward pass only */
    float *out;
    maps_t m;
    int64_t k;
    const comparison *sorting, *selection; /* of a column, and of the median from sorted columns */
    int64_t sorts, selections, middle;
} median_task;

typedef struct {
    const float *a, *average, *norm, *gradient; /* all but the first of the backward pass only */
    float *out, *norm_out;                      /* the second of a forward pass that a backward pass follows */
    maps_t m;
    int64_t patch, reach;
    float h;
    int32_t relative, constant; /* h is in units of the deviation of a map; the weights pass no gradient */
} means_task;

enum { MASK_GIVEN, MASK_MAX, MASK_QUANTILE, MASK_MEAN_STD };

typedef struct {
    const float *a, *value; /* what is measured, and what is passed on: the same tensor, or the gradient */
    float *tau, *out;       /* τ of each map, (N, C): given, and then repeated after `taus` of them, or written */
    maps_t m;
    int64_t taus;
    int32_t reading;
    double strength; /* of a quantile: its rank among the elements of a map, from 1 */
} mask_task;

/* What a thread does: `begin` gives it room, `step` is called with each index once, in whatever order, by one of the threads. */
typedef struct {
    void *(*begin)(const void *task);
    void (*step)(const void *task, void *room, int64_t index);
    void (*end)(void *room);
} work;

/* Take all steps 0 ... count - 1.  Nonzero: there was no memory. */
int in_parallel(const work *how, const void *task, int64_t count, int threads);

#endif
