/* Non-local means, and its gradient.

   A block is shifted and scaled first: a' = (a - m) s with the mean m of each map and s such that the weights are 2^-S, S the
   sum of the squared differences of a' over a patch.  m takes from a' what its differences would lose to rounding; results are
   m + a' / s.  All loops over pairs of places take one offset of two that are opposite, since w(i, j) = w(j, i). */
#include "blocks.h"

#define LN2 0.693147181f
#define TINIEST 1.17549435e-38f

/* Vectors in rows of `stride`, all alike: an element of the map has the same index everywhere, counted from `inner`; the rows
   of the padded map begin `left` places before. */
typedef struct {
    int64_t h, w, rows, columns, reach; /* of the map, the patch and the search */
    int64_t stride, size, inner;
    vec *padded, *total, *norm;         /* norm: Σ w.  In the backward pass: total holds what comes out */
    vec *share, *loss, *exponents, *ring; /* of the backward pass only */
} means_room;

typedef struct {
    vec mean, unit, clamped; /* s, and 1 where the scale depends on the map, else 0 */
} means_scale;

static void *NAME(means_begin)(const void *given) {
    const means_task *task = given;
    const maps_t *m = &task->m;
    means_room *r = malloc(sizeof *r);
    if (!r) return 0;
    *r = (means_room){.h = m->h, .w = m->w, .reach = task->reach};
    r->rows = m->h > 1 ? task->patch : 1, r->columns = m->w > 1 ? task->patch : 1;
    r->stride = m->w + r->columns - 1;
    r->size = r->stride * (m->h + r->rows - 1);
    r->inner = r->rows / 2 * r->stride + r->columns / 2;
    int64_t row = r->stride + 2 * r->columns;
    r->padded = room(task->gradient ? 5 * r->size + (r->rows + 1) * row : 3 * r->size + 2 * row);
    r->total = r->padded + r->size, r->norm = r->total + r->size;
    r->share = r->norm, r->loss = r->share + r->size;
    r->exponents = task->gradient ? r->loss + r->size : r->norm + r->size;
    r->ring = r->exponents + row;
    if (r->padded) return r;
    free(r);
    return 0;
}

static void NAME(means_end)(void *given) {
    free(((means_room *)given)->padded);
    free(given);
}

/* Load a block, shift and scale it, and mirror it at its borders. */
INLINE means_scale prepare(const means_task *task, const block *b, const means_room *r) {
    vec *inner = r->padded + r->inner, sum = vall(0), squares = vall(0);
    const int64_t h = r->h, w = r->w;
    load_block(task->a, b, h, w, r->stride - w, inner);
    const vec count = vall((float)(h * w));
    for (int64_t y = 0; y < h; y++) { /* row by row, so that the error of the sum stays small */
        vec part = vall(0);
        for (int64_t x = 0; x < w; x++) part = vadd(part, inner[y * r->stride + x]);
        sum = vadd(sum, part);
    }
    means_scale s = {.mean = vdiv(sum, count), .clamped = vall(0)};
    vec variance = vall(1);
    if (task->relative) {
        for (int64_t y = 0; y < h; y++) {
            vec part = vall(0);
            for (int64_t x = 0; x < w; x++) {
                vec off = vsub(inner[y * r->stride + x], s.mean);
                part = vfma(off, off, part);
            }
            squares = vadd(squares, part);
        }
        variance = vdiv(squares, count);
    } else /* a map that is not finite everywhere is not shifted: it is spoilt only around the places that are not */
        s.mean = vselect(veq(vsub(s.mean, s.mean), vall(0)), s.mean, vall(0));
    vec spread = vmul(vall((float)(r->rows * r->columns) * task->h * task->h), variance);
    s.clamped = vselect(vless(spread, vall(TINIEST)), vall(0), vall(1));
    vec scale = vdiv(vall(1 / LN2), vmax(vall(TINIEST), spread));
    s.unit = vmax(vall(TINIEST), vsqrt(scale));
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            vec *at = &inner[y * r->stride + x];
            *at = vmul(vsub(*at, s.mean), s.unit);
        }
    mirror(inner, h, w, r->stride, r->rows / 2, r->columns / 2);
    return s;
}

