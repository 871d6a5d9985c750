/* Maps side by side: a block holds LANES of them, the same element of all in one vector.

   So every map is computed alike, whatever its size and its memory format: no vector reaches over the end of a row, and what
   comes out for a map does not depend on the maps beside it. */
#ifndef SANACT_BLOCKS_H
#define SANACT_BLOCKS_H

#include <stdlib.h>

#include "kernels.h"
#include "vectors.h"

typedef struct {
    int64_t first[LANES]; /* where each map begins; the last one again where there are fewer than LANES */
    int count;            /* maps in the block */
    int64_t step;         /* from one element of a map to the next */
    int adjacent;         /* whether the maps lie beside each other, element by element */
} block;

INLINE int64_t block_count(const maps_t *m) {
    return m->last ? m->n * ((m->c + LANES - 1) / LANES) : (m->n * m->c + LANES - 1) / LANES;
}

INLINE block block_at(const maps_t *m, int64_t index) {
    block b;
    int64_t size = m->h * m->w, start, left, per = 1;
    if (m->last) {
        int64_t groups = (m->c + LANES - 1) / LANES, channel = index % groups * LANES;
        start = index / groups * size * m->c + channel;
        left = m->c - channel;
        b.step = m->c;
    } else {
        start = index * LANES * size;
        left = m->n * m->c - index * LANES;
        per = size;
        b.step = 1;
    }
    b.count = left < LANES ? (int)left : LANES;
    b.adjacent = m->last && b.count == LANES;
    for (int l = 0; l < LANES; l++) b.first[l] = start + per * (l < b.count ? l : b.count - 1);
    return b;
}

INLINE void transpose(vec r[LANES]) {
#if LANES == 16
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + j]), _mm512_castps_pd(t[i + 2 + j])));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + j]), _mm512_castps_pd(t[i + 2 + j])));
        }
    for (int j = 0; j < 4; j++) { /* r[4 g + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4 g ... 4 g + 3 */
        __m512 a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
        __m512 c = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88), d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
#elif LANES == 8
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0x44);
            u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0xee);
        }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
    }
#else
    vec t[LANES];
    for (int i = 0; i < LANES; i++) t[i] = (vec){r[0][i], r[1][i], r[2][i], r[3][i]};
    for (int i = 0; i < LANES; i++) r[i] = t[i];
#endif
}

/* The same element of all maps of a block; `at` counts elements of a map. */
INLINE vec gathered(const float *a, const block *b, int64_t at) {
    if (b->adjacent) return vload(a + b->first[0] + at * b->step);
    float lane[LANES];
    for (int l = 0; l < LANES; l++) lane[l] = a[b->first[l] + at * b->step];
    return vload(lane);
}

INLINE void scattered(float *a, const block *b, int64_t at, vec value) {
    if (b->adjacent) {
        vstore(a + b->first[0] + at * b->step, value);
        return;
    }
    float lane[LANES];
    vstore(lane, value);
    for (int l = 0; l < b->count; l++) a[b->first[l] + at * b->step] = lane[l];
}

/* All elements of a block, rows of w with `gap` vectors between the end of one and the beginning of the next. */
INLINE void load_block(const float *a, const block *b, int64_t h, int64_t w, int64_t gap, vec *to) {
    int64_t size = h * w, at = 0, x = 0;
    if (b->step == 1)
        for (; at + LANES <= size; at += LANES) {
            vec r[LANES];
            for (int l = 0; l < LANES; l++) r[l] = vload(a + b->first[l] + at);
            transpose(r);
            if (x + LANES <= w) {
                for (int k = 0; k < LANES; k++) to[k] = r[k];
                to += LANES;
                x += LANES;
                if (x == w) x = 0, to += gap;
                continue;
            }
            for (int k = 0; k < LANES; k++) {
                *to++ = r[k];
                if (++x == w) x = 0, to += gap;
            }
        }
    for (; at < size; at++) {
        *to++ = gathered(a, b, at);
        if (++x == w) x = 0, to += gap;
    }
}

/* Writes the elements of a block in the order in which they come. */
typedef struct {
    vec tile[LANES];
    float *a;
    const block *b;
    int64_t at; /* elements that are written */
    int held;
} writer;

INLINE void put(writer *out, vec value) {
    if (out->b->adjacent) {
        vstore(out->a + out->b->first[0] + out->at++ * out->b->step, value);
        return;
    }
    out->tile[out->held++] = value;
    if (out->held < LANES) return;
    out->held = 0;
    if (out->b->step == 1) {
        transpose(out->tile);
        for (int l = 0; l < out->b->count; l++) vstore(out->a + out->b->first[l] + out->at, out->tile[l]);
    } else
        for (int k = 0; k < LANES; k++) scattered(out->a, out->b, out->at + k, out->tile[k]);
    out->at += LANES;
}

INLINE void finish(writer *out) {
    for (int k = 0; k < out->held; k++) scattered(out->a, out->b, out->at + k, out->tile[k]);
}

/* The elements of a block from rows as in `load_block`. */
INLINE void store_block(float *a, const block *b, int64_t h, int64_t w, int64_t gap, const vec *from) {
    writer out = {.a = a, .b = b};
    for (int64_t y = 0; y < h; y++, from += gap)
        for (int64_t x = 0; x < w; x++) put(&out, *from++);
    finish(&out);
}

/* The place that index i, outside 0 ... n - 1, is mirrored to, as often as needed. */
INLINE int64_t reflected(int64_t i, int64_t n) {
    if (n == 1) return 0;
    int64_t period = 2 * (n - 1);
    i = (i % period + period) % period;
    return i < n ? i : period - i;
}

/* Fill the margin of a map of h x w vectors, which lies at `inner` in rows of `stride`, by mirroring. */
INLINE void mirror(vec *inner, int64_t h, int64_t w, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 1; x <= columns; x++) {
            inner[y * stride - x] = inner[y * stride + reflected(-x, w)];
            inner[y * stride + w - 1 + x] = inner[y * stride + reflected(w - 1 + x, w)];
        }
    for (int64_t y = 1; y <= rows; y++) {
        memcpy(inner - y * stride - columns, inner + reflected(-y, h) * stride - columns, (w + 2 * columns) * sizeof(vec));
        memcpy(inner + (h - 1 + y) * stride - columns, inner + reflected(h - 1 + y, h) * stride - columns,
               (w + 2 * columns) * sizeof(vec));
    }
}

/* The reverse of `mirror` for gradients: what has gathered in the margin is added where it was read from. */
INLINE void unmirror(vec *inner, int64_t h, int64_t w, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t y = -rows; y < h + rows; y++) {
        if (y >= 0 && y < h) continue;
        vec *to = inner + reflected(y, h) * stride, *from = inner + y * stride;
        for (int64_t x = -columns; x < w + columns; x++) to[x] = vadd(to[x], from[x]);
    }
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = -columns; x < w + columns; x++) {
            vec *row = inner + y * stride;
            if (x < 0 || x >= w) row[reflected(x, w)] = vadd(row[reflected(x, w)], row[x]);
        }
}

/* Memory for vectors; give it to free(). */
INLINE void *room(int64_t vectors) { return aligned_alloc(64, ((size_t)vectors * sizeof(vec) + 63) / 64 * 64); }

#endif
