/* Whether a record's numbers keep every step inside its arrays: what module.c asks of each layer before it runs. */
#include "kinds.h"

enum { MOST = 1 << 24 }; /* values of one array */

static int count_fits(int64_t count) { return count >= 1 && count <= MOST; }

static int window_fits(const er_window *g, int32_t last, int32_t outputs) {
    return count_fits(g->height) && count_fits(g->width) && count_fits(g->channels) && count_fits(g->kernel_h) &&
           count_fits(g->kernel_w) && count_fits((int64_t)g->kernel_h * g->kernel_w) && count_fits(g->stride_h) &&
           count_fits(g->stride_w) && count_fits(g->dilation_h) && count_fits(g->dilation_w) &&
           count_fits((int64_t)g->top + 1) && count_fits((int64_t)g->left + 1) && count_fits(g->out_h) &&
           count_fits(g->out_w) && count_fits(last) && count_fits((int64_t)g->height * g->width) &&
           count_fits((int64_t)g->height * g->width * g->channels) &&
           count_fits((int64_t)g->kernel_h * g->kernel_w * g->channels) && count_fits((int64_t)g->out_h * g->out_w) &&
           count_fits((int64_t)(g->out_h - 1) * g->stride_h + 1) &&
           count_fits((int64_t)(g->out_w - 1) * g->stride_w + 1) &&
           count_fits((int64_t)(g->kernel_h - 1) * g->dilation_h + 1) &&
           count_fits((int64_t)(g->kernel_w - 1) * g->dilation_w + 1) && (int64_t)g->out_h * g->out_w * last == outputs;
}

/* 0 or 1: what rows of pairs go on by. */
static int goes_on(int32_t step) { return step == 0 || step == 1; }

/* Whether offset + sum i * step lies in [0, size) for every i under shape. */
static int view_fits(const int32_t *shape, const int32_t *step, int32_t rank, int64_t offset, int32_t size) {
    int64_t low = offset, high = offset;
    if (rank < 1 || rank > ER_RANK) return 0;
    for (int32_t k = 0; k < rank; k++) {
        if (!count_fits(shape[k])) return 0;
        *(step[k] < 0 ? &low : &high) += (int64_t)step[k] * (shape[k] - 1);
    }
    return low >= 0 && high < size;
}

static int shape_fits(const int32_t *shape, int32_t rank, int32_t outputs) {
    int64_t count = 1;
    for (int32_t k = 0; k < rank; k++)
        if (!count_fits(shape[k]) || !count_fits(count *= shape[k])) return 0;
    return count == outputs;
}

static int one_of(const void *a, const void *b) { return !a != !b; }
static int none_or_all(const void *a, const void *b) { return !a == !b; }

static int er_dense_fits(const er_dense *r) { return r->inputs >= 1; }
static int er_lif_fits(const er_lif *r) {
    return one_of(r->x, r->wide) && one_of(r->input, r->input_shadow) && !(r->recurrent && r->recurrent_shadow) &&
           none_or_all(r->rho, r->beta) && none_or_all(r->rho, r->adaptation) &&
           none_or_all(r->rho, r->adaptation_carry);
}
static int er_readout_fits(const er_readout *r) {
    return one_of(r->x, r->wide) && one_of(r->input, r->input_shadow);
}

#define FILTERS_FIT(r, inside) \
    const er_window g = ER_WINDOW_OF; \
    return window_fits(&g, (r)->filters, (r)->outputs) && (inside)
static int er_conv_fits(const er_conv *r) { FILTERS_FIT(r, !r->packed || er_conv_packed(r)); }
static int er_depthwise_fits(const er_depthwise *r) {
    FILTERS_FIT(r, r->filters % r->channels == 0 && (!r->packed || er_depthwise_packed(r)));
}
static int er_conv_sum_fits(const er_conv_sum *r) { FILTERS_FIT(r, one_of(r->x, r->wide)); }

#define POOL_FITS(r, inside) \
    const er_window g = ER_WINDOW_OF; \
    return window_fits(&g, (r)->channels, (r)->outputs) && (inside)
static int er_max_pool_fits(const er_max_pool *r) { POOL_FITS(r, 1); }
static int er_average_pool_fits(const er_average_pool *r) { POOL_FITS(r, r->sizes >= 1); }
static int er_sum_pool_fits(const er_sum_pool *r) { POOL_FITS(r, one_of(r->x, r->wide)); }

