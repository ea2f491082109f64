// What synapses bring to neurons: the weights of spikes, summed up step by step.
//
// What a unit sends within a WINDOW of steps is its spike train, here a code with a bit for each step at which its
// level rises and, a byte higher, for each at which it falls; a level changes by one at most. The weights of units
// whose trains are the same are summed once, however often they spike, and the sum arrives at each step of the
// train. A train that few units send is taken apart into others: single spikes, which have the first numbers, and
// those trains that are worth a sum of their own.
#define WINDOW 8
#define SPIKES (2 * WINDOW)
#define CODES (1 << SPIKES)
#define MOST_STEPS 256
#define TRAINS 64    // a bit for each
#define SAMPLED 8192 // units that are looked at to choose trains
#define GAIN 256     // additions of a number that a train has to save in a field of neurons, on average

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

INLINE int64_t windows_of(int64_t steps) { return (steps + WINDOW - 1) / WINDOW; }

static int64_t most_moves(const synapses *s, int64_t steps, int64_t images)
{
    int64_t most = 1;
    for (int64_t b = 0; b < images; b++) {
        int64_t moves = 1;
        for (int64_t t = 1; t < steps; t++)
            moves += s->index[t * images + b] != s->index[(t - 1) * images + b];
        if (moves > most)
            most = moves;
    }
    return most;
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
        const int64_t row = s->index[t * images + b], before = t ? s->index[(t - 1) * images + b] : -1;
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
