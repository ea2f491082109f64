// What synapses bring to neurons: the weights of spikes, summed up step by step.
//
// What a unit sends within a WINDOW of steps is its spike train, here a code with a bit for each step at which its
// level rises and, a byte higher, for each at which it falls; a level changes by one at most. The weights of units
// whose trains are the same are summed once, however often they spike, and the sum arrives at each step of the
// train. A train that few units send is taken apart into others: single spikes, which have the first numbers, and
// those trains that are worth a sum of their own.
#include "weights.h"

#define WINDOW 8
#define SPIKES (2 * WINDOW)
#define CODES (1 << SPIKES)
#define MOST_STEPS 256
#define TRAINS 64    // a bit for each
#define SAMPLED 8192 // units that are looked at to choose trains
#define GAIN 256     // additions of a number that a train has to save in a field of neurons, on average

// Levels, rows of [height][width][channels], of which image b holds row place[t * images + b] after step t; and
// synapses of kh x kw from them to neurons at [y][x], their first row at y * sy - py, with weights
// [block][kw][kh][channels][neurons of the block]. moving: the most steps at which an image's levels change;
// scattered: whether they are so few weights that scatter.h adds them up.
typedef struct {
    const uint8_t *values;
    const int64_t *place;
    double scale;
    int64_t height, width, channels, kh, kw, sy, sx, py, px;
    weights weights;
    int64_t moving, scattered;
} synapses;

// The trains that are summed, and by code which of them is taken first: 0 for the code's first spike.
typedef struct {
    int64_t count, stride; // count filled up
    uint16_t codes[TRAINS];
    double squares[TRAINS]; // of the units that send one, the mean `square_of` their codes, shared by their trains
    uint8_t number[CODES];
    uint16_t seen[CODES]; // while they are chosen: how often it was sent, at most UINT16_MAX times
    int64_t found;
    uint16_t all[CODES]; // the codes that were
} dictionary;

// What spikes of an image, for some rows of neurons, by windows. Of each line of units that these read: `units` that
// spike, in their order, each as channel * TRAINS + train, `starts`, where those of a column begin, and `counts`,
// how many send a train. Of each row of neurons: `events`, the units of its field, train by train and column by
// column, each as its place (x * kh + ky) * channels + c, `offsets`, where those of a column and train begin, and
// `present`, a bit for each train of a column.
typedef struct {
    uint32_t *units;
    int32_t *starts, *counts, *events, *offsets;
    uint64_t *present;
} lists;

INLINE int64_t windows_of(int64_t steps) { return (steps + WINDOW - 1) / WINDOW; }

static int64_t most_moves(const synapses *s, int64_t steps, int64_t images)
{
    int64_t most = 1;
    for (int64_t b = 0; b < images; b++) {
        int64_t moves = 1;
        for (int64_t t = 1; t < steps; t++)
            moves += s->place[t * images + b] != s->place[(t - 1) * images + b];
        if (moves > most)
            most = moves;
    }
    return most;
}

// How many units of a line may be listed: a unit sends no more trains than there are steps at which anything changes.
INLINE int64_t listed(const synapses *s) { return s->moving * s->width * s->channels; }

// How many numbers the lists of an image take, and where they are.
static int64_t lists_size(const synapses *s, int64_t windows, int64_t lines, int64_t rows)
{
    const int64_t line = listed(s) + windows * (s->width + 1 + TRAINS);
    const int64_t row = s->kh * listed(s) + windows * (s->width + 1) * TRAINS + 2 * windows * s->width;
    return (lines * line + rows * row + 15) / 16 * 16;
}

static lists lay_out(const synapses *s, int64_t windows, int64_t lines, int64_t rows, int32_t *memory)
{
    lists l = {.present = (uint64_t *)memory};
    l.offsets = memory + 2 * rows * windows * s->width;
    l.counts = l.offsets + rows * windows * (s->width + 1) * TRAINS;
    l.starts = l.counts + lines * windows * TRAINS;
    l.events = l.starts + lines * windows * (s->width + 1);
    l.units = (uint32_t *)(l.events + rows * s->kh * listed(s));
    return l;
}

// The lines of units that rows of neurons read, [from, to).
typedef struct {
    int64_t from, to;
} range;

