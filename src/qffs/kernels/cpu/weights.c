// Sums of rows of weights, each the weights of one unit to the neurons of a block.
//
// Where DIGITS is set, a weight has two digits of 16 bits: it is its neuron's `unit` times (`rows` + `fine` / FINE).
// First digits are read from a core's cache in half the time, and their sums are exact. What they leave out seldom
// matters; second digits are added where it might, near a threshold.
// The idea is that of adaptive precision: J. R. Shewchuk, Adaptive Precision Floating-Point Arithmetic and Fast
// Robust Geometric Predicates, 1997.

// The weights of the block that starts with a neuron, with rows counted from `first` on.
INLINE weights from_row(const weights *w, int64_t neuron, int64_t rows, int64_t first, int64_t block)
{
    const int64_t at = neuron * rows + first * block;
#if DIGITS
    const int16_t *fine = w->fine + neuron * rows + first * LANES;
    return (weights){(const int16_t *)w->rows + at, fine, w->unit + neuron, w->left + neuron};
#else
    return (weights){(const real *)w->rows + at, NULL, NULL, NULL};
#endif
}

#if DIGITS
#define FINE (1 << 15)
#define PAIRED 4 // vectors of a block: of fewer, a sum would wait for itself
typedef integers sum; // of first digits

INLINE void add_rows(const int vectors, const weights *w, const int32_t *row, const int32_t *end, sum *sums)
{
    for (; row < end; row++) {
        const int16_t *from = (const int16_t *)w->rows + (int64_t)*row * LANES * vectors;
        if (vectors < PAIRED)
            EACH_VECTOR(v)
                sums[v] += from_shorts(from + v * LANES);
        else
            EACH_PAIR(v)
                add_pair(sums + v, sums + v + 1, from + v * LANES);
    }
}

INLINE vector value(const weights *w, int v, sum of) { return to_reals(of) * ((const vector *)w->unit)[v]; }

// What the second digits of vector v add.
INLINE sum add_fine_rows(const weights *w, int64_t rows, int64_t v, const int32_t *row, const int32_t *end)
{
    sum fine = {0};
    for (; row < end; row++)
        fine += from_shorts(w->fine + (v * rows + *row) * LANES);
    return fine;
}
#else
typedef vector sum;

INLINE void add_rows(const int vectors, const weights *w, const int32_t *row, const int32_t *end, sum *sums)
{
    for (; row < end; row++)
        EACH_VECTOR(v)
            sums[v] += ((const vector *)((const real *)w->rows + (int64_t)*row * LANES * vectors))[v];
}

INLINE vector value(const weights *w, int v, sum of)
{
    (void)w, (void)v;
    return of;
}
#endif
