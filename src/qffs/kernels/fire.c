// All steps of a layer of neurons in one pass: see fire.py, which compiles and calls it for one type of `real`, and
// again for neurons that lose more of their potential than a threshold a spike (LOSES).
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

typedef REAL real;

// An accumulated signal: the row that image b holds after step t is place[t * images + b], of `real`, or of levels
// (uint8_t), which are multiples of a scale.
typedef struct {
    const void *values;
    const int64_t *place;
    int64_t levels;
    double scale;
} input;

// Synapses from levels, rows of [height][width][channels], to neurons at [y][x]: a kernel of kh x kw, its first row at
// y * sy - py. weights: [block][sign][kh][kw][channels][neurons of the block], those of spikes, and the same negated,
// of negative spikes: levels change by one at most. An event is the place x * channels + c of a unit in a row of the
// image, and the size of a kernel more where it is negative. For each image of a group and each of its rows there is
// room for so many, those of all steps one after the other; where those of a column of a step begin is in offsets,
// [image][row][steps][width + 1].
typedef struct {
    const uint8_t *values;
    const int64_t *place;
    double scale;
    int64_t height, width, channels, kh, kw, sy, sx, py, px;
    const real *weights;
    int32_t *events;
    int32_t *offsets;
    int64_t room;
} synapses;

typedef struct {
    const input *inputs;
    int64_t input_count;
    const synapses *sources;
    int64_t source_count;
    const real *constant; // [1 or images][neurons], or NULL
    int64_t constant_stride;
    const double *charged;
    int64_t steps, images, height, width, channels, group, block;
    const real *threshold;
    int64_t by_neuron;
    double precharge, highest, leak;
    int64_t negative_spikes, cap, to_zero, threads;
    uint8_t *sent;    // [steps][images][neurons], levels after each step
    uint8_t *changes; // [steps][images], whether any neuron fired; where none did, levels need not be written
    uint8_t *ended;   // [images of a group][blocks of neurons], how many steps were computed
} layer;

// Neurons are taken so many vectors at a time: what they carry from step to step stays in registers.
#define LANES (64 / (int64_t)sizeof(real)) // a register of AVX-512, several of others
#define WIDE 4
#define PARTS 16 // of an image without synapses
#define MOST_STEPS 256
typedef real vector __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real)), may_alias));
#define INLINE static inline __attribute__((always_inline))

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
#endif

// A bit for each of the first `count` bytes, at most 64, that is larger than the other.
INLINE uint64_t larger(const uint8_t *one, const uint8_t *other, int64_t count)
{
#ifdef __AVX512BW__
    const __mmask64 read = count < 64 ? ((uint64_t)1 << count) - 1 : ~(uint64_t)0;
    return _mm512_cmpgt_epu8_mask(_mm512_maskz_loadu_epi8(read, one), _mm512_maskz_loadu_epi8(read, other));
#else
    uint64_t bits = 0;
    for (int64_t i = 0; i < count && i < 64; i++)
        bits |= (uint64_t)(one[i] > other[i]) << i;
    return bits;
#endif
}

// Numbers from `start` on of set bits, `more` being added where those of `down` are set too; returned: how many. Up to
// LISTED places behind them are written to.
#define LISTED 16
INLINE int32_t list(int32_t start, uint64_t bits, uint64_t down, int32_t more, int32_t *to)
{
    int32_t found = 0;
#ifdef __AVX512BW__
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (; bits; bits >>= LISTED, down >>= LISTED, start += LISTED) {
        const __m512i place = _mm512_add_epi32(_mm512_set1_epi32(start), count);
        const __m512i all = _mm512_mask_add_epi32(place, (__mmask16)down, place, _mm512_set1_epi32(more));
        _mm512_storeu_si512(to + found, _mm512_maskz_compress_epi32((__mmask16)bits, all));
        found += __builtin_popcountll(bits & 0xffff);
    }
#else
    for (; bits; bits &= bits - 1, found++) {
        const int i = __builtin_ctzll(bits);
        to[found] = start + i + (down >> i & 1 ? more : 0);
    }
#endif
    return found;
}

static const uint8_t NONE[64];