/* An offset: where it leads to, and the columns i for which j = i + offset lies in the map, too. */
typedef struct {
    int64_t dy, dx, left, right, jump;
} offset;

INLINE offset offset_at(const means_room *r, int64_t dy, int64_t dx) {
    return (offset){dy, dx, dx < 0 ? -dx : 0, dx > 0 ? r->w - dx : r->w, dy * r->stride + dx};
}

#define FOR_OFFSETS(r, dy, dx)                                                                    \
    for (int64_t far_y = (r)->reach < (r)->h ? (r)->reach : (r)->h - 1,                           \
                 far_x = (r)->reach < (r)->w ? (r)->reach : (r)->w - 1, dy = 0; dy <= far_y; dy++) \
        for (int64_t dx = dy ? -far_x : 1; dx <= far_x; dx++)

/* - Σ of the squared differences down a column of the patch. */
INLINE vec down(const vec *at, int64_t jump, int64_t stride, int rows) {
    vec sum = vall(0);
    for (int i = 0; i < rows; i++) {
        vec d = vsub(at[i * stride], at[i * stride + jump]);
        sum = i ? vfnma(d, d, sum) : vnegsquare(d);
    }
    return sum;
}

/* The same of two patches, one row apart. */
INLINE void down_two(const vec *at, int64_t jump, int64_t stride, int rows, vec *upper, vec *lower) {
    vec first = vsub(at[0], at[jump]), last = vsub(at[rows * stride], at[rows * stride + jump]);
    if (rows == 1) {
        *upper = vnegsquare(first), *lower = vnegsquare(last);
        return;
    }
    vec shared = down(at + stride, jump, stride, rows - 1);
    *upper = vfnma(first, first, shared), *lower = vfnma(last, last, shared);
}

INLINE void give(vec *total, vec *norm, const vec *a, int64_t i, int64_t jump, vec weight) {
    total[i] = vfma(weight, a[i + jump], total[i]);
    norm[i] = vadd(norm[i], weight);
    total[i + jump] = vfma(weight, a[i], total[i + jump]);
    norm[i + jump] = vadd(norm[i + jump], weight);
}

/* All pairs of one offset with i in a row, or in two. */
INLINE void average_rows(const means_room *r, int64_t y, offset o, int two, int rows, int columns) {
    const vec *patch = r->padded + y * r->stride;
    const vec *a = r->padded + r->inner + y * r->stride;
    vec *total = r->total + y * r->stride, *norm = r->norm + y * r->stride;
    if (columns <= 5) { /* the window of sums slides along the row in registers */
        vec upper[5], lower[5];
        for (int j = 0; j < columns - 1; j++)
            if (two)
                down_two(patch + o.left + j, o.jump, r->stride, rows, &upper[j], &lower[j]);
            else
                upper[j] = down(patch + o.left + j, o.jump, r->stride, rows);
        for (int64_t x = o.left; x < o.right; x++) {
            const int last = columns - 1;
            if (two)
                down_two(patch + x + last, o.jump, r->stride, rows, &upper[last], &lower[last]);
            else
                upper[last] = down(patch + x + last, o.jump, r->stride, rows);
            vec above = upper[last], below = lower[last];
            for (int j = last - 1; j >= 0; j--) {
                above = vadd(above, upper[j]);
                if (two) below = vadd(below, lower[j]);
            }
            give(total, norm, a, x, o.jump, vexp2(above));
            if (two) give(total, norm, a, x + r->stride, o.jump, vexp2(below));
            for (int j = 0; j < last; j++) upper[j] = upper[j + 1], lower[j] = lower[j + 1];
        }
        return;
    }
    for (int64_t x = o.left; x < o.right + columns - 1; x++) r->exponents[x] = down(patch + x, o.jump, r->stride, rows);
    for (int64_t x = o.left; x < o.right; x++) {
        vec sum = r->exponents[x];
        for (int j = 1; j < columns; j++) sum = vadd(sum, r->exponents[x + j]);
        give(total, norm, a, x, o.jump, vexp2(sum));
    }
}

INLINE void average(const means_room *r, int rows, int columns) {
    const int at_once = columns <= 5 ? 2 : 1;
    for (int64_t y = 0; y < r->h; y += at_once)
        FOR_OFFSETS(r, dy, dx) {
            offset o = offset_at(r, dy, dx);
            if (y + dy + at_once <= r->h)
                average_rows(r, y, o, at_once == 2, rows, columns);
            else if (y + dy < r->h)
                average_rows(r, y, o, 0, rows, columns);
        }
}

