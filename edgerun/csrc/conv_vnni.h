#ifndef EDGERUN_CONV_VNNI_H
#define EDGERUN_CONV_VNNI_H

#include "dense_vnni.h"
#include "edgerun.h"

#ifdef ER_VNNI
/* A layer's step where the processor has the instruction and the layer's numbers suit it; 0, y undefined, otherwise. */
int er_vnni_conv(const er_conv *r);
/* Taps are laid out already. */
int er_vnni_depthwise(const er_depthwise *r);
#endif

#endif
