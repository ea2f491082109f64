// Functions of levels alone: memory for them, counting of spikes, max pooling. They know no type of the network.
#include "levels.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

// Ask the system for large pages of memory that is about to be written: to get it in small pages takes longer than to
// write it.
void prefer_large_pages(uint8_t *memory, int64_t size)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t page = (uintptr_t)1 << 21, from = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t to = ((uintptr_t)memory + (uintptr_t)size) / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

// Count the positive and negative spikes of each step, [2][steps], that led to levels, in rows of `size`.
void count(const uint8_t *values, const int64_t *index, int64_t steps, int64_t images, int64_t size, int64_t threads,
           int64_t *spikes)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t t = 0; t < steps; t++) {
        int64_t up = 0, down = 0;
        for (int64_t b = 0; b < images; b++) {
            const int64_t row = index[t * images + b], before = t ? index[(t - 1) * images + b] : -1;
            for (int64_t i = 0; row != before && i < size; i += CHUNK) {
                const uint8_t *z = values + row * size + i, *y = t ? values + before * size + i : NONE;
                up += __builtin_popcountll(larger(z, y, size - i));
                down += __builtin_popcountll(larger(y, z, size - i));
            }
        }
        spikes[t] = up;
        spikes[steps + t] = down;
    }
}

// Rows of levels [height][width][channels], pooled into rows [pooled_height][pooled_width][channels]: the largest level
// of each window of kh x kw, the first window at -py, -px. Rows that `index` does not name are left out.
typedef struct {
    const uint8_t *values;
    const int64_t *index;
    int64_t index_size, rows, height, width, channels, kh, kw, sy, sx, py, px, pooled_height, pooled_width, threads;
    uint8_t *named; // [rows], zeros
    uint8_t *pooled;
} pooling;

// What Python compares with its own structure before it calls anything.
const int64_t sizes[] = {sizeof(pooling)};

// The largest levels of a window: lines [top, bottom) and columns [left, right) of a row.
INLINE void largest(const uint8_t *row, int64_t width, int64_t channels, int64_t top, int64_t bottom, int64_t left,
                    int64_t right, uint8_t *restrict pooled)
{
    memset(pooled, 0, channels);
    for (int64_t line = top; line < bottom; line++)
        for (int64_t column = left; column < right; column++) {
            const uint8_t *level = row + (line * width + column) * channels;
            for (int64_t c = 0; c < channels; c++)
                pooled[c] = level[c] > pooled[c] ? level[c] : pooled[c];
        }
}

void max_pool(const pooling *given)
{
    const pooling p = *given;
    for (int64_t i = 0; i < p.index_size; i++)
        p.named[p.index[i]] = 1;
#pragma omp parallel for collapse(2) schedule(dynamic, 8) num_threads(p.threads)
    for (int64_t row = 0; row < p.rows; row++)
        for (int64_t y = 0; y < p.pooled_height; y++) {
            if (!p.named[row])
                continue;
            const int64_t top = y * p.sy - p.py, bottom = least(top + p.kh, p.height);
            uint8_t *pooled = p.pooled + (row * p.pooled_height + y) * p.pooled_width * p.channels;
            for (int64_t x = 0; x < p.pooled_width; x++) {
                const int64_t left = x * p.sx - p.px, right = least(left + p.kw, p.width);
                largest(p.values + row * p.height * p.width * p.channels, p.width, p.channels, top < 0 ? 0 : top,
                        bottom, left < 0 ? 0 : left, right, pooled + x * p.channels);
            }
        }
}
