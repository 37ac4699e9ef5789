/* Row-relative magnitude: s(w_ij) = |w_ij| / ‖w_i‖, so that outputs with small weights lose no more than others.
 *
 *     cc -O2 -shared -fPIC -I ../../plugins/sdk/include -o row_relative.so row_relative.c -lm
 */
#include <compress.h>
#include <math.h>
#include <stdlib.h>

/* The method has one option; its value is kept from create to destroy. */
static const compress_option floor_option = {
    .size = sizeof(compress_option),
    .kind = COMPRESS_OPTION_FLOAT,
    .name = COMPRESS_STR("floor"),
    .meaning = COMPRESS_STR("norm that a row is taken to have at least"),
    .number = 1e-30,
    .number_min = 1e-30,
    .number_max = 1.0,
};
static const compress_option *const option_list[] = {&floor_option};

static int32_t create(const compress_options *options, uint64_t seed, void **state, const compress_host *host) {
    (void)seed;
    double *floor = malloc(sizeof *floor);
    if (!floor) return compress_fail(host, "there is no memory");
    *floor = options->values[0]->number;
    *state = floor;
    return COMPRESS_OK;
}

static int32_t score(const void *state, const compress_part *part, const compress_evidence *evidence, float *scores,
                     const compress_host *host) {
    (void)evidence, (void)host;
    for (uint64_t r = 0; r < part->rows; r++) {
        const uint64_t row = r * part->row_stride, step = part->col_stride;
        double sum = 0;
        for (uint64_t c = 0; c < part->cols; c++) sum += pow(part->data[row + c * step], 2);
        const double norm = fmax(sqrt(sum), *(const double *)state);
        for (uint64_t c = 0; c < part->cols; c++)
            scores[row + c * step] = (float)(fabs(part->data[row + c * step]) / norm);
    }
    return COMPRESS_OK;
}

COMPRESS_EXPORT const compress_method compress_method_row_relative = {
    .abi = COMPRESS_ABI,
    .size = sizeof(compress_method),
    .name = COMPRESS_STR("row-relative"),
    .meaning = COMPRESS_STR("the smallest weights relative to their row's norm go first"),
    .citation = COMPRESS_STR("an example of this project, after Salimans & Kingma, Weight Normalization, NIPS 2016"),
    .equation = COMPRESS_STR("s(w_ij) = |w_ij| / ‖w_i‖"),
    .flags = COMPRESS_THREAD_SAFE | COMPRESS_SCORES,
    .reach = COMPRESS_REACH_ROW,
    .units = COMPRESS_UNITS_OTHER,
    .options = option_list,
    .option_count = 1,
    .create = create,
    .destroy = free,
    .score = score,
};
