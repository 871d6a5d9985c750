/* All kernels for one kind of processor: compiled once for each, with VARIANT for the name. */
#include <math.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(function) JOIN(function, VARIANT)

#include "blocks.h"
#include "mask.h"
#include "median.h"
#include "nl_means.h"

static const work NAME(median_work)[2] = {
    {NAME(median_begin), NAME(median_forward), NAME(median_end)},
    {NAME(median_begin), NAME(median_backward), NAME(median_end)},
};

int NAME(median)(const median_task *task) {
    return in_parallel(&NAME(median_work)[task->gradient != 0], task, block_count(&task->m), task->m.threads);
}

static const work NAME(means_work)[2] = {
    {NAME(means_begin), NAME(means_forward), NAME(means_end)},
    {NAME(means_begin), NAME(means_backward), NAME(means_end)},
};

int NAME(means)(const means_task *task) {
    return in_parallel(&NAME(means_work)[task->gradient != 0], task, block_count(&task->m), task->m.threads);
}

static const work NAME(mask_work) = {NAME(mask_begin), NAME(mask_step), NAME(mask_end)};

int NAME(mask)(const mask_task *task) {
    return in_parallel(&NAME(mask_work), task, task->m.last ? task->m.n : block_count(&task->m), task->m.threads);
}
