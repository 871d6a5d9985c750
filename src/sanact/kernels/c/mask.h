/* Zero the elements of small magnitude: the threshold of each map, and what it leaves of the map, or of a gradient. */
#include "blocks.h"

typedef struct {
    float *map;    /* channels of a channels-last tensor, made contiguous; LANES of them */
    int32_t *left; /* among which a quantile is sought */
    vec *sums;     /* of all channels, and their thresholds */
    float *tau;
} mask_room;

INLINE int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES; }

static void *NAME(mask_begin)(const void *given) {
    const mask_task *task = given;
    const int64_t size = whole_vectors(task->m.h * task->m.w), groups = whole_vectors(task->m.c);
    mask_room *r = malloc(sizeof *r);
    if (!r) return 0;
    r->map = room((LANES + 1) * size + 2 * groups);
    r->left = (int32_t *)(r->map + LANES * size * LANES);
    r->sums = (vec *)(r->left + size * LANES);
    r->tau = (float *)(r->sums + groups);
    if (r->map) return r;
    free(r);
    return 0;
}

static void NAME(mask_end)(void *given) {
    free(((mask_room *)given)->map);
    free(given);
}

/* max |a|, and NaN where there is one: as whole numbers, the bits of magnitudes have the order of the magnitudes. */
INLINE float largest(const float *a, int64_t size) {
    uint32_t most = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t bits;
        memcpy(&bits, a + i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    float value;
    memcpy(&value, &most, sizeof value);
    return value;
}

/* The sum of |a| - mean, or of its squares: in lanes, and of these in double precision. */
INLINE double total(const float *a, int64_t size, float mean, int square) {
    vec sums[2] = {vall(0), vall(0)};
    for (int64_t i = 0, k = 0; i < size; i += LANES, k ^= 1) {
        float rest[LANES];
        const float *from = a + i;
        if (i + LANES > size) {
            for (int l = 0; l < LANES; l++) rest[l] = i + l < size ? a[i + l] : mean; /* counts for nothing */
            from = rest;
        }
        vec v = vsub(vabs(vload(from)), vall(mean));
        sums[k] = square ? vfma(v, v, sums[k]) : vadd(v, sums[k]);
    }
    float lanes[LANES];
    vstore(lanes, vadd(sums[0], sums[1]));
    double sum = 0;
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

/* How many of some numbers are below a pivot, and how many equal it. */
INLINE void compare(const int32_t *v, int32_t count, int32_t pivot, int32_t *below, int32_t *equal) {
    int32_t i = 0, less = 0, same = 0;
#if LANES == 16
    const __m512i pivots = _mm512_set1_epi32(pivot);
    for (; i + 16 <= count; i += 16) {
        __m512i some = _mm512_loadu_si512(v + i);
        less += __builtin_popcount(_mm512_cmplt_epi32_mask(some, pivots));
        same += __builtin_popcount(_mm512_cmpeq_epi32_mask(some, pivots));
    }
#endif
    for (; i < count; i++) less += v[i] < pivot, same += v[i] == pivot;
    *below = less, *equal = same;
}

/* Move those below the pivot, or above it, to the front; how many they are. */
INLINE int32_t keep(int32_t *v, int32_t count, int32_t pivot, int above) {
    int32_t kept = 0, i = 0;
#if LANES == 16
    const __m512i pivots = _mm512_set1_epi32(pivot);
    for (; i + 16 <= count; i += 16) {
        __m512i some = _mm512_loadu_si512(v + i);
        __mmask16 these = above ? _mm512_cmpgt_epi32_mask(some, pivots) : _mm512_cmplt_epi32_mask(some, pivots);
        _mm512_storeu_si512(v + kept, _mm512_maskz_compress_epi32(these, some));
        kept += __builtin_popcount(these);
    }
#endif
    for (; i < count; i++) {
        int32_t one = v[i];
        v[kept] = one;
        kept += above ? one > pivot : one < pivot;
    }
    return kept;
}

/* The rank-th smallest, rank ≥ 1, of few numbers: each is compared with all. */
INLINE int32_t rank_of_few(const int32_t *v, int32_t count, int32_t rank) {
    int32_t found = v[0];
    for (int32_t i = 0; i < count; i++) {
        int32_t below, equal;
        compare(v, count, v[i], &below, &equal);
        if (below < rank && rank <= below + equal) found = v[i];
    }
    return found;
}

#define FEW 16

/* The rank-th smallest of many: they are divided, again and again, at the one that lies about as far up in a sample, and it is
   sought on its side. */
INLINE int32_t rank_of_many(int32_t *v, int32_t count, int32_t rank) {
    while (count > FEW) {
        int32_t sample[FEW], below, equal;
        for (int32_t i = 0; i < FEW; i++) sample[i] = v[(int64_t)i * count / FEW];
        int32_t pivot = rank_of_few(sample, FEW, (int32_t)((int64_t)(rank - 1) * FEW / count) + 1);
        compare(v, count, pivot, &below, &equal);
        if (rank <= below)
            count = keep(v, count, pivot, 0);
        else if (rank <= below + equal)
            return pivot;
        else {
            rank -= below + equal;
            count = keep(v, count, pivot, 1);
        }
    }
    return rank_of_few(v, count, rank);
}

/* Of as many elements as an int32 counts: no map is larger. */
INLINE float quantile(const float *a, int64_t size, int64_t rank, int32_t *left) {
    for (int64_t i = 0; i < size; i++) {
        int32_t bits;
        memcpy(&bits, a + i, sizeof bits);
        left[i] = bits & INT32_MAX;
    }
    int32_t bits = rank_of_many(left, (int32_t)size, (int32_t)rank);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE float threshold(const mask_task *task, const float *a, int64_t size, int32_t *left) {
    if (task->reading == MASK_MAX) return (float)task->strength * largest(a, size);
    if (task->reading == MASK_QUANTILE) return quantile(a, size, (int64_t)task->strength, left);
    double mean = total(a, size, 0, 0) / (double)size;
    return (float)(mean + task->strength * sqrt(total(a, size, (float)mean, 1) / (double)size));
}

/* 0 times a value where |a| < τ, else the value. */
INLINE vec passed(vec a, vec value, vec tau) {
    return vtimes0_where(mand(vless(a, tau), vless(vsub(vall(0), tau), a)), value);
}

INLINE void pass(const float *a, const float *value, float *out, int64_t size, float tau) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) vstore(out + i, passed(vload(a + i), vload(value + i), vall(tau)));
    for (; i < size; i++) out[i] = fabsf(a[i]) < tau ? value[i] * 0 : value[i];
}

/* A channels-last example is worked on by PIXELS places and LANES channels, so that it comes from memory in its order. */
#define PIXELS 64

/* Where the channels of a group begin: the last group reaches back, so that it is whole. */
INLINE int64_t group_at(int64_t g, int64_t c) { return (g + 1) * LANES <= c || c < LANES ? g * LANES : c - LANES; }

INLINE vec load_some(const float *a, int64_t count) {
    if (count >= LANES) return vload(a);
    float some[LANES] = {0};
    for (int64_t l = 0; l < count; l++) some[l] = a[l];
    return vload(some);
}

INLINE void store_some(float *a, int64_t count, vec value) {
    if (count >= LANES) {
        vstore(a, value);
        return;
    }
    float some[LANES];
    vstore(some, value);
    for (int64_t l = 0; l < count; l++) a[l] = some[l];
}

enum { LARGEST, SUM, SQUARES };

/* Over the places of an example, for each channel: the largest |a|; the sum of |a|; or of (|a| - means[g])². */
INLINE void reduce(const float *a, int64_t size, int64_t c, int what, const vec *means, vec *to) {
    const int64_t groups = whole_vectors(c);
    for (int64_t g = 0; g < groups; g++) to[g] = vall(0);
    for (int64_t from = 0; from < size; from += PIXELS) {
        const int64_t end = from + PIXELS < size ? from + PIXELS : size;
        for (int64_t g = 0; g < groups; g++) {
            const float *at = a + group_at(g, c);
            vec found[4] = {vall(0), vall(0), vall(0), vall(0)};
            for (int64_t i = from; i < end; i++) {
                vec v = vabs(load_some(at + i * c, c)), *sum = &found[i % 4];
                if (what == LARGEST)
                    *sum = vmax_bits(*sum, v);
                else if (what == SUM)
                    *sum = vadd(*sum, v);
                else
                    v = vsub(v, means[g]), *sum = vfma(v, v, *sum);
            }
            if (what == LARGEST)
                to[g] = vmax_bits(to[g], vmax_bits(vmax_bits(found[0], found[1]), vmax_bits(found[2], found[3])));
            else
                to[g] = vadd(to[g], vadd(vadd(found[0], found[1]), vadd(found[2], found[3])));
        }
    }
}

/* τ of all channels of an example, each in its place among the groups. */
INLINE void thresholds(const mask_task *task, const mask_room *r, const float *a) {
    const int64_t c = task->m.c, size = task->m.h * task->m.w, groups = whole_vectors(c);
    vec *tau = (vec *)r->tau;
    const vec count = vall((float)size), strength = vall((float)task->strength);
    if (task->reading == MASK_MAX) {
        reduce(a, size, c, LARGEST, 0, tau);
        for (int64_t g = 0; g < groups; g++) tau[g] = vmul(strength, tau[g]);
    } else if (task->reading == MASK_MEAN_STD) {
        reduce(a, size, c, SUM, 0, tau);
        for (int64_t g = 0; g < groups; g++) tau[g] = vdiv(tau[g], count);
        reduce(a, size, c, SQUARES, tau, r->sums);
        for (int64_t g = 0; g < groups; g++) tau[g] = vfma(strength, vsqrt(vdiv(r->sums[g], count)), tau[g]);
    } else
        for (int64_t g = 0; g < groups; g++) {
            const float *at = a + group_at(g, c);
            const int64_t wide = whole_vectors(size) * LANES;
            for (int64_t i = 0; i < size; i += LANES) {
                vec tile[LANES];
                for (int k = 0; k < LANES; k++) tile[k] = load_some(at + (i + k < size ? i + k : size - 1) * c, c);
                transpose(tile);
                for (int l = 0; l < LANES; l++) vstore(r->map + l * wide + i, tile[l]);
            }
            for (int l = 0; l < LANES && l < c; l++)
                r->tau[g * LANES + l] = threshold(task, r->map + l * wide, size, r->left);
        }
}

static void NAME(mask_last)(const mask_task *task, const mask_room *r, int64_t example) {
    const int64_t c = task->m.c, size = task->m.h * task->m.w, groups = whole_vectors(c), at = example * size * c;
    float *tau = task->tau + (task->reading == MASK_GIVEN && task->taus == c ? 0 : example * c);
    if (task->reading != MASK_GIVEN) thresholds(task, r, task->a + at);
    for (int64_t g = 0; g < groups; g++) {
        const int64_t channel = group_at(g, c);
        if (task->reading == MASK_GIVEN)
            ((vec *)r->tau)[g] = load_some(tau + channel, c);
        else
            store_some(tau + channel, c, ((vec *)r->tau)[g]);
    }
    for (int64_t i = 0; i < size; i++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t here = at + i * c + group_at(g, c);
            const vec value = load_some(task->value + here, c);
            store_some(task->out + here, c, passed(load_some(task->a + here, c), value, ((vec *)r->tau)[g]));
        }
}

static void NAME(mask_step)(const void *given, void *space, int64_t index) {
    const mask_task *task = given;
    const mask_room *r = space;
    const maps_t *m = &task->m;
    if (m->last) {
        NAME(mask_last)(task, r, index); /* an example */
        return;
    }
    const int64_t size = m->h * m->w, all = m->n * m->c; /* LANES maps */
    for (int64_t map = index * LANES; map < all && map < (index + 1) * LANES; map++) {
        const float *a = task->a + map * size;
        if (task->reading != MASK_GIVEN) task->tau[map] = threshold(task, a, size, r->left);
        pass(a, task->value + map * size, task->out + map * size, size, task->tau[map % task->taus]);
    }
}