static void NAME(means_forward)(const void *given, void *space, int64_t index) {
    const means_task *task = given;
    const means_room *r = space;
    block b = block_at(&task->m, index);
    means_scale s = prepare(task, &b, r);
    const vec *a = r->padded + r->inner;
    for (int64_t y = 0; y < r->h; y++)
        for (int64_t x = 0; x < r->w; x++) {
            r->total[y * r->stride + x] = a[y * r->stride + x];
            r->norm[y * r->stride + x] = vall(1);
        }
    if (r->rows == 3 && r->columns == 3)
        average(r, 3, 3);
    else if (r->rows == 5 && r->columns == 5)
        average(r, 5, 5);
    else
        average(r, (int)r->rows, (int)r->columns);
    const vec back = vdiv(vall(1), s.unit);
    for (int64_t y = 0; y < r->h; y++)
        for (int64_t x = 0; x < r->w; x++) {
            vec *total = &r->total[y * r->stride + x];
            *total = vfma(vdiv(*total, r->norm[y * r->stride + x]), back, s.mean);
        }
    store_block(task->out, &b, r->h, r->w, r->stride - r->w, r->total);
    if (task->norm_out) store_block(task->norm_out, &b, r->h, r->w, r->stride - r->w, r->norm);
}

/* With g the gradient of the average, share = g / Σw and loss = share · average, the gradient passes to a value by w · share, and
   to a weight by share(i) (a(j) - average(i)) + share(j) (a(i) - average(j)); through the weight it reaches all differences of
   the two patches, and the scale. */
INLINE vec slopes_of_pair(const means_room *r, int64_t i, offset o, vec exponent, int constant, vec *to_scale) {
    const vec *a = r->padded + r->inner, weight = vexp2(exponent);
    const int64_t j = i + o.jump;
    vec *to_a = r->total + r->inner;
    to_a[i] = vfma(weight, r->share[j], to_a[i]);
    to_a[j] = vfma(weight, r->share[i], to_a[j]);
    if (constant) return vall(0);
    vec to_weight = vfnma(r->share[j], a[i], vfnma(r->share[i], a[j], vadd(r->loss[i], r->loss[j])));
    vec to_exponent = vmul(vmul(to_weight, vall(2 * LN2)), weight);
    *to_scale = vfma(to_exponent, exponent, *to_scale);
    return to_exponent;
}

/* All pairs of one offset with i in a row.  `spread` becomes, for each column, what reaches the exponents of all patches that it
   is in. */
INLINE vec slopes_of_row(const means_room *r, int64_t y, offset o, int constant, int rows, int columns, vec *spread) {
    const vec *patch = r->padded + y * r->stride;
    const int64_t first = y * r->stride, last = columns - 1;
    vec to_scale = vall(0);
    if (columns <= 5) { /* both windows slide along the row in registers */
        vec sums[5], recent[5] = {vall(0), vall(0), vall(0), vall(0), vall(0)};
        for (int j = 0; j < last; j++) sums[j] = down(patch + o.left + j, o.jump, r->stride, rows);
        for (int64_t x = o.left; x < o.right + last; x++) {
            vec all = vall(0);
            if (x < o.right) {
                sums[last] = down(patch + x + last, o.jump, r->stride, rows);
                all = sums[last];
                for (int j = last - 1; j >= 0; j--) all = vadd(all, sums[j]);
                all = slopes_of_pair(r, first + x, o, all, constant, &to_scale);
            }
            for (int j = 0; j < last; j++) sums[j] = sums[j + 1];
            recent[last] = all;
            for (int j = 0; j < last; j++) all = vadd(all, recent[j]), recent[j] = recent[j + 1];
            spread[x] = all;
        }
        return to_scale;
    }
    vec *row = r->exponents;
    for (int64_t x = o.left; x < o.right + last; x++) row[x] = down(patch + x, o.jump, r->stride, rows);
    for (int64_t x = o.left; x < o.right; x++) {
        vec all = row[x];
        for (int64_t j = 1; j <= last; j++) all = vadd(all, row[x + j]);
        row[x] = slopes_of_pair(r, first + x, o, all, constant, &to_scale);
    }
    for (int64_t x = o.left; x < o.right + last; x++) {
        const int64_t from = x - last > o.left ? x - last : o.left, end = x < o.right ? x + 1 : o.right;
        spread[x] = vall(0);
        for (int64_t j = from; j < end; j++) spread[x] = vadd(spread[x], row[j]);
    }
    return to_scale;
}

