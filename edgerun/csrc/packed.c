/* Which kinds of layers have a packed form: what module.c asks before a network runs. */
#include "edgerun.h"

#define GATES_PACKED(kind, gates) \
    er_gates_packed((int64_t)(gates) * layer->as.kind.units, layer->as.kind.inputs, layer->as.kind.units)

int64_t er_layer_packed(const er_layer *layer) {
    switch (layer->kind) {
    case ER_KIND_dense: return er_dense_packed(&layer->as.dense);
    case ER_KIND_rnn: return GATES_PACKED(rnn, 1);
    case ER_KIND_gru: return GATES_PACKED(gru, 3);
    case ER_KIND_lstm: return GATES_PACKED(lstm, 4);
    case ER_KIND_lstm_q12: return GATES_PACKED(lstm_q12, 4);
    case ER_KIND_slstm: return GATES_PACKED(slstm, 4);
    case ER_KIND_conv: return er_conv_packed(&layer->as.conv);
    case ER_KIND_depthwise: return er_depthwise_packed(&layer->as.depthwise);
    default: return 0;
    }
}

void er_layer_pack(const er_layer *layer, int8_t *packed) {
    switch (layer->kind) {
    case ER_KIND_dense: er_dense_pack(&layer->as.dense, packed); break;
    case ER_KIND_rnn: er_rnn_pack(&layer->as.rnn, packed); break;
    case ER_KIND_gru: er_gru_pack(&layer->as.gru, packed); break;
    case ER_KIND_lstm: er_lstm_pack(&layer->as.lstm, packed); break;
    case ER_KIND_lstm_q12: er_lstm_q12_pack(&layer->as.lstm_q12, packed); break;
    case ER_KIND_slstm: er_slstm_pack(&layer->as.slstm, packed); break;
    case ER_KIND_conv: er_conv_pack(&layer->as.conv, packed); break;
    case ER_KIND_depthwise: er_depthwise_pack(&layer->as.depthwise, packed); break;
    default: break;
    }
}