INLINE range lines_read(const synapses *s, int64_t y, int64_t rows)
{
    const int64_t top = y * s->sy - s->py, bottom = top + (rows - 1) * s->sy + s->kh;
    const int64_t from = top < 0 ? 0 : top, to = bottom < s->height ? bottom : s->height;
    return (range){from, to < from ? from : to}; // of padding alone: none
}

// A step of a window at which levels change, with those of a line then and before.
typedef struct {
    const uint8_t *now, *before;
    int64_t step;
} change;

// Those of a window; returned: how many there are.
static int64_t find_changes(const synapses *s, int64_t steps, int64_t images, int64_t b, int64_t line, int64_t window,
                            change *changes)
{
    const int64_t size = s->width * s->channels;
    int64_t found = 0;
    for (int64_t i = 0, t = window * WINDOW; i < WINDOW && t < steps; i++, t++) {
        const int64_t row = s->place[t * images + b], before = t ? s->place[(t - 1) * images + b] : -1;
        if (row != before)
            changes[found++] = (change){s->values + (row * s->height + line) * size,
                                        t ? s->values + (before * s->height + line) * size : NULL, i};
    }
    return found;
}

// The trains of `count` units from `start` on, or of the first CHUNK of them: rises and falls; returned: a bit for each
// that spikes.
INLINE uint64_t find_trains(const change *changes, int64_t change_count, int64_t start, int64_t count, uint8_t *rises,
                            uint8_t *falls)
{
    uint64_t spiking = 0;
#ifdef __AVX512BW__
    __m512i up = _mm512_setzero_si512(), down = up;
    for (int64_t i = 0; i < change_count; i++) {
        const uint8_t *now = changes[i].now + start, *before = changes[i].before ? changes[i].before + start : NONE;
        const __m512i bit = _mm512_set1_epi8((char)(1 << changes[i].step));
        const uint64_t risen = larger(now, before, count), fallen = larger(before, now, count);
        up = _mm512_or_si512(up, _mm512_maskz_mov_epi8(risen, bit));
        down = _mm512_or_si512(down, _mm512_maskz_mov_epi8(fallen, bit));
        spiking |= risen | fallen;
    }
    _mm512_storeu_si512(rises, up);
    _mm512_storeu_si512(falls, down);
#else
    memset(rises, 0, CHUNK);
    memset(falls, 0, CHUNK);
    for (int64_t i = 0; i < change_count; i++) {
        const uint8_t *now = changes[i].now + start, *before = changes[i].before ? changes[i].before + start : NONE;
        for (int64_t j = 0; j < count && j < CHUNK; j++) {
            rises[j] |= (uint8_t)((now[j] > before[j]) << changes[i].step);
            falls[j] |= (uint8_t)((now[j] < before[j]) << changes[i].step);
        }
    }
    for (int64_t j = 0; j < count && j < CHUNK; j++)
        spiking |= (uint64_t)((rises[j] | falls[j]) != 0) << j;
#endif
    return spiking;
}

INLINE unsigned code_of(uint8_t rises, uint8_t falls) { return rises | (unsigned)falls << WINDOW; }

// The square of how far a train takes a unit from where it was, at most.
INLINE int32_t square_of(unsigned code)
{
    const int up = __builtin_popcount(code % (1 << WINDOW)), down = __builtin_popcount(code >> WINDOW);
    return up > down ? up * up : down * down;
}

// Count which codes units send, of chunks drawn at random, always the same; returned: how many units were looked at.
static int64_t look(dictionary *d, const synapses *s, int64_t steps, int64_t images)
{
    const int64_t size = s->width * s->channels, chunks = (size + CHUNK - 1) / CHUNK;
    const uint64_t all = (uint64_t)(images * s->height * chunks);
    uint64_t draw = 1;
    int64_t looked = 0;
    for (int64_t i = 0; i < SAMPLED / CHUNK && all; i++) {
        draw = draw * 6364136223846793005u + 1442695040888963407u; // Knuth's linear congruential generator
        const int64_t drawn = (int64_t)((draw >> 33) % all), line = drawn / chunks, start = drawn % chunks * CHUNK;
        looked += size - start < CHUNK ? size - start : CHUNK;
        for (int64_t window = 0; window < windows_of(steps); window++) {
            change changes[WINDOW];
            const int64_t count = find_changes(s, steps, images, line / s->height, line % s->height, window, changes);
            uint8_t rises[CHUNK], falls[CHUNK];
            uint64_t spiking = find_trains(changes, count, start, size - start, rises, falls);
            for (; spiking; spiking &= spiking - 1) {
                const int j = __builtin_ctzll(spiking);
                const unsigned code = code_of(rises[j], falls[j]);
                if (!d->seen[code])
                    d->all[d->found++] = (uint16_t)code;
                d->seen[code] += d->seen[code] < UINT16_MAX;
            }
        }
    }
    return looked;
}