// What happened in a row of an image, step by step.
static void find_events(const synapses *s, int64_t steps, int64_t images, int64_t b, int64_t line, int32_t *events,
                        int32_t *offsets)
{
    const int64_t size = s->width * s->channels;
    const int32_t negative = (int32_t)(s->kh * s->kw * s->channels);
    int32_t found = 0;
    for (int64_t t = 0; t < steps; t++, offsets += s->width + 1) {
        const int64_t row = s->place[t * images + b], before = t ? s->place[(t - 1) * images + b] : -1;
        const uint8_t *now = s->values + (row * s->height + line) * size;
        const uint8_t *old = t ? s->values + (before * s->height + line) * size : NULL;
        int64_t column = 0;
        for (int64_t start = 0; row != before && start < size; start += 64) {
            const int64_t count = size - start < 64 ? size - start : 64;
            const uint8_t *z = now + start, *y = old ? old + start : NONE;
            const uint64_t down = larger(y, z, count);
            const uint64_t bits = larger(z, y, count) | down;
            for (; column * s->channels < start + count; column++)
                offsets[column] = found + __builtin_popcountll(bits & (((uint64_t)1 << (column * s->channels - start)) - 1));
            found += list((int32_t)start, bits, down, negative, events + found);
        }
        for (; column <= s->width; column++)
            offsets[column] = found;
    }
}

// A row of the field of the neurons at (y, x): where its events lie, those of a step between two offsets that are so
// many further for each step, and the weights of the row's first unit.
typedef struct {
    const int32_t *events, *from, *to;
    const real *weights;
    int64_t stride, source;
} line;

// The rows of the field of neurons, of all sources.
INLINE int64_t find_lines(const int64_t size, const layer *l, int64_t image, int64_t y, int64_t x, int64_t channel,
                          line *lines)
{
    int64_t found = 0;
    for (int64_t j = 0; j < l->source_count; j++) {
        const synapses *s = l->sources + j;
        const int64_t top = y * s->sy - s->py, left = x * s->sx - s->px;
        const int64_t first = top < 0 ? 0 : top, last = top + s->kh < s->height ? top + s->kh : s->height;
        const int64_t from = left < 0 ? 0 : left, to = left + s->kw < s->width ? left + s->kw : s->width;
        for (int64_t row = first; row < last && from < to; row++) {
            const int64_t at = image * s->height + row;
            const int32_t *offsets = s->offsets + at * l->steps * (s->width + 1);
            const int64_t unit = ((row - top) * s->kw - left) * s->channels;
            lines[found++] = (line){
                s->events + at * s->room, offsets + from, offsets + to,
                s->weights + 2 * channel * s->kh * s->kw * s->channels + unit * size, s->width + 1, j};
        }
    }
    return found;
}

// Add the weights of all events of step t in these rows; returned: how many events there were. Few vectors are summed
// in two parts, which do not wait for each other.
INLINE int64_t add_events(const int vectors, const layer *l, const line *lines, int64_t line_count, int64_t t,
                          vector *arrived)
{
    const int parts = vectors < WIDE ? 2 : 1;
    int64_t count = 0;
    for (int64_t i = 0; i < line_count;) {
        const int64_t source = lines[i].source;
        vector sum[parts][vectors];
        for (int part = 0; part < parts; part++)
            for (int v = 0; v < vectors; v++)
                sum[part][v] = (vector){0};
        for (; i < line_count && lines[i].source == source; i++) {
            const line *r = lines + i;
            const int32_t *e = r->events + r->from[t * r->stride], *end = r->events + r->to[t * r->stride];
            count += end - e;
            for (; e + parts <= end; e += parts)
                for (int part = 0; part < parts; part++)
                    for (int v = 0; v < vectors; v++)
                        sum[part][v] += ((const vector *)(r->weights + (int64_t)e[part] * LANES * vectors))[v];
            if (parts > 1 && e < end)
                for (int v = 0; v < vectors; v++)
                    sum[0][v] += ((const vector *)(r->weights + (int64_t)*e * LANES * vectors))[v];
        }
        for (int v = 0; v < vectors; v++)
            arrived[v] += (real)l->sources[source].scale * (sum[0][v] + (parts > 1 ? sum[parts - 1][v] : (vector){0}));
    }
    return count;
}

// Whether nothing arrives at the neurons of image b at a step.
static int still(const layer *l, int64_t b, int64_t t)
{
    const int64_t now = t * l->images + b, before = now - l->images;
    if (!t || l->charged[t] != l->charged[t - 1])
        return 0;
    for (int64_t j = 0; j < l->input_count; j++)
        if (l->inputs[j].place[now] != l->inputs[j].place[before])
            return 0;
    for (int64_t j = 0; j < l->source_count; j++)
        if (l->sources[j].place[now] != l->sources[j].place[before])
            return 0;
    return 1;
}

// The step from which on nothing arrives any more.
static int64_t last_arrival(const layer *l, int64_t b)
{
    int64_t t = l->steps;
    while (t && still(l, b, t - 1))
        t--;
    return t;
}

// The first `count` of LANES numbers, or levels; a constant count is a single read.
INLINE vector numbers(const real *from, int64_t count)
{
    vector read = {0};
    memcpy(&read, from, count * sizeof(real));
    return read;
}

INLINE vector levels(const uint8_t *from, int64_t count)
{
    uint8_t read[LANES] = {0};
    if (count == LANES)
        return from_bytes(from);
    memcpy(read, from, count);
    return from_bytes(read);
}

