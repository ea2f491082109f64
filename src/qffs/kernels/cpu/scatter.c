// Sums of weights without lists, where few weights lead to a block: whenever a unit spikes, its weights are added to
// the sums of all neurons that it reaches.
#define TAPS 9     // sums of a vector that are kept in registers at a time
#define TOGETHER 4 // vectors of neurons that are taken at a time, of several columns where channels are few

// What arrives at the neurons of a tile, at the steps at which levels of the image change.
//   sums     [row][change][column][block]
//   number   for each such step, which change it is
//   moved    [row][window][column], a bit for each step of the window at which anything arrives
// A row of sums begins `before` columns to the left of its neurons and ends to the right of them: nobody reads what
// units send there.
typedef struct {
    real *sums;
    uint8_t *moved;
    int64_t steps, columns, before;
    uint8_t number[MOST_STEPS];
} arrivals;

// The most columns of neurons that a unit reaches, and the number of columns of a row of sums.
INLINE int64_t spread_of(const synapses *s) { return ratio_up(s->kw, s->sx); }
INLINE int64_t columns_within(const synapses *s, int64_t width) { return width + 2 * spread_of(s) + TOGETHER - 1; }

static int64_t arrivals_size(const synapses *s, int64_t steps, int64_t rows, int64_t width, int64_t block)
{
    const int64_t columns = rows * columns_within(s, width), numbers = columns * s->moving * block;
    const int64_t bytes = numbers * (int64_t)sizeof(real) + columns * windows_of(steps);
    return ratio_up(bytes, 64) * 16;
}

static arrivals lay_out_arrivals(const synapses *s, int64_t steps, int64_t rows, int64_t width, int64_t block,
                                 int32_t *memory)
{
    const int64_t columns = columns_within(s, width);
    real *sums = (real *)memory;
    return (arrivals){.sums = sums,
                      .moved = (uint8_t *)(sums + rows * s->moving * columns * block),
                      .steps = steps,
                      .columns = columns,
                      .before = spread_of(s)};
}

// A neuron that units of a column reach: where the weights begin that lead from them to it, and its sums and steps,
// both from column 0 on.
typedef struct {
    const real *weights;
    real *sums;
    uint8_t *moved;
} tap;

static const real SIGNS[2] = {1, -1};

// Add what units send at a step, of CHUNK channels from one on those that rise or fall, to `count` of the neurons that
// they reach: each to the sums at a position. Where a column begins within a chunk, that channel is negative.
INLINE void add_taps(const int count, const int vectors, const tap *taps, uint64_t up, uint64_t down, int64_t channel,
                     int64_t position)
{
    vector sums[TAPS];
#define EACH_TAP(k) _Pragma("GCC unroll 9") for (int k = 0; k < count; k++)
    EACH_TAP(k)
        EACH_VECTOR(v)
            sums[k * vectors + v] = (vector){0};
    for (uint64_t spiking = up | down; spiking; spiking &= spiking - 1) {
        const int unit = __builtin_ctzll(spiking);
        const vector sign = (vector){0} + SIGNS[down >> unit & 1];
        const int64_t at = (channel + unit) * LANES * vectors;
        EACH_TAP(k)
            EACH_VECTOR(v)
                sums[k * vectors + v] += sign * *(const vector *)(taps[k].weights + at + v * LANES);
    }
    EACH_TAP(k)
        EACH_VECTOR(v)
            *(vector *)(taps[k].sums + position * LANES * vectors + v * LANES) += sums[k * vectors + v];
}

// The same for any number of them: as many at a time as there are registers for. Other counts are never reached, and
// compiled for one.
typedef void add_all(const tap *taps, int64_t count, uint64_t up, uint64_t down, int64_t channel, int64_t position);
#define ADD_ALL(vectors)                                                                                               \
    static __attribute__((noinline)) void add_all_##vectors(const tap *taps, int64_t count, uint64_t up,               \
                                                            uint64_t down, int64_t channel, int64_t position)          \
    {                                                                                                                  \
        for (; vectors == 1 && count >= 9; count -= 9, taps += 9)                                                      \
            add_taps(vectors == 1 ? 9 : 1, vectors, taps, up, down, channel, position);                                \
        for (; vectors == 1 && count >= 6; count -= 6, taps += 6)                                                      \
            add_taps(vectors == 1 ? 6 : 1, vectors, taps, up, down, channel, position);                                \
        for (; vectors <= 2 && count >= 4; count -= 4, taps += 4)                                                      \
            add_taps(vectors <= 2 ? 4 : 1, vectors, taps, up, down, channel, position);                                \
        for (; vectors <= 4 && count >= 2; count -= 2, taps += 2)                                                      \
            add_taps(vectors <= 4 ? 2 : 1, vectors, taps, up, down, channel, position);                                \
        for (; count; count--, taps++)                                                                                 \
            add_taps(1, vectors, taps, up, down, channel, position);                                                   \
    }
ADD_ALL(1)
ADD_ALL(2)
ADD_ALL(4)
ADD_ALL(8)