// The train that is taken of a code first.
INLINE unsigned first_train(const dictionary *d, unsigned code)
{
    return d->number[code] ? d->number[code] : (unsigned)__builtin_ctz(code);
}

// What is left out of a unit's weights counts as often as its level, also where its code is taken apart: of several
// trains each stands for its share.
static void share_squares(dictionary *d)
{
    int64_t sent[TRAINS] = {0};
    memset(d->squares, 0, sizeof(d->squares));
    for (int64_t i = 0; i < d->found; i++) {
        const unsigned code = d->all[i];
        int trains = 0;
        for (unsigned rest = code; rest; rest &= ~(unsigned)d->codes[first_train(d, rest)])
            trains++;
        for (unsigned rest = code; rest; rest &= ~(unsigned)d->codes[first_train(d, rest)]) {
            d->squares[first_train(d, rest)] += (double)d->seen[code] * square_of(code) / trains;
            sent[first_train(d, rest)] += d->seen[code];
        }
    }
    for (int64_t train = 0; train < d->count; train++)
        d->squares[train] = sent[train] ? d->squares[train] / (double)sent[train] : square_of(d->codes[train]);
}

// The trains that save the most additions in a field, as far as those units tell that are looked at.
static void choose_trains(dictionary *d, const synapses *s, int64_t steps, int64_t images, int64_t block)
{
    memset(d, 0, offsetof(dictionary, all));
    const int64_t looked = look(d, s, steps, images), field = s->kh * s->kw * s->channels * block;
    int64_t gains[TRAINS];
    for (; d->count < SPIKES; d->count++)
        d->codes[d->count] = (uint16_t)(1 << d->count);
    for (int64_t i = 0; i < d->found; i++) {
        const unsigned code = d->all[i];
        const int64_t gain = (int64_t)d->seen[code] * (__builtin_popcount(code) - 1) * field;
        if (gain < GAIN * looked || (d->count == TRAINS && gain <= gains[TRAINS - 1]))
            continue;
        int64_t at = d->count < TRAINS ? d->count++ : TRAINS - 1;
        for (; at > SPIKES && gains[at - 1] < gain; at--) {
            gains[at] = gains[at - 1];
            d->codes[at] = d->codes[at - 1];
        }
        gains[at] = gain;
        d->codes[at] = (uint16_t)code;
    }
    d->stride = (d->count + 15) / 16 * 16;
    // Taken first of a code: the longest train that is a part of it.
    for (int64_t i = 0; i < d->found; i++) {
        const unsigned code = d->all[i];
        int most = 1;
        for (int64_t train = SPIKES; train < d->count; train++)
            if (__builtin_popcount(d->codes[train]) > most && !(d->codes[train] & ~code)) {
                most = __builtin_popcount(d->codes[train]);
                d->number[code] = (uint8_t)train;
            }
    }
    share_squares(d);
}

