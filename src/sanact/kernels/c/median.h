/* The median of a k x k window around each element, and its gradient. */
#include "blocks.h"

typedef struct {
    int64_t rows, columns; /* of the window */
    int64_t stride;        /* from a row of the padded map to the next: one place more than it needs */
    vec *padded;           /* the map with its margin, and one row more */
    vec *medians;          /* of which one row and one column more are written */
    vec *rest;             /* whatever else is needed */
} median_room;

INLINE void sort(vec *a, vec *b) {
    vec least = vmin(*a, *b);
    *b = vmax(*a, *b);
    *a = least;
}

INLINE vec middle_of_3(vec a, vec b, vec c) { return vmax(vmin(a, b), vmin(vmax(a, b), c)); }

/* The window along a side of the map: mirrored, a map of one row is k times that row, and the median is that of one. */
INLINE int64_t within(int64_t k, int64_t length) { return length > 1 ? k : 1; }

static void *NAME(median_begin)(const void *given) {
    const median_task *task = given;
    median_room *r = malloc(sizeof *r);
    if (!r) return 0;
    r->rows = within(task->k, task->m.h), r->columns = within(task->k, task->m.w);
    r->stride = task->m.w + r->columns;
    /* Two more arrays in the backward pass; before the medians, and the shares behind them, a margin of `rows` rows. */
    const int64_t padded = r->stride * (task->m.h + r->rows), margin = r->stride * r->rows;
    const int64_t all = task->gradient ? 4 * padded + 2 * margin : 2 * padded + r->rows * (2 * r->stride + r->columns);
    r->padded = room(all);
    r->medians = r->padded + padded + (task->gradient ? margin : 0), r->rest = r->medians + padded;
    if (r->padded) {
        memset(r->padded, 0, all * sizeof(vec)); /* margins are read, but never written: nothing comes from there */
        return r;
    }
    free(r);
    return 0;
}

static void NAME(median_end)(void *given) {
    free(((median_room *)given)->padded);
    free(given);
}

INLINE vec *inner_of(const median_room *r, vec *padded) { return padded + r->rows / 2 * r->stride + r->columns / 2; }

/* Whether a block may have a NaN: infinities count, too, so that one operation an element is enough. */
INLINE int suspicious(const vec *inner, int64_t h, int64_t w, int64_t stride) {
    vec found[4] = {vall(0), vall(0), vall(0), vall(0)};
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) found[x % 4] = vfma(inner[y * stride + x], vall(0), found[x % 4]);
    return many(vnan(vadd(vadd(found[0], found[1]), vadd(found[2], found[3]))));
}

/* Three elements of a column, sorted. */
typedef struct {
    vec low, mid, high;
} column;

/* The columns of two windows, one row apart: the two elements that they share are compared once. */
INLINE void columns_of_3(const vec *at, int64_t stride, column *upper, column *lower) {
    vec a = at[0], b = at[stride], c = at[2 * stride], d = at[3 * stride];
    sort(&b, &c);
    vec m = vmax(a, b), n = vmax(d, b);
    *upper = (column){vmin(a, b), vmin(m, c), vmax(m, c)};
    *lower = (column){vmin(d, b), vmin(n, c), vmax(n, c)};
}

/* The median of nine in sorted columns is the middle one of three: the largest of the smallest, the middle of the middle, the
   smallest of the largest.  Of two windows, one column apart, what the two columns that they share have to say is found once. */
INLINE void medians_of_9(const column c[4], vec *left, vec *right) {
    vec least = vmax(c[1].low, c[2].low), most = vmin(c[1].high, c[2].high);
    vec below = vmin(c[1].mid, c[2].mid), above = vmax(c[1].mid, c[2].mid);
    *left = middle_of_3(vmax(least, c[0].low), vmax(below, vmin(above, c[0].mid)), vmin(most, c[0].high));
    *right = middle_of_3(vmax(least, c[3].low), vmax(below, vmin(above, c[3].mid)), vmin(most, c[3].high));
}