#define PAIR_FITS(r) \
    return view_fits((r)->shape, (r)->stride_a, (r)->rank, 0, (r)->size_a) && \
           view_fits((r)->shape, (r)->stride_b, (r)->rank, 0, (r)->size_b) && \
           shape_fits((r)->shape, (r)->rank, (r)->outputs) && goes_on((r)->stride_a[(r)->rank - 1]) && \
           goes_on((r)->stride_b[(r)->rank - 1])
static int er_add_fits(const er_add *r) { PAIR_FITS(r); }
static int er_mul_fits(const er_mul *r) { PAIR_FITS(r); }
static int er_lookup_fits(const er_lookup *r) { return r->outputs >= 1; }
static int er_total_fits(const er_total *r) { return one_of(r->x, r->wide) && one_of(r->other, r->wide_other); }

static int er_move_fits(const er_move *r) {
    return one_of(r->x, r->wide) && one_of(r->y, r->sums) && !(r->y && r->wide) &&
           view_fits(r->shape, r->step_from, r->rank, r->from, r->inputs) &&
           view_fits(r->shape, r->step_to, r->rank, r->to, r->outputs);
}
static int indices_fit(const int32_t *index, int32_t count, int32_t size) {
    for (int32_t k = 0; k < count; k++)
        if (index[k] < 0 || index[k] >= size) return 0;
    return 1;
}
static int er_take_fits(const er_take *r) {
    return one_of(r->x, r->wide) && none_or_all(r->x, r->y) && none_or_all(r->wide, r->sums) && count_fits(r->outer) &&
           count_fits(r->size) && count_fits(r->count) && count_fits(r->inner) &&
           (int64_t)r->outer * r->inner <= MOST && (int64_t)r->outer * r->inner * r->size == r->inputs &&
           (int64_t)r->outer * r->inner * r->count == r->outputs && indices_fit(r->index, r->count, r->size);
}

static int rows_fit(int32_t outputs, int32_t row) { return row >= 1 && outputs >= 1 && outputs % row == 0; }
static int er_softmax_fits(const er_softmax *r) { return rows_fit(r->outputs, r->row); }
static int er_log_softmax_fits(const er_log_softmax *r) { return rows_fit(r->outputs, r->row); }
static int er_layer_norm_fits(const er_layer_norm *r) { return rows_fit(r->outputs, r->row); }

static int er_dense_sum_fits(const er_dense_sum *r) { return one_of(r->x, r->wide); }
static int er_cells_fits(const er_cells *r) {
    return r->parameters >= 1 && one_of(r->x, r->wide) && none_or_all(r->alpha, r->current) &&
           none_or_all(r->alpha, r->current_carry) && (!r->recurrent || r->sums) && none_or_all(r->sum, r->seen);
}
static int er_alpha_cells_fits(const er_alpha_cells *r) {
    return r->parameters >= 1 && one_of(r->x, r->wide) && none_or_all(r->sum, r->seen);
}
static int er_integrators_fits(const er_integrators *r) {
    return r->parameters >= 1 && one_of(r->x, r->wide) && none_or_all(r->alpha, r->current) &&
           none_or_all(r->alpha, r->current_carry) && none_or_all(r->sum, r->seen);
}
static int er_patterns_fits(const er_patterns *r) { return r->inputs >= 1 && r->steps >= 1; }

#define STEPS_FIT(r) \
    return (r)->units >= 1 && (r)->inputs >= 1 && (r)->steps >= 1 && \
           (int64_t)((r)->sequence ? (r)->steps : 1) * (r)->units == (r)->outputs
static int er_rnn_fits(const er_rnn *r) { STEPS_FIT(r); }
static int er_gru_fits(const er_gru *r) { STEPS_FIT(r); }
static int er_lstm_fits(const er_lstm *r) { STEPS_FIT(r); }
static int er_lstm_q12_fits(const er_lstm_q12 *r) { STEPS_FIT(r); }
static int er_slstm_fits(const er_slstm *r) { return r->steps == 1 && r->units == r->outputs; }

#define FITS(kind, record, fields) \
    case ER_KIND_##kind: return layer->as.kind.outputs >= 1 && record##_fits(&layer->as.kind);

int er_layer_fits(const er_layer *layer) {
    switch (layer->kind) { ER_LAYERS(FITS) }
    return 0;
}