// The neurons of `rows` rows from `y` on that units of a line reach from columns that are `phase` beyond a multiple of
// the stride; returned: how many there are.
static int64_t find_taps(const synapses *s, const real *weights, int64_t line, int64_t phase, int64_t y, int64_t rows,
                         int64_t window, int64_t block, const arrivals *to, tap *taps)
{
    int64_t count = 0;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t ky = line + s->py - (y + row) * s->sy;
        if (ky < 0 || ky >= s->kh)
            continue;
        for (int64_t kx = phase; kx < s->kw; kx += s->sx) {
            const int64_t column = to->before - kx / s->sx;
            taps[count++] = (tap){weights + (kx * s->kh + ky) * s->channels * block,
                                  to->sums + (row * s->moving * to->columns + column) * block,
                                  to->moved + (row * windows_of(to->steps) + window) * to->columns + column};
        }
    }
    return count;
}

// Add up what a line of an image sends in a window to the neurons of a block in `rows` rows from `y` on.
static void scatter_line(const synapses *s, const real *weights, const change *changes, int64_t count, int64_t line,
                         int64_t y, int64_t rows, int64_t window, int64_t block, const arrivals *to)
{
    const int64_t size = s->width * s->channels, phases = least(s->sx, s->kw);
    add_all *const add = block == LANES       ? add_all_1
                         : block == 2 * LANES ? add_all_2
                         : block == 4 * LANES ? add_all_4
                                              : add_all_8;
    tap taps[phases][ratio_up(s->kh, s->sy) * spread_of(s)];
    int64_t reached[phases];
    for (int64_t phase = 0; phase < phases; phase++)
        reached[phase] = find_taps(s, weights, line, phase, y, rows, window, block, to, taps[phase]);
    int64_t x = 0, column = s->px / s->sx, phase = s->px % s->sx;
    for (int64_t first = 0; first < size; first += CHUNK) {
        uint64_t up[WINDOW], down[WINDOW], any = 0;
        for (int64_t i = 0; i < count; i++) {
            const uint8_t *now = changes[i].now + first, *before = changes[i].before ? changes[i].before + first : NONE;
            up[i] = larger(now, before, size - first);
            down[i] = larger(before, now, size - first);
            any |= up[i] | down[i];
        }
        for (int64_t from = first, until; from < least(first + CHUNK, size); from = until) {
            if (from == (x + 1) * s->channels) {
                x++;
                phase = phase + 1 == s->sx ? 0 : phase + 1;
                column += phase == 0;
            }
            until = least(first + CHUNK, (x + 1) * s->channels);
            const uint64_t here = bits(from - first, until - first);
            if (!(any & here) || phase >= phases)
                continue;
            uint8_t moved = 0;
            for (int64_t i = 0; i < count; i++)
                if ((up[i] | down[i]) & here) {
                    add(taps[phase], reached[phase], up[i] & here, down[i] & here, first - x * s->channels,
                        to->number[window * WINDOW + changes[i].step] * to->columns + column);
                    moved |= (uint8_t)(1 << changes[i].step);
                }
            for (int64_t k = 0; k < reached[phase]; k++)
                taps[phase][k].moved[column] |= moved;
        }
    }
}

// Add up what an image sends in all windows to the neurons of a block, from a channel on, in `rows` rows from `y` on.
static void scatter(const synapses *s, int64_t images, int64_t b, int64_t y, int64_t rows, int64_t channel,
                    int64_t block, arrivals *to)
{
    const int64_t row_size = to->columns * block;
    const real *weights = from_row(&s->weights, channel, s->kw * s->kh * s->channels, 0, block).rows;
    const range lines = lines_read(s, y, rows);
    int64_t changed = 0;
    memset(to->moved, 0, rows * windows_of(to->steps) * to->columns);
    for (int64_t window = 0; window < windows_of(to->steps); window++)
        for (int64_t line = lines.from; line < lines.to; line++) {
            change changes[WINDOW];
            const int64_t count = find_changes(s, to->steps, images, b, line, window, changes);
            for (int64_t i = 0; i < count && line == lines.from; i++, changed++) {
                to->number[window * WINDOW + changes[i].step] = (uint8_t)changed;
                for (int64_t row = 0; row < rows; row++)
                    memset(to->sums + (row * s->moving + changed) * row_size, 0, row_size * sizeof(real));
            }
            if (count && (line + s->py) % s->sy < s->kh)
                scatter_line(s, weights, changes, count, line, y, rows, window, block, to);
        }
}

// What arrived at the neurons of `count` columns from x on, as a field.
INLINE field find_sums(const synapses *s, const arrivals *from, int64_t row, int64_t x, int64_t count, int64_t block)
{
    const int64_t column = from->before + x;
    return (field){.sums = from->sums + (row * s->moving * from->columns + column) * block,
                   .number = from->number,
                   .moved = from->moved + row * windows_of(from->steps) * from->columns + column,
                   .columns = from->columns,
                   .count = count,
                   .block = block};
}

// Add them to what arrives at each step of a window; as `add_trains`.
INLINE unsigned add_sums(const int vectors, const synapses *s, const field *f, int64_t window, unsigned moved,
                         vector arrives[WINDOW][MOST_VECTORS])
{
    unsigned steps = 0;
    for (int64_t i = 0; i < f->count; i++)
        steps |= f->moved[window * f->columns + i];
    for (unsigned at = steps; at; at &= at - 1) {
        const int step = __builtin_ctz(at);
        const vector *sums = (const vector *)(f->sums + f->number[window * WINDOW + step] * f->columns * f->block);
        EACH_VECTOR(v) {
            if (moved >> step & 1)
                arrives[step][v] += (real)s->scale * sums[v];
            else
                arrives[step][v] = (real)s->scale * sums[v];
        }
    }
    return moved | steps;
}
