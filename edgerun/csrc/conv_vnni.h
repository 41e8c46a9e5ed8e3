#ifndef EDGERUN_CONV_VNNI_H
#define EDGERUN_CONV_VNNI_H

#include "edgerun.h"
#include "rounding_vnni.h"

#ifdef ER_VNNI
/* Bytes of a layer's packed form where the processor has the instruction and the layer suits it, else 0. */
int64_t er_vnni_conv_packed(const er_conv *r);
int64_t er_vnni_depthwise_packed(const er_depthwise *r);
void er_vnni_conv_pack(const er_conv *r, int8_t *packed);
void er_vnni_depthwise_pack(const er_depthwise *r, int8_t *packed);
/* A layer's step by its packed form; 0, y undefined, where a value does not fit int8. */
int er_vnni_conv(const er_conv *r);
int er_vnni_depthwise(const er_depthwise *r);
#endif

#endif