// All steps of `size` neurons of image b, those from `start` on, in so many vectors; where synapses lead to them, they
// are at (y, x) from channel `channel` on. Returned: the step from which on they are not computed, and not written,
// because nothing arrives from step `end` on and they have settled. Neurons that lose more of their potential than a
// threshold a spike keep how much is `gone` of all that ever arrived; of others that is what they sent.
INLINE int64_t run(const int vectors, const int64_t size, const layer *l, int64_t b, int64_t image, int64_t start,
                   int64_t y, int64_t x, int64_t channel, int64_t end, uint8_t *fired)
{
    const int64_t neurons = l->height * l->width * l->channels;
    const vector zero = {0}, one = zero + 1, highest = zero + (real)(l->cap ? l->highest : MOST_STEPS);
    const vector lowest = l->negative_spikes ? zero : highest; // of a neuron that never sends back: none is above it
    vector theta[vectors], sent[vectors], arrived[vectors], base[vectors], gone[vectors];
    int64_t rows = 0;
    for (int64_t j = 0; j < l->source_count; j++)
        rows += l->sources[j].kh;
    line lines[rows + 1];
    const int64_t line_count = find_lines(LANES * vectors, l, image, y, x, channel, lines);
    int active = 1;
#define COUNT (size > v * LANES ? (size - v * LANES < LANES ? size - v * LANES : LANES) : 0)
    for (int v = 0; v < vectors; v++) {
        theta[v] = zero + *l->threshold;
        if (l->by_neuron)
            theta[v] = numbers(l->threshold + start + v * LANES, COUNT);
        theta[v] = add_at(at_least(zero, theta[v]), theta[v], one); // of what is no neuron, which must not fire
        base[v] = theta[v] * (real)l->precharge;
        sent[v] = arrived[v] = zero;
        if (LOSES)
            gone[v] = (real)(1 - l->leak) * base[v];
    }
    for (int64_t t = 0; t < l->steps; t++) {
        const int64_t events = add_events(vectors, l, lines, line_count, t, arrived);
        uint8_t *out = l->sent + (t * l->images + b) * neurons + start;
        const int rests = !events && !active && !(LOSES && l->leak != 1);
        if (rests && t >= end)
            return t;
        if (rests && still(l, b, t)) {
            memcpy(out, out - l->images * neurons, size);
            continue;
        }
        if (l->constant && l->charged[t] != (t ? l->charged[t - 1] : 0))
            for (int v = 0; v < vectors; v++) {
                base[v] = theta[v] * (real)l->precharge;
                if (l->charged[t] != 0)
                    base[v] += (real)l->charged[t] * numbers(l->constant + b * l->constant_stride + start + v * LANES, COUNT);
            }
        lanes any = (lanes){0};
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            vector potential = base[v] + arrived[v];
            for (int64_t j = 0; j < l->input_count; j++) {
                const input *in = l->inputs + j;
                const int64_t from = in->place[t * l->images + b] * neurons + start + v * LANES;
                if (in->levels)
                    potential += (real)in->scale * levels((const uint8_t *)in->values + from, COUNT);
                else
                    potential += numbers((const real *)in->values + from, COUNT);
            }
            const vector total = potential;
            const vector taken = theta[v] * sent[v];
            potential -= LOSES ? gone[v] : taken;
            const lanes up = at_least(potential, theta[v]) & below(sent[v], highest);
            const lanes down = below(potential, zero) & below(lowest, sent[v]);
            sent[v] = add_at(down, add_at(up, sent[v], one), -one);
            any |= up | down;
            if (LOSES) {
                potential = l->to_zero ? add_at(up, potential, -potential)
                                       : add_at(up, add_at(down, potential, theta[v]), -theta[v]);
                gone[v] = total - (real)l->leak * potential;
            }
            if (COUNT == LANES)
                to_bytes(sent[v], out + v * LANES);
            else {
                uint8_t level[LANES];
                to_bytes(sent[v], level);
                memcpy(out + v * LANES, level, COUNT);
            }
        }
        active = some(any);
        fired[t] |= active;
    }
    return l->steps;
}

INLINE int64_t run_block(const int vectors, const layer *l, int64_t b, int64_t image, int64_t y, int64_t x,
                         int64_t channel, int64_t end, uint8_t *fired)
{
    const int64_t start = (y * l->width + x) * l->channels + channel, rest = l->channels - channel;
    if (rest >= LANES * vectors)
        return run(vectors, LANES * vectors, l, b, image, start, y, x, channel, end, fired);
    return run(vectors, rest, l, b, image, start, y, x, channel, end, fired);
}

static void report(const layer *l, int64_t b, const uint8_t *fired)
{
    for (int64_t t = 0; t < l->steps; t++)
        if (fired[t]) {
#pragma omp atomic write
            l->changes[t * l->images + b] = 1;
        }
}

