// All steps of a layer of neurons in one pass over memory: see fire.py, which compiles and calls it.
#include <stdint.h>

// One accumulated input: the row that image b holds after step t is place[t * images + b], of floats, or of levels,
// which are multiples of a scale.
typedef struct {
    const void *values;
    const int64_t *place;
    int64_t levels;
    float scale;
} input;

// So many neurons at a time: what they carry from step to step stays in the nearest cache.
#define BLOCK 512

void fire(const input *inputs, int64_t count, const float *constant, int64_t stride, const float *charged,
          int64_t steps, int64_t images, int64_t neurons, const float *threshold, int64_t by_neuron, float precharge,
          float highest, int negative_spikes, int cap, int threads, uint8_t *sent_after, uint8_t *changes)
{
    const int64_t blocks = (neurons + BLOCK - 1) / BLOCK;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < images; b++) {
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t start = block * BLOCK, size = neurons - start < BLOCK ? neurons - start : BLOCK;
            float theta[BLOCK], rest[BLOCK], charge[BLOCK], sent[BLOCK];
            for (int64_t i = 0; i < size; i++) {
                theta[i] = threshold[by_neuron * (start + i)];
                rest[i] = precharge * theta[i];
                sent[i] = 0;
            }
            for (int64_t t = 0; t < steps; t++) {
                for (int64_t i = 0; i < size; i++)
                    charge[i] = rest[i];
                for (int64_t j = 0; j < count; j++) {
                    const int64_t from = inputs[j].place[t * images + b] * neurons + start;
                    if (inputs[j].levels) {
                        const uint8_t *x = (const uint8_t *)inputs[j].values + from;
                        const float scale = inputs[j].scale;
                        for (int64_t i = 0; i < size; i++)
                            charge[i] += scale * (float)x[i];
                    } else {
                        const float *x = (const float *)inputs[j].values + from;
                        for (int64_t i = 0; i < size; i++)
                            charge[i] += x[i];
                    }
                }
                if (constant && charged[t] != 0) {
                    const float *x = constant + b * stride + start, weight = charged[t];
                    for (int64_t i = 0; i < size; i++)
                        charge[i] += weight * x[i];
                }
                uint8_t *out = sent_after + (t * images + b) * neurons + start;
                int32_t fired = 0;
                for (int64_t i = 0; i < size; i++) {
                    const float potential = charge[i] - theta[i] * sent[i];
                    const int32_t up = (potential >= theta[i]) & (!cap | (sent[i] < highest));
                    const int32_t down = negative_spikes & (potential < 0) & (sent[i] > 0);
                    sent[i] += (float)(up - down);
                    fired |= up | down;
                    out[i] = (uint8_t)sent[i];
                }
                if (fired) {
#pragma omp atomic write
                    changes[t * images + b] = 1;
                }
            }
        }
    }
}