INLINE vec slopes_of_offset(const means_room *r, offset o, int constant, int rows, int columns) {
    const int64_t width = r->stride + 2 * r->columns;
    vec to_scale = vall(0);
    for (int64_t y = 0; y < r->h - o.dy + rows - 1; y++) {
        if (y < r->h - o.dy) {
            to_scale = vadd(to_scale, slopes_of_row(r, y, o, constant, rows, columns, r->ring + y % rows * width));
        }
        if (constant) continue;
        vec *to = r->total + y * r->stride;
        const vec *at = r->padded + y * r->stride;
        const int64_t top = y - rows + 1 > 0 ? y - rows + 1 : 0, bottom = y < r->h - o.dy ? y : r->h - o.dy - 1;
        for (int64_t x = o.left; x < o.right + columns - 1; x++) {
            vec sum = r->ring[top % rows * width + x];
            for (int64_t i = top + 1; i <= bottom; i++) sum = vadd(sum, r->ring[i % rows * width + x]);
            vec d = vsub(at[x], at[x + o.jump]);
            to[x] = vfma(d, sum, to[x]);
            to[x + o.jump] = vfnma(d, sum, to[x + o.jump]);
        }
    }
    return to_scale;
}

INLINE vec slopes_of_means(const means_room *r, int constant, int rows, int columns) {
    vec to_scale = vall(0);
    FOR_OFFSETS(r, dy, dx) to_scale = vadd(to_scale, slopes_of_offset(r, offset_at(r, dy, dx), constant, rows, columns));
    return to_scale;
}

static void NAME(means_backward)(const void *given, void *space, int64_t index) {
    const means_task *task = given;
    const means_room *r = space;
    const int64_t gap = r->stride - r->w;
    block b = block_at(&task->m, index);
    means_scale s = prepare(task, &b, r);
    vec *inner = r->total + r->inner;
    load_block(task->gradient, &b, r->h, r->w, gap, r->share);
    load_block(task->average, &b, r->h, r->w, gap, r->loss);
    load_block(task->norm, &b, r->h, r->w, gap, r->total);
    for (int64_t y = 0; y < r->h; y++)
        for (int64_t x = 0; x < r->w; x++) {
            int64_t at = y * r->stride + x;
            r->share[at] = vdiv(r->share[at], r->total[at]);
            r->loss[at] = vmul(r->share[at], vmul(vsub(r->loss[at], s.mean), s.unit));
        }
    memset(r->total, 0, r->size * sizeof(vec));
    for (int64_t y = 0; y < r->h; y++) memcpy(inner + y * r->stride, r->share + y * r->stride, r->w * sizeof(vec)); /* w(i, i) = 1 */
    vec to_scale;
    const int rows = (int)r->rows, columns = (int)r->columns;
    if (task->constant)
        to_scale = rows == 3 && columns == 3 ? slopes_of_means(r, 1, 3, 3) : slopes_of_means(r, 1, rows, columns);
    else
        to_scale = rows == 3 && columns == 3 ? slopes_of_means(r, 0, 3, 3) : slopes_of_means(r, 0, rows, columns);
    unmirror(inner, r->h, r->w, r->stride, r->rows / 2, r->columns / 2);
    if (task->relative && !task->constant) {
        vec slope = vmul(vmul(to_scale, s.clamped), vall(LN2 * (float)(rows * columns) * task->h * task->h / (float)(r->h * r->w)));
        const vec *a = r->padded + r->inner;
        for (int64_t y = 0; y < r->h; y++)
            for (int64_t x = 0; x < r->w; x++) inner[y * r->stride + x] = vfma(slope, a[y * r->stride + x], inner[y * r->stride + x]);
    }
    store_block(task->out, &b, r->h, r->w, gap, inner);
}
