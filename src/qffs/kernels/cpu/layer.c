// A layer of spiking neurons and the synapses before it, all steps in one call. Start to read here.
//
// The equations. For each neuron of each image, at steps t = 0, 1, ..., with everything added up over time:
//
//   arrived    A_t = precharge theta + c_t constant + sum of inputs_t + sum over sources of scale W z_t
//   potential  u_t = A_t - theta Z_(t-1)
//   spike      s_t = +1 where u_t >= theta and Z_(t-1) < highest
//              s_t = -1 where u_t < 0 and Z_(t-1) > 0, of neurons that send negative spikes
//   level      Z_t = Z_(t-1) + s_t, from Z_(-1) = 0
//
// W are the weights of a convolution or of a linear layer, and z_t the levels of the units (the neurons before them),
// bytes that change by at most one per step; c_t is how much of the constant has arrived. A potential is not stored: it
// is what has arrived less what was sent. Where a potential decays, or a spike resets it to zero (LOSES), neurons store
// G_(t-1) = A_(t-1) - decay u'_(t-1) instead of theta Z_(t-1), where u' is the potential after the spike.
//
// Windows and trains. W z_t is not computed again at each step: a unit adds its weights when it spikes, and a unit that
// does not spike costs nothing. Steps are taken in windows of 8; what a unit sends in a window is its train.
//
//   step       0 1 2 3 4 5 6 7 | 8 9 ...
//   level z    0 1 1 2 2 2 1 1 | 1 2 ...      of one unit; in memory levels are [step][image][y][x][channel]
//   rises      . ^ . ^ . . . . | . ^
//   falls      . . . . . . v . | . .
//   train      rises 00001010, falls 01000000 in binary, step 0 on the right: a code of 16 bits (spike_trains.c)
//
// Units that send the same train in a window are listed together (events.c). Their rows of weights are added up once
// for a block of neurons, and the sum arrives at each step of the train with its sign. Where a block has few weights, a
// list costs more than it saves: there the weights of a unit are added whenever it spikes (scatter.c).
//
// Tiles and blocks.
//
//   neurons of one image, [y][x]      neurons at one [y][x], by channel
//   +------------------------+        +----------------+----------------+-----
//   | tile: some rows, whose |        | block: 1, 2, 4 | next block     | ...
//   | lists fit a cache      |        | or 8 vectors   |                |
//   +------------------------+        +----------------+----------------+-----
//   | next tile              |          all its steps are run with its state in registers (neuron.c)
//   +------------------------+
//
// A thread takes a tile (rows of one image, or several small images), lists what the units that it reads send in all
// windows, and runs all steps of one block after the other. A field is the part of the lists that one [y][x] reads.
//
// Why one unit. These files are included in this order and compiled together (compiler.py), once for each type of
// `real`, for LOSES or not, and for weights of two digits (DIGITS) or whole ones (weights.c). All inner functions are
// inlined with the number of vectors as a constant; only so do sums stay in registers. Files with bodies are .c files;
// the .h files hold types, and functions of one instruction or a few lines.
#include "vector.h"

#include "weights.c"

#include "spike_trains.c"

#include "events.c"

#include "scatter.c"

#include "neuron.c"
#include <omp.h>

#define PARTS 16 // of an image without synapses
#define TILES 4  // for each thread, where a layer behind synapses has as many

// What Python compares with its own structures before it calls anything.
const int64_t sizes[] = {sizeof(weights), sizeof(input), sizeof(synapses), sizeof(layer)};

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

// The same layer with `sources` that tell how often they move and how they are added up; `computed`: whether the levels
// that it reads are, so that their changes can be counted.
static layer sized(const layer *given, int64_t computed, synapses *sources)
{
    layer l = *given;
    l.sources = sources;
    for (int64_t j = 0; j < l.source_count; j++) {
        synapses *s = sources + j;
        *s = given->sources[j];
        s->moving = computed ? most_moves(s, l.steps, l.images) : l.steps;
        s->scattered &= arrivals_size(s, l.steps, 1, l.width, l.block) <= l.listed; // or lists are shorter
    }
    return l;
}

// How many numbers `scratch` has to hold; where the levels that a layer reads are not `computed` yet, at most.
int64_t scratch_size(const layer *given, int64_t computed)
{
    synapses sources[given->source_count + 1];
    const layer l = sized(given, computed, sources);
    return dictionaries_size(&l) + l.threads * thread_size(&l, tile_of(&l));
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

void fire(const layer *given)
{
    synapses sources[given->source_count + 1];
    const layer sized_layer = sized(given, 1, sources), *const l = &sized_layer;
    if (l->source_count)
        with_synapses(l);
    else
        without_synapses(l);
    for (int64_t t = 0; t < l->steps; t++)
        for (int64_t i = t * l->images; i < (t + 1) * l->images; i++)
            l->index[i] = !t || l->changes[i] ? i : l->index[i - l->images];
}
