/* A compression method in C, for `compress`. docs/writing-a-method.md shows how to begin.
 *
 * A method is one exported constant of the type compress_method whose symbol begins with compress_method_:
 *
 *     COMPRESS_EXPORT const compress_method compress_method_mine = { COMPRESS_ABI, sizeof(compress_method), … };
 *
 * Rules:
 * - Every struct begins with its size in bytes as its writer knows it (after the abi number in compress_method).
 *   Structs may grow at their end in later versions; what lies beyond `size` counts as zero.
 * - Memory never changes owner. What the host gives is valid during the call. A result (compress_encoded) lies in
 *   memory from host->alloc, which the host frees. A method frees its state in destroy.
 * - A function returns COMPRESS_OK, or COMPRESS_FAILED after host->error (compress_fail does both), or
 *   COMPRESS_CANCELLED where host->cancelled said 1. Nothing may unwind or jump out of it.
 * - Without COMPRESS_THREAD_SAFE, calls come one at a time, but not always from one thread.
 */
#ifndef COMPRESS_H
#define COMPRESS_H

#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#define COMPRESS_VISIBLE __declspec(dllexport)
#else
#define COMPRESS_VISIBLE __attribute__((visibility("default")))
#endif
#ifdef __cplusplus
#define COMPRESS_EXPORT extern "C" COMPRESS_VISIBLE
#else
#define COMPRESS_EXPORT COMPRESS_VISIBLE
#endif

/* The version of this interface. A host accepts every version from 1 to its own. */
#define COMPRESS_ABI 1u

/* What functions return. */
#define COMPRESS_OK 0
#define COMPRESS_FAILED 1
#define COMPRESS_CANCELLED 2
#define COMPRESS_PANICKED 3

/* compress_method.flags */
#define COMPRESS_THREAD_SAFE 1u /* may be called from several threads at once */
#define COMPRESS_SCORES 2u      /* gives scores */
#define COMPRESS_ENCODES 4u     /* gives encodings */
#define COMPRESS_SELECTS 8u     /* chooses within a quota itself */
#define COMPRESS_RANDOM 16u     /* its result depends on the seed */

/* compress_method.reach: what it must see at once */
#define COMPRESS_REACH_WEIGHT 0u /* any slice of a part */
#define COMPRESS_REACH_ROW 1u    /* blocks of whole rows */
#define COMPRESS_REACH_PART 2u   /* the whole part */

/* compress_method.units of its scores */
#define COMPRESS_UNITS_MAGNITUDE 0u /* those of |w| */
#define COMPRESS_UNITS_OTHER 1u

/* compress_need.required */
#define COMPRESS_NEED_OPTIONAL 0u /* passed where it exists */
#define COMPRESS_NEED_REQUIRED 1u /* the stage is refused without it */
#define COMPRESS_NEED_ONE_OF 2u   /* the stage is refused without any of those marked so */

/* compress_option.kind, compress_value.kind */
#define COMPRESS_OPTION_INTEGER 0u
#define COMPRESS_OPTION_FLOAT 1u
#define COMPRESS_OPTION_FLAG 2u /* in `integer`, 1 or 0 */
#define COMPRESS_OPTION_CHOICE 3u
#define COMPRESS_OPTION_TEXT 4u

/* compress_keep.kind */
#define COMPRESS_KEEP_ALL 0u
#define COMPRESS_KEEP_MASK 1u
#define COMPRESS_KEEP_QUOTA 2u

/* compress_term.layout */
#define COMPRESS_LAYOUT_DENSE 0u    /* rows * cols values, row-major */
#define COMPRESS_LAYOUT_SPARSE 1u   /* one value for each 1 of bits */
#define COMPRESS_LAYOUT_FACTORED 2u /* W = U V: U [rows, rank], then V [rank, cols] */
#define COMPRESS_LAYOUT_HASHED 3u   /* buckets that weights share by hash: of the seed and the position as stored,
                                       r * row_stride + c * col_stride of the whole part */

/* UTF-8 text, not ended by a zero byte. COMPRESS_STR("literal") makes one in a constant. */
typedef struct compress_str {
    const char *data;
    uint64_t bytes;
} compress_str;
#define COMPRESS_STR(literal) { literal, sizeof(literal) - 1 }

/* What a host offers during a call. Its functions may be called from any thread until the call returns. */
typedef struct compress_host compress_host;
struct compress_host {
    uint32_t size;
    uint32_t abi;        /* of the host */
    const void *context; /* the host's own */
    void *(*alloc)(const compress_host *host, uint64_t bytes); /* zeroed, aligned to 8; NULL where there is none */
    void (*error)(const compress_host *host, compress_str text); /* why the call fails */
    void (*progress)(const compress_host *host, double fraction); /* 0 to 1 */
    int32_t (*cancelled)(const compress_host *host); /* 1: stop and return COMPRESS_CANCELLED */
    void (*log)(const compress_host *host, compress_str line); /* a line for the user */
    uint32_t (*threads)(const compress_host *host); /* that the call may keep busy just now; 0: the host does not say */
};