// The units of some lines of an image that spike.
static void list_units(const dictionary *d, const synapses *s, const lists *l, int64_t steps, int64_t images, int64_t b,
                       range lines)
{
    const int64_t size = s->width * s->channels, windows = windows_of(steps);
    for (int64_t line = lines.from; line < lines.to; line++) {
        if ((line + s->py) % s->sy >= s->kh)
            continue; // between two fields
        uint32_t *units = l->units + (line - lines.from) * listed(s);
        int32_t *starts = l->starts + (line - lines.from) * windows * (s->width + 1);
        int32_t *counts = l->counts + (line - lines.from) * windows * TRAINS, found = 0;
        for (int64_t window = 0; window < windows; window++, starts += s->width + 1, counts += TRAINS) {
            change changes[WINDOW];
            const int64_t count = find_changes(s, steps, images, b, line, window, changes);
            int64_t column = 0, next = 0;
            int read = 0;
            memset(counts, 0, TRAINS * sizeof(*counts));
            for (int64_t start = 0; count && start < size; start += CHUNK) {
                uint8_t rises[CHUNK], falls[CHUNK];
                uint64_t spiking = find_trains(changes, count, start, size - start, rises, falls);
                for (; spiking; spiking &= spiking - 1) {
                    const int i = __builtin_ctzll(spiking);
                    const int64_t unit = start + i;
                    for (; unit >= next; next += s->channels) {
                        read = (column + s->px) % s->sx < s->kw;
                        starts[column++] = found;
                    }
                    for (unsigned code = read ? code_of(rises[i], falls[i]) : 0; code;) {
                        const unsigned train = first_train(d, code);
                        code &= ~(unsigned)d->codes[train];
                        counts[train]++;
                        units[found++] = (uint32_t)(unit + s->channels - next) * TRAINS + train;
                    }
                }
            }
            for (; column <= s->width; column++)
                starts[column] = found;
        }
    }
}

// The units in the fields of `rows` rows of neurons from `y` on, all of whose lines were listed.
static void list_events(const dictionary *d, const synapses *s, const lists *l, int64_t windows, int64_t y,
                        int64_t rows, range lines)
{
    int32_t *offsets = l->offsets;
    uint64_t *present = l->present;
    for (int64_t row = 0; row < rows; row++) {
        const range read = lines_read(s, y + row, 1);
        int32_t *events = l->events + row * s->kh * listed(s), found = 0;
        for (int64_t window = 0; window < windows; window++) {
            const int32_t before = found;
            for (int64_t train = 0; train < d->count; train++) {
                offsets[train] = found;
                for (int64_t line = read.from; line < read.to; line++)
                    found += l->counts[((line - lines.from) * windows + window) * TRAINS + train];
            }
            memset(present, 0, s->width * sizeof(*present));
            for (int64_t x = 0; x < s->width && found > before; x++) {
                int32_t *next = offsets + (x + 1) * d->stride; // where those of this column end the next's begin
                uint64_t trains = 0;
                memcpy(next, offsets + x * d->stride, d->stride * sizeof(*next));
                for (int64_t line = read.from; line < read.to; line++) {
                    const int64_t ky = line - (y + row) * s->sy + s->py, at = line - lines.from;
                    const int32_t shift = (int32_t)((x * s->kh + ky) * s->channels);
                    const uint32_t *units = l->units + at * listed(s);
                    const int32_t *start = l->starts + (at * windows + window) * (s->width + 1) + x;
                    for (int32_t i = start[0]; i < start[1]; i++) {
                        const uint32_t train = units[i] % TRAINS;
                        events[next[train]++] = (int32_t)(units[i] / TRAINS) + shift;
                        trains |= (uint64_t)1 << train;
                    }
                }
                present[x] = trains;
            }
            offsets += (s->width + 1) * d->stride;
            present += s->width;
        }
    }
}

// What neurons of a block at column x of a row read: the columns [from, to) of the lists of that row; or, where
// scatter.h has added it up, sums, by the number of the step, in rows of `columns`, and of `count` columns at a time.
typedef struct {
    const int32_t *events, *offsets;
    const uint64_t *present;
    weights weights; // counted from the unit at place 0 on
    int64_t from, to;
    const real *sums;
    const uint8_t *moved, *number;
    int64_t columns, count, block;
    double spread; // what first digits may leave out of its sums, in standard deviations of what they do of a weight
} field;

INLINE field find_field(const dictionary *d, const synapses *s, const lists *l, int64_t windows, int64_t row, int64_t x,
                        int64_t channel, int64_t block)
{
    const int64_t left = x * s->sx - s->px, to = left + s->kw;
    const int64_t rows = s->kw * s->kh * s->channels;
    return (field){.events = l->events + row * s->kh * listed(s),
                   .offsets = l->offsets + row * windows * (s->width + 1) * d->stride,
                   .present = l->present + row * windows * s->width,
                   .weights = from_row(&s->weights, channel, rows, -left * s->kh * s->channels, block),
                   .from = left < 0 ? 0 : left,
                   .to = least(to, s->width)};
}