/* Two rows of medians; the margin of the map and the room for them are wide enough for one column more than there are. */
INLINE void rows_of_9(const vec *row, int64_t w, int64_t stride, vec *upper, vec *lower) {
    column a[4], b[4];
    columns_of_3(row, stride, &a[0], &b[0]);
    columns_of_3(row + 1, stride, &a[1], &b[1]);
    for (int64_t x = 0; x < w; x += 2) {
        columns_of_3(row + x + 2, stride, &a[2], &b[2]);
        columns_of_3(row + x + 3, stride, &a[3], &b[3]);
        medians_of_9(a, upper + x, upper + x + 1);
        medians_of_9(b, lower + x, lower + x + 1);
        a[0] = a[2], a[1] = a[3], b[0] = b[2], b[1] = b[3];
    }
}

/* Sorted lists put together, by Batcher's odd-even merge: those of two, of three, of five. */
INLINE void merge_2(const vec a[2], const vec b[2], vec to[4]) {
    to[0] = a[0], to[1] = b[0], to[2] = a[1], to[3] = b[1];
    sort(&to[0], &to[1]);
    sort(&to[2], &to[3]);
    sort(&to[1], &to[2]);
}

INLINE void merge_3(const vec a[3], const vec b[3], vec to[6]) {
    vec outer[4], middle[2] = {a[1], b[1]};
    merge_2((vec[2]){a[0], a[2]}, (vec[2]){b[0], b[2]}, outer);
    sort(&middle[0], &middle[1]);
    sort(&middle[0], &outer[1]);
    sort(&middle[1], &outer[2]);
    to[0] = outer[0], to[1] = middle[0], to[2] = outer[1], to[3] = middle[1], to[4] = outer[2], to[5] = outer[3];
}

INLINE void merge_5(const vec a[5], const vec b[5], vec to[10]) {
    vec even[6], odd[4];
    merge_3((vec[3]){a[0], a[2], a[4]}, (vec[3]){b[0], b[2], b[4]}, even);
    merge_2((vec[2]){a[1], a[3]}, (vec[2]){b[1], b[3]}, odd);
    to[0] = even[0], to[9] = even[5];
    for (int i = 0; i < 4; i++) {
        sort(&odd[i], &even[i + 1]);
        to[2 * i + 1] = odd[i], to[2 * i + 2] = even[i + 1];
    }
}

/* The columns of two windows, one row apart: the four elements that they share are sorted once, and a fifth put among them. */
INLINE void columns_of_5(const vec *at, int64_t stride, vec upper[5], vec lower[5]) {
    vec s[4];
    for (int i = 0; i < 4; i++) s[i] = at[(i + 1) * stride];
    sort(&s[0], &s[1]);
    sort(&s[2], &s[3]);
    sort(&s[0], &s[2]);
    sort(&s[1], &s[3]);
    sort(&s[1], &s[2]);
    for (int side = 0; side < 2; side++) {
        vec one = at[side * 5 * stride], *to = side ? lower : upper;
        to[0] = vmin(one, s[0]), to[4] = vmax(one, s[3]);
        for (int i = 1; i < 4; i++) to[i] = vmax(s[i - 1], vmin(one, s[i]));
    }
}

/* The largest three, in order, of the smaller halves of two sorted lists of ten; with `max` and `min` exchanged, the smallest
   three of the larger halves.  Five of ten are left by one comparison each, since the halves rise and fall but once; for the
   rest, this is the shortest network there is (found by trying all). */
#define THREE_OF_10(min, max, a, b, to)                                                                 \
    do {                                                                                                \
        vec m[5], t;                                                                                    \
        for (int i = 0; i < 5; i++) m[i] = max(min(a[i], b[9 - i]), min(a[i + 5], b[4 - i]));           \
        t = max(m[0], m[1]), m[0] = min(m[0], m[1]), m[1] = t;                                          \
        t = max(m[0], m[2]), m[0] = min(m[0], m[2]), m[2] = t;                                          \
        m[3] = max(m[0], m[3]);                                                                         \
        t = max(m[1], m[3]), m[1] = min(m[1], m[3]), m[3] = t;                                          \
        t = max(m[2], m[4]), m[2] = min(m[2], m[4]), m[4] = t;                                          \
        m[2] = max(m[1], m[2]);                                                                         \
        t = max(m[3], m[4]), m[3] = min(m[3], m[4]), m[4] = t;                                          \
        to[0] = m[4], to[1] = m[3], to[2] = m[2];                                                       \
    } while (0)

