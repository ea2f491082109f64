// Lists of the units that spike, and the sums of their weights.
//
// The lists of one image for some rows of neurons, window by window. For each line of units that these rows read:
//   units    the units that spike, in their order, each as channel * TRAINS + train
//   starts   where the units of a column begin
//   counts   how many units send a train
// For each row of neurons:
//   events   the units of its fields, train by train and column by column, each as its row of weights
//            (x * kh + ky) * channels + c
//   offsets  where the events of a column and train begin
//   present  a bit for each train that units of a column send
typedef struct {
    uint32_t *units;
    int32_t *starts, *counts, *events, *offsets;
    uint64_t *present;
} lists;

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
// scatter.c has added it up, sums, by the number of the step, in rows of `columns`, and of `count` columns at a time.
typedef struct {
    const int32_t *events, *offsets;
    const uint64_t *present;
    weights weights; // counted from the unit in row 0 of all columns on
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
