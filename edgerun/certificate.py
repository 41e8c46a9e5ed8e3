"""The exactness certificate: which carrier may hold a layer's sums without losing a bit, proven from its tensors.

The exporter computes it to choose scales, the loader computes it again and trusts nobody. All bounds are worst cases
over every input that the layers before can emit; random data never reaches them, adversarial same-sign data does. Each
kind of layer proves itself (`edgerun/layers`); the head's bound is 3 * d * max|z|**2 + |bias| < 2**31 for
2 z.c - c.c + bias.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgerun.arrays import I32
from edgerun.graph import feature_reach, layer_reaches, plastic_tensors
from edgerun.layers.base import Certificate, Tensors, refuse_above
from edgerun.spec import Manifest


def certify(manifest: Manifest, tensors: Tensors) -> dict[str, Certificate]:
    """The certificate of every layer by name, the whitening layer included.

    tensors  shapes, dtypes and single values already checked (`edgerun.bundle`)

    Raises SpecError naming the layer and the channel that no carrier can hold.
    """
    plastic, reaches = plastic_tensors(manifest), layer_reaches(manifest)
    certificates = {layer.name: layer.certify(tensors, reaches[layer.name][0], plastic) for layer in manifest.layers}
    if manifest.head.kind == "prototypes":
        certificates |= _certify_head(manifest, tensors)
    return certificates


def _certify_head(manifest: Manifest, tensors: Tensors) -> dict[str, Certificate]:
    whiten, reach = manifest.head.whiten, feature_reach(manifest)
    certificates: dict[str, Certificate] = {}
    if whiten:
        certificates[whiten.name] = whiten.certify(tensors, (reach,), frozenset())
        reach = whiten.reach((reach,))
    width = tensors["head.sum"].shape[1]
    score = 3 * width * reach * reach + np.abs(cast(I32, tensors["head.bias"]).astype(np.int64))
    refuse_above("head", "largest prototype score", score, (1 << 31) - 1)
    return certificates