/* The median of 25 in a sorted column, and in two lists of ten that are sorted: of the twenty, only the middle six can be it. */
INLINE void medians_of_25(const vec a[10], const vec b[10], const vec left[5], const vec right[5], vec *first, vec *second) {
    vec lower[3], upper[3];
    THREE_OF_10(vmin, vmax, a, b, lower);
    THREE_OF_10(vmax, vmin, a, b, upper);
    const vec six[6] = {lower[2], lower[1], lower[0], upper[0], upper[1], upper[2]};
    vec one = six[5], two = six[5]; /* the sixth of eleven: the least of what is not below it */
    for (int i = 0; i < 5; i++) {
        one = vmin(one, vmax(six[4 - i], left[i]));
        two = vmin(two, vmax(six[4 - i], right[i]));
    }
    *first = one, *second = two;
}

/* A row of medians from its sorted columns, of which one is read, and of medians one written, beyond those there are. */
INLINE void row_of_25(vec columns[][5], int64_t w, vec *to) {
    vec a[10], b[10];
    merge_5(columns[1], columns[2], a);
    for (int64_t x = 0; x < w; x += 2) {
        merge_5(columns[x + 3], columns[x + 4], b);
        medians_of_25(a, b, columns[x], columns[x + 5], to + x, to + x + 1);
        for (int i = 0; i < 10; i++) a[i] = b[i];
    }
}

/* Two rows of medians, as `rows_of_9`. */
INLINE void rows_of_25(const vec *row, int64_t w, int64_t stride, vec *upper, vec *lower, vec *rest) {
    vec(*above)[5] = (vec(*)[5])rest, (*below)[5] = above + stride;
    for (int64_t x = 0; x < stride; x++) columns_of_5(row + x, stride, above[x], below[x]);
    row_of_25(above, w, upper);
    row_of_25(below, w, lower);
}

/* A row of medians of any window: its columns are sorted, once for all windows, then a network of comparisons selects. */
INLINE void row_of_any(const median_task *task, const median_room *r, const vec *row, vec *to) {
    int64_t w = task->m.w, rows = r->rows, columns = r->columns, stride = r->stride;
    vec *sorted = r->rest, *wires = sorted + rows * stride;
    for (int64_t x = 0; x < stride; x++) {
        for (int64_t i = 0; i < rows; i++) sorted[x * rows + i] = row[i * stride + x];
        for (int64_t s = 0; s < task->sorts; s++) sort(&sorted[x * rows + task->sorting[s].i], &sorted[x * rows + task->sorting[s].j]);
    }
    for (int64_t x = 0; x < w; x++) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) wires[i * columns + j] = sorted[(x + j) * rows + i];
        for (int64_t s = 0; s < task->selections; s++) {
            const comparison c = task->selection[s];
            vec a = wires[c.i], b = wires[c.j];
            if (c.smaller) wires[c.i] = vmin(a, b);
            if (c.larger) wires[c.j] = vmax(a, b);
        }
        to[x] = wires[task->middle];
    }
}

/* Where a window holds a NaN its median is one, as in a network whose every minimum and maximum passes it on. */
INLINE void spread_nan(const median_room *r, int64_t h, int64_t w) {
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            mask bad = mnone();
            for (int64_t i = 0; i < r->rows; i++)
                for (int64_t j = 0; j < r->columns; j++) bad = mor(bad, vnan(r->padded[(y + i) * r->stride + x + j]));
            vec *median = &r->medians[y * r->stride + x];
            *median = vselect(bad, vall(NAN), *median);
        }
}

INLINE void load_padded(const float *a, const block *b, const maps_t *m, const median_room *r) {
    vec *inner = inner_of(r, r->padded);
    load_block(a, b, m->h, m->w, r->stride - m->w, inner);
    mirror(inner, m->h, m->w, r->stride, r->rows / 2, r->columns / 2);
}

