/* What loading is made of: pieces, one for each tensor of the file, in the order in which an error would name them, and units, the bands
 * of a piece that one thread makes at a time. What a unit makes depends on the file alone, not on how the piece was cut into units. */
#ifndef TANDEM_MEMORY_WEIGHTS_UNIT_H
#define TANDEM_MEMORY_WEIGHTS_UNIT_H

#include "memory/weights_plan.h"

typedef enum tdm_piece_kind {
    TDM_PIECE_BF16,       /* floats, rounded to BF16 */
    TDM_PIECE_F32,        /* norms that multiply with 1 + w: the sum */
    TDM_PIECE_QUANTIZE,   /* floats, to e4m3 codes and scales */
    TDM_PIECE_CODES,      /* e4m3 codes, copied */
    TDM_PIECE_SCALES,     /* f32 scales of such codes; one is spread over the rows where the region has one for each */
    TDM_PIECE_INPUT_SCALE /* one f32, to `field`; nothing in the region */
} tdm_piece_kind;

typedef struct tdm_piece {
    tdm_piece_kind kind;
    const tdm_tensor *t;
    tdm_weight *w;        /* NULL for vectors */
    float *field;         /* of INPUT_SCALE */
    int64_t rows, cols;   /* in the region; scales are one row */
    size_t at, scale_at;  /* in the region; scale_at for QUANTIZE alone */
    float amax;           /* of a matrix with one scale, once it is known */
    bool pow2;            /* QUANTIZE: scales are rounded up to powers of two */
    bool one;             /* F32: the file holds w, which is rounded to BF16 as all vectors are, not 1 + w */
} tdm_piece;

/* Rows and columns of a piece, and where the first of their elements and of their scales go. All columns, but where a block has its own
 * scale: there a column of blocks is enough work, and few rows are not enough rows. */
typedef struct tdm_unit {
    const tdm_piece *p;
    int64_t row, rows, col, cols;
    unsigned char *out;
    float *scale;
} tdm_unit;

/* Bytes of a row in the region and in the file. */
size_t tdm_piece_row_bytes(const tdm_piece *p);
size_t tdm_piece_source_bytes(const tdm_piece *p);
/* Scales behind the first `rows` rows of a QUANTIZE piece; 0 of others. */
int64_t tdm_piece_scales(const tdm_piece *p, int64_t rows);
/* What a unit's rows must be a multiple of, but for the last; and its columns at most. */
int64_t tdm_piece_grain(const tdm_piece *p);
int64_t tdm_piece_unit_cols(const tdm_piece *p);

/* Floats a thread needs for units of a model whose longest row is `longest`. */
int64_t tdm_unit_floats(int64_t longest);
/* Makes the unit. False: the file holds what must not be there, and what was written is of no use. */
bool tdm_unit_make(const tdm_unit *u, float *buffer);
/* The error for a unit that could not be made. */
tdm_status tdm_unit_explain(const tdm_unit *u, float *buffer, tdm_error *err);
/* Largest magnitude of the unit's values; not finite where one of them is not. */
float tdm_unit_amax(const tdm_unit *u, float *buffer);

#endif