// The trains that units of a field send in a window, a bit for each.
INLINE uint64_t trains_of(const synapses *s, const field *f, int64_t window)
{
    uint64_t trains = 0;
    for (int64_t x = f->from; x < f->to; x++)
        trains |= f->present[window * s->width + x];
    return trains;
}

// The steps of a window at which any of some trains has a spike.
INLINE unsigned steps_of(const dictionary *d, uint64_t trains)
{
    unsigned code = 0;
    for (; trains; trains &= trains - 1)
        code |= d->codes[__builtin_ctzll(trains)];
    return (code | code >> WINDOW) % (1 << WINDOW);
}

// The units that send one of them, from `row` to `end`.
typedef struct {
    const int32_t *row, *end;
} senders;

INLINE senders senders_of(const dictionary *d, const synapses *s, const field *f, int64_t window, int train)
{
    const int32_t *offsets = f->offsets + window * (s->width + 1) * d->stride + train;
    return (senders){f->events + offsets[f->from * d->stride], f->events + offsets[f->to * d->stride]};
}

// Add what comes from a field in a window to what arrives at each of its steps; `moved` has a bit for each step at
// which anything arrived before, and returned are those with this field's.
INLINE unsigned add_trains(const int vectors, const dictionary *d, const synapses *s, field *f, int64_t window,
                           unsigned moved, vector arrives[WINDOW][MOST_VECTORS])
{
    const uint64_t sent = trains_of(s, f, window);
    const unsigned steps = steps_of(d, sent);
    double squares = 0;
    sum total[WINDOW][MOST_VECTORS] __attribute__((aligned(64)));
    for (unsigned at = steps; at; at &= at - 1)
        EACH_VECTOR(v)
            total[__builtin_ctz(at)][v] = (sum){0};
    for (uint64_t trains = sent; trains; trains &= trains - 1) {
        const int train = __builtin_ctzll(trains);
        const senders of = senders_of(d, s, f, window, train);
        sum once[MOST_VECTORS];
        EACH_VECTOR(v)
            once[v] = (sum){0};
        add_rows(vectors, &f->weights, of.row, of.end, once);
        squares += (double)(of.end - of.row) * d->squares[train];
        for (unsigned up = d->codes[train] % (1 << WINDOW); up; up &= up - 1)
            EACH_VECTOR(v)
                total[__builtin_ctz(up)][v] += once[v];
        for (unsigned down = d->codes[train] >> WINDOW; down; down &= down - 1)
            EACH_VECTOR(v)
                total[__builtin_ctz(down)][v] -= once[v];
    }
    for (unsigned at = steps; at; at &= at - 1) {
        const int step = __builtin_ctz(at);
        if (moved >> step & 1)
            EACH_VECTOR(v)
                arrives[step][v] += (real)s->scale * value(&f->weights, v, total[step][v]);
        else
            EACH_VECTOR(v)
                arrives[step][v] = (real)s->scale * value(&f->weights, v, total[step][v]);
    }
    f->spread += __builtin_sqrt(squares); // what units sent in several windows is of one sign, at worst
    return moved | steps;
}

#if DIGITS
// Add to `left` what the second digits add to vector v at each step of a window.
static void add_fine(const dictionary *d, const synapses *s, const field *f, int64_t window, int64_t v,
                     vector left[WINDOW])
{
    sum total[WINDOW] = {0};
    const uint64_t sent = trains_of(s, f, window);
    for (uint64_t trains = sent; trains; trains &= trains - 1) {
        const int train = __builtin_ctzll(trains);
        const senders of = senders_of(d, s, f, window, train);
        const sum once = add_fine_rows(&f->weights, s->kw * s->kh * s->channels, v, of.row, of.end);
        for (unsigned code = d->codes[train]; code; code &= code - 1) {
            const int bit = __builtin_ctz(code);
            total[bit % WINDOW] += bit < WINDOW ? once : -once;
        }
    }
    for (unsigned at = steps_of(d, sent); at; at &= at - 1)
        left[__builtin_ctz(at)] += (real)(s->scale / FINE) * value(&f->weights, v, total[__builtin_ctz(at)]);
}
#endif
