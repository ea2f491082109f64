// Comparing levels, which are bytes, many at a time.
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#define CHUNK 64 // levels that are compared at a time
#define INLINE static inline __attribute__((always_inline))

static const uint8_t NONE[CHUNK]; // levels before the first step

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The bits from one on, to another.
INLINE uint64_t bits(int64_t from, int64_t to)
{
    return (to < 64 ? ((uint64_t)1 << to) - 1 : ~(uint64_t)0) >> from << from;
}

// A bit for each of the first `count` bytes, at most CHUNK, that is larger than the other.
INLINE uint64_t larger(const uint8_t *one, const uint8_t *other, int64_t count)
{
#ifdef __AVX512BW__
    const __mmask64 read = count < CHUNK ? ((uint64_t)1 << count) - 1 : ~(uint64_t)0;
    return _mm512_cmpgt_epu8_mask(_mm512_maskz_loadu_epi8(read, one), _mm512_maskz_loadu_epi8(read, other));
#else
    uint64_t bits = 0;
    for (int64_t i = 0; i < count && i < CHUNK; i++)
        bits |= (uint64_t)(one[i] > other[i]) << i;
    return bits;
#endif
}