// What settled neurons hold, at the steps at which others of the image still fired.
static void complete(const layer *l, int64_t b, int64_t first, int64_t size, int64_t ended)
{
    const int64_t neurons = l->height * l->width * l->channels;
    int64_t last = l->steps;
    while (last > ended && !l->changes[(last - 1) * l->images + b])
        last--;
    for (int64_t t = ended; t < last; t++) {
        uint8_t *out = l->sent + (t * l->images + b) * neurons + first;
        memcpy(out, out - l->images * neurons, size);
    }
}

static void without_synapses(const layer *l)
{
    const int64_t size = LANES * WIDE, blocks = (l->channels + size - 1) / size;
#pragma omp parallel num_threads(l->threads)
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < l->images; b++)
            for (int64_t part = 0; part < PARTS; part++) {
                uint8_t fired[MOST_STEPS] = {0};
                const int64_t end = last_arrival(l, b);
                for (int64_t block = blocks * part / PARTS; block < blocks * (part + 1) / PARTS; block++)
                    l->ended[b * blocks + block] = run_block(WIDE, l, b, 0, 0, 0, block * size, end, fired);
                report(l, b, fired);
            }
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < l->images; b++)
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t rest = l->channels - block * size;
                complete(l, b, block * size, rest < size ? rest : size, l->ended[b * blocks + block]);
            }
    }
}

static void with_synapses(const layer *l)
{
    const int64_t blocks = (l->channels + l->block - 1) / l->block;
#pragma omp parallel num_threads(l->threads)
    for (int64_t group = 0; group < l->images; group += l->group) {
        const int64_t images = l->images - group < l->group ? l->images - group : l->group;
        for (int64_t j = 0; j < l->source_count; j++) {
            const synapses *s = l->sources + j;
#pragma omp for collapse(2) schedule(static)
            for (int64_t image = 0; image < images; image++)
                for (int64_t y = 0; y < s->height; y++) {
                    const int64_t at = image * s->height + y;
                    find_events(s, l->steps, l->images, group + image, y, s->events + at * s->room,
                                s->offsets + at * l->steps * (s->width + 1));
                }
        }
        // Channels outside: the weights of a block stay in a core's cache for all images.
#pragma omp for collapse(3) schedule(static)
        for (int64_t block = 0; block < blocks; block++)
            for (int64_t image = 0; image < images; image++)
                for (int64_t y = 0; y < l->height; y++) {
                    uint8_t fired[MOST_STEPS] = {0};
                    const int64_t b = group + image, end = last_arrival(l, b), channel = block * l->block;
                    uint8_t *ended = l->ended + ((image * l->height + y) * blocks + block) * l->width;
                    for (int64_t x = 0; x < l->width; x++)
                        switch (l->block / LANES) {
                        case 1: ended[x] = run_block(1, l, b, image, y, x, channel, end, fired); break;
                        case 2: ended[x] = run_block(2, l, b, image, y, x, channel, end, fired); break;
                        case 4: ended[x] = run_block(4, l, b, image, y, x, channel, end, fired); break;
                        case 8: ended[x] = run_block(8, l, b, image, y, x, channel, end, fired); break;
                        }
                    report(l, b, fired);
                }
#pragma omp for collapse(3) schedule(static)
        for (int64_t image = 0; image < images; image++)
            for (int64_t y = 0; y < l->height; y++)
                for (int64_t block = 0; block < blocks; block++)
                    for (int64_t x = 0; x < l->width; x++) {
                        const int64_t channel = block * l->block, rest = l->channels - channel;
                        complete(l, group + image, (y * l->width + x) * l->channels + channel,
                                 rest < l->block ? rest : l->block,
                                 l->ended[((image * l->height + y) * blocks + block) * l->width + x]);
                    }
    }
}

void fire(const layer *l)
{
    if (l->source_count)
        with_synapses(l);
    else
        without_synapses(l);
}

// Positive and negative spikes of each step, [2][steps], of levels, rows of `size`.
void count(const uint8_t *values, const int64_t *place, int64_t steps, int64_t images, int64_t size, int64_t threads,
           int64_t *spikes)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < steps; t++) {
        int64_t up = 0, down = 0;
        for (int64_t b = 0; b < images; b++) {
            const int64_t row = place[t * images + b], before = t ? place[(t - 1) * images + b] : -1;
            for (int64_t i = 0; row != before && i < size; i += 64) {
                const uint8_t *z = values + row * size + i, *y = t ? values + before * size + i : NONE;
                up += __builtin_popcountll(larger(z, y, size - i));
                down += __builtin_popcountll(larger(y, z, size - i));
            }
        }
        spikes[t] = up;
        spikes[steps + t] = down;
    }
}
