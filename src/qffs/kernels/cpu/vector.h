// Vectors of numbers of one type of `real`, and of levels, which are bytes.
#include "layer.h"
#include "levels.h"

#define LANES (64 / (int64_t)sizeof(real)) // a register of AVX-512, several of others
#define MOST_VECTORS 8                     // of neurons that are taken at a time
typedef real vector __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real)), may_alias));
// Unrolled before compilers decide what is kept in registers, so that arrays of vectors are.
#define EACH_VECTOR(v) _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)

INLINE int64_t ratio_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What compilers make of vectors of bytes, and of masks, is slow: AVX-512 has an instruction for each of these.
#ifdef __AVX512BW__
typedef uint16_t lanes; // a bit for each
#define SINGLE (sizeof(real) == 4)
INLINE lanes at_least(vector a, vector b)
{
    return SINGLE ? _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OS)
                  : _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OS);
}
INLINE lanes below(vector a, vector b)
{
    return SINGLE ? _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OS)
                  : _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OS);
}
INLINE vector add_at(lanes at, vector a, vector b)
{
    return SINGLE ? (vector)_mm512_mask_add_ps((__m512)a, at, (__m512)a, (__m512)b)
                  : (vector)_mm512_mask_add_pd((__m512d)a, at, (__m512d)a, (__m512d)b);
}
INLINE vector from_bytes(const uint8_t *from)
{
    if (SINGLE)
        return (vector)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from)));
    return (vector)_mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadu_si64(from)));
}
INLINE void to_bytes(vector v, uint8_t *to)
{
    if (SINGLE)
        _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)v)));
    else
        _mm_storeu_si64(to, _mm256_cvtepi32_epi8(_mm512_cvttpd_epi32((__m512d)v)));
}
INLINE int some(lanes at) { return at != 0; }
INLINE lanes first(int64_t count) { return (lanes)((1 << count) - 1); }
#else
typedef MASK lanes __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real)), may_alias));
INLINE lanes at_least(vector a, vector b) { return a >= b; }
INLINE lanes below(vector a, vector b) { return a < b; }
INLINE vector add_at(lanes at, vector a, vector b) { return a + (vector)((lanes)b & at); }
INLINE vector from_bytes(const uint8_t *from)
{
    vector v;
    for (int i = 0; i < LANES; i++)
        v[i] = from[i];
    return v;
}
INLINE void to_bytes(vector v, uint8_t *to)
{
    for (int i = 0; i < LANES; i++)
        to[i] = (uint8_t)v[i];
}
INLINE int some(lanes at)
{
    MASK found = 0;
    for (int i = 0; i < LANES; i++)
        found |= at[i];
    return found != 0;
}
INLINE lanes first(int64_t count)
{
    lanes at;
    for (int i = 0; i < LANES; i++)
        at[i] = i < count ? -1 : 0;
    return at;
}
#endif

#if DIGITS
#define EACH_PAIR(v) _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v += 2)
typedef int32_t integers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// Whole numbers of 16 bits, of two vectors by turns, added to both.
INLINE void add_pair(integers *one, integers *other, const int16_t *from)
{
#ifdef __AVX512VNNI__
    const __m512i read = _mm512_loadu_si512(from);
    *one = (integers)_mm512_dpwssd_epi32((__m512i)*one, read, _mm512_set1_epi32(1));
    *other = (integers)_mm512_dpwssd_epi32((__m512i)*other, read, _mm512_set1_epi32(1 << 16));
#else
    const integers read = *(const integers *)from;
    *one += read << 16 >> 16;
    *other += read >> 16;
#endif
}

INLINE integers from_shorts(const int16_t *from)
{
#ifdef __AVX512BW__
    return (integers)_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from));
#else
    integers v;
    for (int i = 0; i < LANES; i++)
        v[i] = from[i];
    return v;
#endif
}

INLINE vector to_reals(integers v)
{
#ifdef __AVX512BW__
    return (vector)_mm512_cvtepi32_ps((__m512i)v);
#else
    vector reals;
    for (int i = 0; i < LANES; i++)
        reals[i] = (real)v[i];
    return reals;
#endif
}

INLINE vector magnitude(vector v) { return (vector)((integers)v & INT32_MAX); }
#endif
