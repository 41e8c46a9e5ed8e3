/* Which kinds of layers have a packed form: what module.c asks before a network runs. */
#include "edgerun.h"

int64_t er_layer_packed(const er_layer *layer) {
    switch (layer->kind) {
    case ER_KIND_dense: return er_dense_packed(&layer->as.dense);
    default: return 0;
    }
}

void er_layer_pack(const er_layer *layer, int8_t *packed) {
    switch (layer->kind) {
    case ER_KIND_dense: er_dense_pack(&layer->as.dense, packed); break;
    default: break;
    }
}