static void NAME(median_forward)(const void *given, void *space, int64_t index) {
    const median_task *task = given;
    const median_room *r = space;
    const maps_t *m = &task->m;
    block b = block_at(m, index);
    load_padded(task->a, &b, m, r);
    const int side = r->rows == r->columns ? (int)r->rows : 0, at_once = side == 3 || side == 5 ? 2 : 1;
    for (int64_t y = 0; y < m->h; y += at_once) {
        const vec *row = r->padded + y * r->stride;
        vec *to = r->medians + y * r->stride;
        if (side == 3)
            rows_of_9(row, m->w, r->stride, to, to + r->stride);
        else if (side == 5)
            rows_of_25(row, m->w, r->stride, to, to + r->stride, r->rest);
        else
            row_of_any(task, r, row, to);
    }
    if (suspicious(inner_of(r, r->padded), m->h, m->w, r->stride)) spread_nan(r, m->h, m->w);
    store_block(task->out, &b, m->h, m->w, r->stride - m->w, r->medians);
}

/* How many elements of its window a median is equal to. */
INLINE vec ties(const vec *window, vec median, int64_t stride, int rows, int columns) {
    vec tied = vall(0);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) tied = vadd_where(veq(window[i * stride + j], median), tied, vall(1));
    return tied;
}

/* What reaches an element from all windows that it is in: `median` and `share` begin at the window of which it is the first. */
INLINE vec collected(vec element, const vec *median, const vec *share, int64_t stride, int rows, int columns) {
    vec sum = vall(0);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            const int64_t before = i * stride + j;
            sum = vadd_where(veq(element, median[-before]), sum, share[-before]);
        }
    return sum;
}

/* The same where something is not finite, as plain torch has it: what is not passed on is multiplied by zero. */
INLINE void spread(const vec *window, vec median, vec share, int64_t stride, int rows, int columns, vec *to) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            vec one = vselect(veq(window[i * stride + j], median), vall(1), vall(0));
            to[i * stride + j] = vfma(share, one, to[i * stride + j]);
        }
}

/* The gradient of a median goes to the elements of its window that are equal to it, in equal parts. */
INLINE void slopes(const median_room *r, vec *shares, vec *slope, int64_t h, int64_t w, int rows, int columns) {
    const int64_t stride = r->stride;
    vec found = vall(0);
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            const int64_t at = y * stride + x;
            shares[at] = vdiv(shares[at], ties(r->padded + at, r->medians[at], stride, rows, columns));
            found = vfma(shares[at], vall(0), found);
        }
    if (many(vnan(found))) { /* a share is not finite; of a median that is NaN, none is */
        memset(slope, 0, stride * (h + rows) * sizeof(vec));
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                const int64_t at = y * stride + x;
                spread(r->padded + at, r->medians[at], shares[at], stride, rows, columns, slope + at);
            }
        return;
    }
    for (int64_t y = 0; y < h + rows - 1; y++)
        for (int64_t x = 0; x < w + columns - 1; x++) {
            const int64_t at = y * stride + x;
            slope[at] = collected(r->padded[at], r->medians + at, shares + at, stride, rows, columns);
        }
}

static void NAME(median_backward)(const void *given, void *space, int64_t index) {
    const median_task *task = given;
    const median_room *r = space;
    const maps_t *m = &task->m;
    const int64_t stride = r->stride, size = stride * (m->h + r->rows), margin = stride * r->rows;
    vec *shares = r->rest + margin, *slope = r->rest + margin + size;
    block b = block_at(m, index);
    load_padded(task->a, &b, m, r);
    load_block(task->median, &b, m->h, m->w, stride - m->w, r->medians); /* at the first element of its window */
    load_block(task->gradient, &b, m->h, m->w, stride - m->w, shares);
    if (r->rows == 3 && r->columns == 3)
        slopes(r, shares, slope, m->h, m->w, 3, 3);
    else
        slopes(r, shares, slope, m->h, m->w, (int)r->rows, (int)r->columns);
    unmirror(inner_of(r, slope), m->h, m->w, stride, r->rows / 2, r->columns / 2);
    store_block(task->out, &b, m->h, m->w, stride - m->w, inner_of(r, slope));
}
