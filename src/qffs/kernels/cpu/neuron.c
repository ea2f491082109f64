// All steps of a layer of neurons in one pass: see fire_native.py, which calls it, and native.py, which compiles it for
// one type of `real`, for neurons that lose more of their potential than a threshold a spike (LOSES) or not, and for
// weights of two digits (DIGITS) or whole ones.
#include "scatter.h"
#include <omp.h>

#define PARTS 16 // of an image without synapses
#define TILES 4  // for each thread, where a layer behind synapses has as many
#define SURE 4 // standard deviations of what first digits leave out: beyond, it is taken not to matter

// An accumulated signal: the row that image b holds after step t is place[t * images + b], of `real`, or of levels
// (uint8_t), which are multiples of a scale.
typedef struct {
    const void *values;
    const int64_t *place;
    int64_t levels;
    double scale;
} input;

typedef struct {
    const input *inputs;
    int64_t input_count;
    synapses *sources;
    int64_t source_count;
    const real *constant; // [1 or images][neurons], or NULL; [1 or images][channels] where they are all that it knows
    int64_t constant_stride, constant_of_channels;
    const double *charged;
    int64_t steps, images, height, width, channels, block;
    const real *threshold;
    int64_t by_neuron;
    double precharge, highest, leak;
    int64_t negative_spikes, cap, to_zero, threads;
    int64_t listed;   // numbers in the lists, or sums, of a tile that is more than a row
    uint8_t *sent;    // [steps][images][neurons], levels after each step
    uint8_t *changes; // [steps][images], whether any neuron fired; where none did, levels need not be written
    uint8_t *ended;   // [images][blocks of neurons], how many steps were computed
    int64_t *place;   // [steps][images], the row of `sent` that an image holds after each step
    int32_t *scratch; // as many numbers as scratch_size says: dictionaries of the sources, lists or sums of the threads
} layer;

INLINE dictionary *dictionaries(const layer *l) { return (dictionary *)l->scratch; }

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

#define SCATTERED(s) (!DIGITS && (s)->scattered) // sums of digits are lists' alone

// Add up what arrives at each step of a window; returned: a bit for each at which anything does.
typedef unsigned arrive(const layer *l, field *fields, int64_t window, vector arrives[WINDOW][MOST_VECTORS]);
#define ARRIVE(vectors)                                                                                                \
    static __attribute__((noinline)) unsigned arrive_##vectors(const layer *l, field *fields, int64_t window,          \
                                                               vector arrives[WINDOW][MOST_VECTORS])                   \
    {                                                                                                                  \
        unsigned moved = 0;                                                                                            \
        for (int64_t j = 0; j < l->source_count; j++)                                                                  \
            if (SCATTERED(l->sources + j))                                                                             \
                moved = add_sums(vectors, l->sources + j, fields + j, window, moved, arrives);                         \
            else                                                                                                       \
                moved = add_trains(vectors, dictionaries(l) + j, l->sources + j, fields + j, window, moved, arrives);  \
        return moved;                                                                                                  \
    }
ARRIVE(1)
ARRIVE(2)
ARRIVE(4)
ARRIVE(8)

#if DIGITS
// How far from its threshold a potential has to be for second digits not to matter.
INLINE vector unsure_of(const layer *l, const field *fields, int v)
{
    vector unsure = {0};
    for (int64_t j = 0; j < l->source_count; j++)
        unsure += (real)(SURE * l->sources[j].scale * fields[j].spread) * ((const vector *)fields[j].weights.left)[v];
    return unsure;
}

// What second digits add to what arrived at vector v until step t; to what arrives later in its window they are added
// here. `refined`: of how many windows that was done.
static __attribute__((noinline)) vector refine(const layer *l, const field *fields, int64_t t, int64_t v,
                                               unsigned moved, int64_t *refined, vector arrives[WINDOW][MOST_VECTORS])
{
    vector until = {0};
    for (; *refined <= t / WINDOW; ++*refined) {
        vector left[WINDOW] = {0};
        for (int64_t j = 0; j < l->source_count; j++)
            add_fine(dictionaries(l) + j, l->sources + j, fields + j, *refined, v, left);
        for (int64_t step = 0; step < WINDOW; step++)
            if (*refined * WINDOW + step <= t)
                until += left[step];
            else if (moved >> step & 1)
                arrives[step][v] += left[step];
    }
    return until;
}
#endif

