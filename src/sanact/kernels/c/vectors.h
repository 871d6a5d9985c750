/* Vectors of LANES floats, as wide as the processor that a file is compiled for.

   vmin and vmax return the second operand where one is NaN.  A mask has a truth value per lane. */
#ifndef SANACT_VECTORS_H
#define SANACT_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define LANES 16
typedef __m512 vec;
typedef __mmask16 mask;

INLINE vec vload(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vstore(float *p, vec a) { _mm512_storeu_ps(p, a); }
INLINE vec vall(float a) { return _mm512_set1_ps(a); }
INLINE vec vadd(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec vsub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec vmul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec vdiv(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec vfma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }  /* a b + c */
INLINE vec vfnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
INLINE vec vmin(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec vmax(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vabs(vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
INLINE mask veq(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE mask vless(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE mask vnan(vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
INLINE mask mor(mask a, mask b) { return a | b; }
INLINE mask mnone(void) { return 0; }
INLINE int many(mask a) { return a != 0; }
INLINE vec vselect(mask where, vec a, vec b) { return _mm512_mask_mov_ps(b, where, a); }
INLINE vec vadd_where(mask where, vec a, vec b) { return _mm512_mask_add_ps(a, where, a, b); } /* a, with b added */

/* Of numbers ≥ 0 the larger, and NaN if one is. */
INLINE vec vmax_bits(vec a, vec b) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
INLINE mask mand(mask a, mask b) { return a & b; }
INLINE vec vtimes0_where(mask where, vec a) { return _mm512_mask_mul_ps(a, where, a, _mm512_setzero_ps()); }
INLINE vec vsqrt(vec a) { return _mm512_sqrt_ps(a); }
INLINE vec vnegsquare(vec a) { return _mm512_fnmadd_ps(a, a, _mm512_setzero_ps()); }

/* 2^t for t ≤ 0, of a relative error of 3e-7; 0 far below, NaN of NaN. */
INLINE vec vexp2(vec t) {
    vec f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* t - floor(t), and 0 of infinity */
#define SCALED(p) _mm512_scalef_ps(p, t) /* p 2^floor(t) */

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
typedef __m256 vec;
typedef __m256 mask;

INLINE vec vload(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vstore(float *p, vec a) { _mm256_storeu_ps(p, a); }
INLINE vec vall(float a) { return _mm256_set1_ps(a); }
INLINE vec vadd(vec a, vec b) { return _mm256_add_ps(a, b); }
INLINE vec vsub(vec a, vec b) { return _mm256_sub_ps(a, b); }
INLINE vec vmul(vec a, vec b) { return _mm256_mul_ps(a, b); }
INLINE vec vdiv(vec a, vec b) { return _mm256_div_ps(a, b); }
INLINE vec vfma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec vfnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE vec vmin(vec a, vec b) { return _mm256_min_ps(a, b); }
INLINE vec vmax(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec vabs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE mask veq(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
INLINE mask vless(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE mask vnan(vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
INLINE mask mor(mask a, mask b) { return _mm256_or_ps(a, b); }
INLINE mask mnone(void) { return _mm256_setzero_ps(); }
INLINE int many(mask a) { return _mm256_movemask_ps(a) != 0; }
INLINE vec vselect(mask where, vec a, vec b) { return _mm256_blendv_ps(b, a, where); }
INLINE vec vadd_where(mask where, vec a, vec b) { return vadd(a, _mm256_and_ps(where, b)); }

INLINE vec vmax_bits(vec a, vec b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
INLINE mask mand(mask a, mask b) { return _mm256_and_ps(a, b); }
INLINE vec vtimes0_where(mask where, vec a) { return vselect(where, vmul(a, vall(0)), a); }
INLINE vec vsqrt(vec a) { return _mm256_sqrt_ps(a); }
INLINE vec vnegsquare(vec a) { return _mm256_fnmadd_ps(a, a, _mm256_setzero_ps()); }

INLINE vec vexp2(vec t) {
    t = vmax(vall(-127.0f), t);
    vec whole = _mm256_floor_ps(t), f = vsub(t, whole);
#define SCALED(p) /* 2^-127 has an exponent of 0 in its bits, and is 0 */                                                 \
    vmul(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23)))

#else
#define LANES 4
typedef float vec __attribute__((vector_size(16)));
typedef int32_t mask __attribute__((vector_size(16)));

INLINE vec vload(const float *p) { vec a; memcpy(&a, p, sizeof a); return a; }
INLINE void vstore(float *p, vec a) { memcpy(p, &a, sizeof a); }
INLINE vec vall(float a) { return (vec){a, a, a, a}; }
INLINE vec vadd(vec a, vec b) { return a + b; }
INLINE vec vsub(vec a, vec b) { return a - b; }
INLINE vec vmul(vec a, vec b) { return a * b; }
INLINE vec vdiv(vec a, vec b) { return a / b; }
INLINE vec vfma(vec a, vec b, vec c) { return a * b + c; }
INLINE vec vfnma(vec a, vec b, vec c) { return c - a * b; }
INLINE vec vselect(mask where, vec a, vec b) { return (vec)((where & (mask)a) | (~where & (mask)b)); }
INLINE vec vmin(vec a, vec b) { return vselect(a < b, a, b); }
INLINE vec vmax(vec a, vec b) { return vselect(a > b, a, b); }
INLINE vec vabs(vec a) { return (vec)((mask)a & 0x7fffffff); }
INLINE mask veq(vec a, vec b) { return a == b; }
INLINE mask vless(vec a, vec b) { return a < b; }
INLINE mask vnan(vec a) { return a != a; }
INLINE mask mor(mask a, mask b) { return a | b; }
INLINE mask mnone(void) { return (mask){0, 0, 0, 0}; }
INLINE int many(mask a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
INLINE vec vadd_where(mask where, vec a, vec b) { return a + (vec)(where & (mask)b); }

INLINE vec vmax_bits(vec a, vec b) { return vselect((mask)a > (mask)b, a, b); }
INLINE mask mand(mask a, mask b) { return a & b; }
INLINE vec vtimes0_where(mask where, vec a) { return vselect(where, a * 0.0f, a); }
INLINE vec vsqrt(vec a) { return (vec){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
INLINE vec vnegsquare(vec a) { return -a * a; }

INLINE vec vexp2(vec t) {
    t = vmax(vall(-126.4f), t); /* below, the power is 0: an exponent of 0 in its bits */
    const vec magic = vall(12582912.0f); /* 1.5 2^23: adding it rounds to a whole number */
    vec whole = (t - 0.49999997f + magic) - magic, f = t - whole;
#define SCALED(p) (p * (vec)(((mask)(whole + magic) - 0x4b400000 + 127) << 23))

#endif
    /* the rest of vexp2: 2^f for 0 ≤ f ≤ 1 by the polynomial of degree 5 with p(0) = 1 and the least relative error */
    vec p = vall(0.00186712901f);
    p = vfma(p, f, vall(0.00901703257f));
    p = vfma(p, f, vall(0.0557999115f));
    p = vfma(p, f, vall(0.240164451f));
    p = vfma(p, f, vall(0.693151312f));
    p = vfma(p, f, vall(1.0f));
    return SCALED(p);
#undef SCALED
}

#endif