/* An option of the method. What its kind does not need is zero. Both ends of a range are allowed. */
typedef struct compress_option {
    uint32_t size;
    uint32_t kind;
    compress_str name; /* the key in the recipe */
    compress_str meaning;
    int64_t integer; /* default of an integer or a flag */
    int64_t integer_min;
    int64_t integer_max;
    double number; /* default of a float */
    double number_min;
    double number_max;
    compress_str text; /* default of a choice or a text */
    const compress_str *choices;
    uint64_t choice_count;
} compress_option;

/* A kind of evidence that the method reads: "fisher_diag", "hessian_diag", "gram", "row_count". */
typedef struct compress_need {
    uint32_t size;
    uint32_t required; /* COMPRESS_NEED_... */
    compress_str kind;
} compress_need;

/* The value of an option. */
typedef struct compress_value {
    uint32_t size;
    uint32_t kind;
    compress_str name;
    int64_t integer; /* of an integer or a flag */
    double number;   /* of a float */
    compress_str text; /* of a choice or a text */
} compress_value;

/* One value for each option of the method, in its order, checked. */
typedef struct compress_options {
    uint32_t size;
    uint32_t reserved;
    const compress_value *const *values;
    uint64_t value_count;
} compress_options;

/* A block of weights: rows = outputs, cols = inputs. Weight (r, c) is data[r * row_stride + c * col_stride]; there are
 * rows * cols of them without gaps. */
typedef struct compress_part {
    uint32_t size;
    uint32_t reserved;
    compress_str tensor;
    compress_str name;
    compress_str weight_class;
    const float *data;
    uint64_t rows;
    uint64_t cols;
    uint64_t row_stride;
    uint64_t col_stride;
    uint64_t first_row;     /* of this block within the part (reach row) */
    uint64_t first_element; /* of this block within the part as stored (reach weight) */
    uint64_t part_rows;
    uint64_t part_cols;
} compress_part;

/* fisher_diag, hessian_diag: [rows, cols] with the strides of the block. gram: [k, k] or [groups, k, k], row-major.
 * row_count: [rows] of the block. */
typedef struct compress_array {
    uint32_t size;
    uint32_t dims;
    compress_str kind;
    const uint64_t *shape;
    const float *data;
    double model_mean; /* of *_diag: over all weights of the model that have it; 0: the host does not say */
} compress_array;

typedef struct compress_evidence {
    uint32_t size;
    uint32_t reserved;
    const compress_array *const *arrays;
    uint64_t array_count;
} compress_evidence;

/* Which weights an encoding may keep. Bits are row-major, the lowest of a byte first, 1 = kept. */
typedef struct compress_keep {
    uint32_t size;
    uint32_t kind;
    const uint8_t *bits; /* the mask, or the eligible weights of a quota; NULL for COMPRESS_KEEP_ALL */
    uint64_t pruned;     /* of a quota: weights that must be pruned in total */
    uint64_t n;          /* 0, or: n are kept of each m along the columns */
    uint64_t m;
} compress_keep;

/* A part becomes a sum of terms. All of a result lies in memory from host->alloc. */
typedef struct compress_term {
    uint32_t size;
    uint32_t layout;
    const uint8_t *bits; /* of a sparse term */
    uint64_t rank;       /* of a factored term */
    uint64_t seed;       /* of a hashed term, below 2^32 */
    const float *values;
    uint64_t value_count;
} compress_term;

typedef struct compress_encoded {
    uint32_t size; /* set by the host */
    uint32_t reserved;
    const uint8_t *kept; /* bits, 1 = kept; NULL = all */
    const compress_term *const *terms;
    uint64_t term_count;
} compress_encoded;

typedef struct compress_method {
    uint32_t abi;  /* COMPRESS_ABI */
    uint32_t size; /* sizeof(compress_method) */
    compress_str name; /* lower case letters, digits and hyphens */
    compress_str meaning;  /* one line */
    compress_str citation; /* the paper */
    compress_str equation; /* in plain Unicode */
    uint64_t flags;
    uint32_t reach;
    uint32_t units;
    const compress_option *const *options;
    uint64_t option_count;
    const compress_need *const *needs;
    uint64_t need_count;
    /* Makes the state for one stage. */
    int32_t (*create)(const compress_options *options, uint64_t seed, void **state, const compress_host *host);
    /* Frees it. NULL where there is nothing to free. */
    void (*destroy)(void *state);
    /* Writes the score of every weight, low = dispensable, finite, with the strides of the part. NULL: no scores. */
    int32_t (*score)(const void *state, const compress_part *part, const compress_evidence *evidence, float *scores,
                     const compress_host *host);
    /* Encodes a whole part anew. NULL: no encodings. */
    int32_t (*encode)(const void *state, const compress_part *part, const compress_keep *keep,
                      const compress_evidence *evidence, compress_encoded *result, const compress_host *host);
} compress_method;

/* Says why a call fails: `return compress_fail(host, "what is wrong; what helps");` */
static inline int32_t compress_fail(const compress_host *host, const char *text) {
    compress_str s;
    s.data = text;
    s.bytes = (uint64_t)strlen(text);
    host->error(host, s);
    return COMPRESS_FAILED;
}

#endif