// All steps of `size` neurons of image b, those from `start` on, in so many vectors, where `rest` channels are left;
// where synapses lead to them, they read these fields. Returned: the step from which on they are not computed, and not
// written, because nothing arrives from step `end` on and they have settled. Neurons that lose more of their potential
// than a threshold a spike keep how much is `gone` of all that ever arrived; of others that is what they sent.
INLINE int64_t run(const int vectors, const int64_t size, arrive *const arrive, const layer *l, int64_t b,
                   int64_t start, int64_t rest, field *fields, int64_t end, uint8_t *fired)
{
    const int64_t neurons = l->height * l->width * l->channels;
    const int64_t place = !l->constant_of_channels ? start : rest < l->channels ? l->channels - rest : 0;
    const int64_t within = l->constant_of_channels ? l->block - 1 : INT64_MAX; // a block is a power of two
    const real *constant = l->constant ? l->constant + b * l->constant_stride + place : NULL;
    const vector zero = {0}, one = zero + 1, highest = zero + (real)(l->cap ? l->highest : MOST_STEPS);
    const vector lowest = l->negative_spikes ? zero : highest; // of a neuron that never sends back: none is above it
    vector theta[MOST_VECTORS], sent[MOST_VECTORS], arrived[MOST_VECTORS], base[MOST_VECTORS], gone[MOST_VECTORS];
    vector arrives[WINDOW][MOST_VECTORS] __attribute__((aligned(64)));
#if DIGITS
    vector unsure[MOST_VECTORS];
    int64_t refined[MOST_VECTORS] = {0};
#endif
    unsigned moved = 0;
    int active = 1;
#define COUNT (size > v * LANES ? (size - v * LANES < LANES ? size - v * LANES : LANES) : 0)
    EACH_VECTOR(v) {
        theta[v] = zero + *l->threshold;
        if (l->by_neuron)
            theta[v] = numbers(l->threshold + start + v * LANES, COUNT);
        base[v] = theta[v] * (real)l->precharge;
        sent[v] = arrived[v] = zero;
        if (LOSES)
            gone[v] = (real)(1 - l->leak) * base[v];
    }
    for (int64_t t = 0; t < l->steps; t++) {
        if (t % WINDOW == 0) {
            moved = arrive(l, fields, t / WINDOW, arrives);
#if DIGITS
            EACH_VECTOR(v)
                unsure[v] = unsure_of(l, fields, v);
#endif
        }
        const int events = moved >> t % WINDOW & 1;
        uint8_t *out = l->sent + (t * l->images + b) * neurons + start;
        const int rests = !events && !active && !(LOSES && l->leak != 1);
        if (rests && t >= end)
            return t;
        if (rests && still(l, b, t)) {
            memcpy(out, out - l->images * neurons, size);
            continue;
        }
        if (events)
            EACH_VECTOR(v)
                arrived[v] += arrives[t % WINDOW][v];
        if (constant && l->charged[t] != (t ? l->charged[t - 1] : 0))
            EACH_VECTOR(v) {
                base[v] = theta[v] * (real)l->precharge;
                if (l->charged[t] != 0)
                    base[v] += (real)l->charged[t] * numbers(constant + (v * LANES & within), COUNT);
            }
        lanes any = (lanes){0};
        EACH_VECTOR(v) {
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
#if DIGITS
            const lanes near_up = below(magnitude(potential - theta[v]), unsure[v]) & below(sent[v], highest);
            const lanes near_down = below(magnitude(potential), unsure[v]) & below(lowest, sent[v]);
            if (some(near_up | near_down)) {
                const vector added = refine(l, fields, t, v, moved, refined + v, arrives);
                arrived[v] += added;
                potential += added;
                unsure[v] = zero;
            }
#endif
            lanes up = at_least(potential, theta[v]) & below(sent[v], highest);
            if (COUNT < LANES) // what is no neuron does not fire
                up &= first(COUNT);
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

// The neurons of a block from `start` on, of which `rest` are left: in vectors that all are neurons, or not.
#define RUN_BLOCK(vectors)                                                                                             \
    static __attribute__((noinline)) int64_t run_##vectors(const layer *l, int64_t b, int64_t start, int64_t rest,     \
                                                           field *fields, int64_t end, uint8_t *fired)                 \
    {                                                                                                                  \
        if (rest >= LANES * vectors)                                                                                   \
            return run(vectors, LANES * vectors, arrive_##vectors, l, b, start, rest, fields, end, fired);             \
        return run(vectors, rest, arrive_##vectors, l, b, start, rest, fields, end, fired);                            \
    }
RUN_BLOCK(1)
RUN_BLOCK(2)
RUN_BLOCK(4)
RUN_BLOCK(8)

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
    const int64_t size = 4 * LANES, blocks = (l->channels + size - 1) / size;
#pragma omp parallel num_threads(l->threads)
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < l->images; b++)
            for (int64_t part = 0; part < PARTS; part++) {
                uint8_t fired[MOST_STEPS] = {0};
                const int64_t end = last_arrival(l, b);
                for (int64_t block = blocks * part / PARTS; block < blocks * (part + 1) / PARTS; block++)
                    l->ended[b * blocks + block] =
                        run_4(l, b, block * size, l->channels - block * size, NULL, end, fired);
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

// A layer behind synapses is computed in tiles: so many rows of one image, or whole images, and of their blocks of
// channels all or one of so many parts.
typedef struct {
    int64_t images, rows, parts;
} tile;

// How many columns of neurons are taken at a time: more than one where they, and their sums, lie beside each other.
static int64_t columns_of(const layer *l)
{
    for (int64_t j = 0; j < l->source_count; j++)
        if (!SCATTERED(l->sources + j))
            return 1;
    int64_t columns = l->channels == l->block && l->block < TOGETHER * LANES ? TOGETHER * LANES / l->block : 1;
    while (columns > l->width)
        columns /= 2;
    return columns;
}

INLINE int64_t blocks_of(const layer *l) { return ratio_up(l->channels, l->block); }

// How many numbers a source's lists, or sums, of an image take in a tile.
static int64_t image_size(const layer *l, const synapses *s, int64_t rows)
{
    if (SCATTERED(s))
        return arrivals_size(s, l->steps, rows, l->width, l->block);
    return lists_size(s, windows_of(l->steps), least((rows - 1) * s->sy + s->kh, s->height), rows);
}

static tile tile_of(const layer *l)
{
    int64_t row = 1;
    if (!l->images)
        return (tile){1, l->height, 1};
    for (int64_t j = 0; j < l->source_count; j++)
        row += image_size(l, l->sources + j, 1);
    const int64_t share = ratio_up(l->images * l->height, TILES * l->threads), fits = l->listed / row;
    const int64_t rows = fits < 1 ? 1 : least(fits, share);
    if (rows >= l->height)
        return (tile){rows / l->height, l->height, 1};
    const int64_t bands = ratio_up(l->height, rows), parts = ratio_up(TILES * l->threads, l->images * bands);
    return (tile){1, ratio_up(l->height, bands), least(parts, blocks_of(l))};
}

static int64_t thread_size(const layer *l, tile tile)
{
    int64_t size = 0;
    for (int64_t j = 0; j < l->source_count; j++)
        size += (SCATTERED(l->sources + j) ? 1 : tile.images) * image_size(l, l->sources + j, tile.rows);
    return size;
}

INLINE int64_t dictionaries_size(const layer *l)
{
    return ratio_up(l->source_count * sizeof(dictionary) / sizeof(int32_t), 16) * 16;
}

// How many numbers `scratch` has to hold; where what a layer reads is not `known` yet, at most.
int64_t scratch_size(const layer *l, int64_t known)
{
    for (int64_t j = 0; j < l->source_count; j++) {
        synapses *s = l->sources + j;
        s->moving = known ? most_moves(s, l->steps, l->images) : l->steps;
        s->scattered &= arrivals_size(s, l->steps, 1, l->width, l->block) <= l->listed; // or lists are shorter
    }
    return dictionaries_size(l) + l->threads * thread_size(l, tile_of(l));
}

// The rows [y, y + rows) of images [image, image + images), in blocks [from, to).
static void run_tile(const layer *l, tile tile, int64_t image, int64_t images, int64_t y, int64_t rows, int64_t from,
                     int64_t to, int32_t *memory)
{
    const int64_t windows = windows_of(l->steps), columns = columns_of(l);
    lists lists[l->source_count][images];
    arrivals arrivals[l->source_count]; // of an image and a block at a time
    for (int64_t j = 0; j < l->source_count; j++) {
        const synapses *s = l->sources + j;
        const range lines = lines_read(s, y, rows);
        if (SCATTERED(s)) {
            arrivals[j] = lay_out_arrivals(s, l->steps, rows, l->width, l->block, memory);
            memory += image_size(l, s, tile.rows);
            continue;
        }
        for (int64_t i = 0; i < images; i++, memory += image_size(l, s, tile.rows)) {
            lists[j][i] = lay_out(s, windows, lines.to - lines.from, rows, memory);
            list_units(dictionaries(l) + j, s, &lists[j][i], l->steps, l->images, image + i, lines);
            list_events(dictionaries(l) + j, s, &lists[j][i], windows, y, rows, lines);
        }
    }
    // Channels outside: the weights of a block stay in a core's cache for all images.
    for (int64_t block = from; block < to; block++)
        for (int64_t i = 0; i < images; i++) {
            for (int64_t j = 0; j < l->source_count; j++)
                if (SCATTERED(l->sources + j))
                    scatter(l->sources + j, l->images, image + i, y, rows, block * l->block, l->block,
                            arrivals + j);
            for (int64_t row = 0; row < rows; row++) {
                uint8_t fired[MOST_STEPS] = {0};
                const int64_t b = image + i, end = last_arrival(l, b), channel = block * l->block;
                uint8_t *ended = l->ended + ((b * l->height + y + row) * blocks_of(l) + block) * l->width;
                for (int64_t x = 0; x < l->width; x += columns) {
                    const int64_t start = ((y + row) * l->width + x) * l->channels + channel;
                    const int64_t taken = least(columns, l->width - x), rest = taken * l->channels - channel;
                    int64_t until = 0;
                    field fields[l->source_count];
                    for (int64_t j = 0; j < l->source_count; j++)
                        fields[j] = SCATTERED(l->sources + j)
                                        ? find_sums(l->sources + j, arrivals + j, row, x, taken, l->block)
                                        : find_field(dictionaries(l) + j, l->sources + j, &lists[j][i], windows, row, x,
                                                     channel, l->block);
                    switch (columns * l->block / LANES) {
                    case 1: until = run_1(l, b, start, rest, fields, end, fired); break;
                    case 2: until = run_2(l, b, start, rest, fields, end, fired); break;
                    case 4: until = run_4(l, b, start, rest, fields, end, fired); break;
                    case 8: until = run_8(l, b, start, rest, fields, end, fired); break;
                    }
                    memset(ended + x, (uint8_t)until, taken);
                }
                report(l, b, fired);
            }
        }
}

static void with_synapses(const layer *l)
{
    const tile tile = tile_of(l);
    const int64_t blocks = blocks_of(l), size = thread_size(l, tile);
    for (int64_t j = 0; j < l->source_count; j++)
        if (!SCATTERED(l->sources + j))
            choose_trains(dictionaries(l) + j, l->sources + j, l->steps, l->images, l->block);
#pragma omp parallel num_threads(l->threads)
    {
        int32_t *memory = l->scratch + dictionaries_size(l) + omp_get_thread_num() * size;
#pragma omp for collapse(3) schedule(dynamic)
        for (int64_t image = 0; image < l->images; image += tile.images)
            for (int64_t y = 0; y < l->height; y += tile.rows)
                for (int64_t part = 0; part < tile.parts; part++)
                    run_tile(l, tile, image, least(tile.images, l->images - image), y,
                             least(tile.rows, l->height - y), blocks * part / tile.parts,
                             blocks * (part + 1) / tile.parts, memory);
#pragma omp for collapse(3) schedule(static)
        for (int64_t b = 0; b < l->images; b++)
            for (int64_t y = 0; y < l->height; y++)
                for (int64_t block = 0; block < blocks; block++)
                    for (int64_t x = 0; x < l->width; x++)
                        complete(l, b, (y * l->width + x) * l->channels + block * l->block,
                                 least(l->block, l->channels - block * l->block),
                                 l->ended[((b * l->height + y) * blocks + block) * l->width + x]);
    }
}

void fire(const layer *l)
{
    if (l->source_count)
        with_synapses(l);
    else
        without_synapses(l);
    for (int64_t t = 0; t < l->steps; t++)
        for (int64_t i = t * l->images; i < (t + 1) * l->images; i++)
            l->place[i] = !t || l->changes[i] ? i : l->place[i - l->images];
}
