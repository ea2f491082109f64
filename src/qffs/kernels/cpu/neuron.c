// All steps of a block of neurons, a few vectors that stay in registers: their equations are in layer.c.
#define SURE 4 // beyond so many standard deviations, what first digits leave out is taken not to matter

INLINE dictionary *dictionaries(const layer *l) { return (dictionary *)l->scratch; }

// Whether nothing arrives at the neurons of image b at a step.
static int still(const layer *l, int64_t b, int64_t t)
{
    const int64_t now = t * l->images + b, before = now - l->images;
    if (!t || l->charged[t] != l->charged[t - 1])
        return 0;
    for (int64_t j = 0; j < l->input_count; j++)
        if (l->inputs[j].index[now] != l->inputs[j].index[before])
            return 0;
    for (int64_t j = 0; j < l->source_count; j++)
        if (l->sources[j].index[now] != l->sources[j].index[before])
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

// A block of neurons of image b, those from `start` on, in vectors: where their constant begins, and what they hold.
// Neurons that lose more of their potential than a threshold a spike keep how much is `gone` of all that ever arrived;
// of others that is what they sent.
typedef struct {
    int64_t b, start;
    const real *constant;
    int64_t constant_mask; // of the offset of a vector in it: where it is one of channels, columns share it
    vector highest, lowest; // a level below `highest` may rise, and one above `lowest` fall
    vector theta[MOST_VECTORS], base[MOST_VECTORS], arrived[MOST_VECTORS], sent[MOST_VECTORS], gone[MOST_VECTORS];
#if DIGITS
    vector unsure[MOST_VECTORS];
#endif
} block;

// How many of the LANES of vector v are neurons.
INLINE int64_t lanes_of(int64_t size, int v)
{
    const int64_t left = size - v * LANES;
    return left < 0 ? 0 : left < LANES ? left : LANES;
}

// A block before its first step, where `rest` channels are left from `start` on.
INLINE void begin(const int vectors, const int64_t size, const layer *l, int64_t b, int64_t start, int64_t rest,
                  block *n)
{
    const vector zero = {0};
    const int64_t first = !l->constant_of_channels ? start : rest < l->channels ? l->channels - rest : 0;
    n->b = b;
    n->start = start;
    n->constant = l->constant ? l->constant + b * l->constant_stride + first : NULL;
    n->constant_mask = l->constant_of_channels ? l->block - 1 : INT64_MAX; // the size of a block is a power of two
    n->highest = zero + (real)(l->cap ? l->highest : MOST_STEPS);
    n->lowest = l->negative_spikes ? zero : n->highest; // none is above it: these neurons never send back
    EACH_VECTOR(v) {
        n->theta[v] = zero + *l->threshold;
        if (l->by_neuron)
            n->theta[v] = numbers(l->threshold + start + v * LANES, lanes_of(size, v));
        n->base[v] = n->theta[v] * (real)l->precharge;
        n->sent[v] = n->arrived[v] = zero;
        if (LOSES)
            n->gone[v] = (real)(1 - l->decay) * n->base[v];
#if DIGITS
        n->unsure[v] = zero;
#endif
    }
}

// Where more of the constant has arrived at a step than before it: what neurons start from, with that.
INLINE void charge(const int vectors, const int64_t size, const layer *l, int64_t t, block *n)
{
    if (!n->constant || l->charged[t] == (t ? l->charged[t - 1] : 0))
        return;
    EACH_VECTOR(v) {
        n->base[v] = n->theta[v] * (real)l->precharge;
        if (l->charged[t] != 0)
            n->base[v] +=
                (real)l->charged[t] * numbers(n->constant + (v * LANES & n->constant_mask), lanes_of(size, v));
    }
}

// All that has arrived at vector v until a step.
INLINE vector total_of(const int64_t size, const layer *l, int64_t t, const block *n, int v)
{
    const int64_t neurons = l->height * l->width * l->channels;
    vector total = n->base[v] + n->arrived[v];
    for (int64_t j = 0; j < l->input_count; j++) {
        const input *in = l->inputs + j;
        const int64_t from = in->index[t * l->images + n->b] * neurons + n->start + v * LANES;
        if (in->levels)
            total += (real)in->scale * levels((const uint8_t *)in->values + from, lanes_of(size, v));
        else
            total += numbers((const real *)in->values + from, lanes_of(size, v));
    }
    return total;
}

#if DIGITS
// Which neurons are so near to where they would fire, up or down, that second digits may decide.
INLINE lanes in_doubt(const block *n, int v, vector potential)
{
    const lanes near_up = below(magnitude(potential - n->theta[v]), n->unsure[v]) & below(n->sent[v], n->highest);
    const lanes near_down = below(magnitude(potential), n->unsure[v]) & below(n->lowest, n->sent[v]);
    return near_up | near_down;
}
#endif

// Have vector v fire and write its levels; returned: which neurons did.
INLINE lanes fire_vector(const int64_t size, const layer *l, block *n, int v, vector total, vector potential,
                         uint8_t *out)
{
    const vector one = (vector){0} + 1;
    const int64_t count = lanes_of(size, v);
    lanes up = at_least(potential, n->theta[v]) & below(n->sent[v], n->highest);
    if (count < LANES) // the other lanes are no neurons
        up &= first(count);
    const lanes down = below(potential, (vector){0}) & below(n->lowest, n->sent[v]);
    n->sent[v] = add_at(down, add_at(up, n->sent[v], one), -one);
    if (LOSES) {
        potential = l->to_zero ? add_at(up, potential, -potential)
                               : add_at(up, add_at(down, potential, n->theta[v]), -n->theta[v]);
        n->gone[v] = total - (real)l->decay * potential;
    }
    if (count == LANES)
        to_bytes(n->sent[v], out + v * LANES);
    else {
        uint8_t level[LANES];
        to_bytes(n->sent[v], level);
        memcpy(out + v * LANES, level, count);
    }
    return up | down;
}

// All steps of `size` neurons of image b, those from `start` on, in so many vectors, where `rest` channels are left;
// where synapses lead to them, they read these fields. Returned: the step from which on they are not computed, and not
// written, because nothing arrives from step `end` on and they have settled.
INLINE int64_t run(const int vectors, const int64_t size, arrive *const arrive, const layer *l, int64_t b,
                   int64_t start, int64_t rest, field *fields, int64_t end, uint8_t *fired)
{
    const int64_t neurons = l->height * l->width * l->channels;
    vector arrives[WINDOW][MOST_VECTORS] __attribute__((aligned(64)));
#if DIGITS
    int64_t refined[MOST_VECTORS] = {0};
#endif
    unsigned moved = 0;
    int active = 1;
    block n;
    begin(vectors, size, l, b, start, rest, &n);
    for (int64_t t = 0; t < l->steps; t++) {
        if (t % WINDOW == 0) {
            moved = arrive(l, fields, t / WINDOW, arrives);
#if DIGITS
            EACH_VECTOR(v)
                n.unsure[v] = unsure_of(l, fields, v);
#endif
        }
        const int events = moved >> t % WINDOW & 1;
        uint8_t *out = l->sent + (t * l->images + b) * neurons + start;
        const int rests = !events && !active && !(LOSES && l->decay != 1);
        if (rests && t >= end)
            return t;
        if (rests && still(l, b, t)) {
            memcpy(out, out - l->images * neurons, size);
            continue;
        }
        if (events)
            EACH_VECTOR(v)
                n.arrived[v] += arrives[t % WINDOW][v];
        charge(vectors, size, l, t, &n);
        lanes any = (lanes){0};
        EACH_VECTOR(v) {
            const vector total = total_of(size, l, t, &n, v), taken = n.theta[v] * n.sent[v];
            vector potential = total - (LOSES ? n.gone[v] : taken);
#if DIGITS
            if (some(in_doubt(&n, v, potential))) {
                const vector added = refine(l, fields, t, v, moved, refined + v, arrives);
                n.arrived[v] += added;
                potential += added;
                n.unsure[v] = (vector){0};
            }
#endif
            any |= fire_vector(size, l, &n, v, total, potential, out);
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

