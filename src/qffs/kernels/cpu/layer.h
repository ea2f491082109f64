// What Python passes: structures.py reads these definitions, which are the one table of their fields.
//
// A signal is what an image holds over time, stored once for each time that it changes: image b holds row
// index[t * images + b] of `values` after step t.
#include <stdint.h>

typedef REAL real;

// The weights of synapses, in rows: those of one unit to the neurons of a block (weights.c).
typedef struct {
    const void *rows;    // [block][row][neurons of the block]; of digits, those of two vectors by turns
    const int16_t *fine; // [block][vector][row][LANES]
    const real *unit;    // [blocks * neurons]
    const real *left;    // [blocks * neurons], the root mean square of what first digits leave out, where they do
} weights;

// A signal that neurons add up as it is: rows of `real`, or of levels (uint8_t), which are multiples of a scale.
typedef struct {
    const void *values;
    const int64_t *index;
    int64_t levels;
    double scale;
} input;

// A signal of levels, rows of [height][width][channels], and synapses of kh x kw from them to neurons at [y][x], whose
// first line is y * sy - py, with weights [block][kw][kh][channels][neurons of the block].
typedef struct {
    const uint8_t *values;
    const int64_t *index;
    double scale;
    int64_t height, width, channels, kh, kw, sy, sx, py, px;
    weights weights;
    int64_t moving;    // the most steps at which an image's levels change
    int64_t scattered; // whether the weights are so few that scatter.c adds them up
} synapses;

// A layer of neurons, and what arrives at it.
typedef struct {
    const input *inputs;
    int64_t input_count;
    const synapses *sources;
    int64_t source_count;
    const real *constant; // [1 or images][neurons], or NULL; [1 or images][channels] where it is the same at all [y][x]
    int64_t constant_stride, constant_of_channels;
    const double *charged; // [steps], how much of the constant has arrived
    int64_t steps, images, height, width, channels, block;
    const real *threshold;
    int64_t by_neuron;
    double precharge, highest, decay;
    int64_t negative_spikes, cap, to_zero, threads;
    int64_t listed;   // the most numbers in the lists, or sums, of a tile of more than one row
    uint8_t *sent;    // [steps][images][neurons], levels after each step
    uint8_t *changes; // [steps][images], whether any neuron fired; where none did, levels need not be written
    uint8_t *ended;   // [images][blocks of neurons], how many steps were computed
    int64_t *index;   // [steps][images], the row of `sent` that an image holds after each step
    int32_t *scratch; // as many numbers as scratch_size says: dictionaries of the sources, lists or sums of the threads
} layer;
