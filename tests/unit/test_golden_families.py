"""Every family of layers gives the bits that its slow reference gave."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from golden import make_vectors
from runs import needs_wide_words

from edgerun.arrays import Tensors
from edgerun.ops import OPS
from edgerun.spec import Layer

GOLDEN = Path(__file__).parents[1] / "golden"


@cache
def load(family: str) -> tuple[Tensors, dict[str, str]]:
    with np.load(GOLDEN / f"{family}.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        return {name: file[name] for name in file.files if name != "about"}, about["layers"]


CASES = [(family, case) for family in make_vectors.FAMILIES for case in load(family)[1]]


@pytest.mark.parametrize("family", make_vectors.FAMILIES)
@needs_wide_words
def test_the_file_is_what_its_script_makes(family: str) -> None:
    (stored, stored_specs), (made, specs) = load(family), make_vectors.family_vectors(family)
    assert stored_specs == specs
    assert set(stored) == set(made)
    for name, array in made.items():
        assert (array.dtype, array.tolist()) == (stored[name].dtype, stored[name].tolist()), name


@pytest.mark.parametrize(("family", "case"), CASES)
def test_a_layer_gives_the_stored_bits(family: str, case: str) -> None:
    stored, specs = load(family)
    spec: Layer = msgspec.json.decode(specs[case], type=Layer)
    arrays = {name.removeprefix(f"{case}."): array for name, array in stored.items() if name.startswith(f"{case}.")}
    run = OPS[type(spec)](spec, {f"{spec.name}.{name}": array for name, array in arrays.items()}, ())
    xs = [arrays[f"x{k}"] for k in range(len(spec.widths))]
    watched = [name for name in arrays if name == "y" or name in {state.name for state in spec.state()}]
    for t in range(len(xs[0])):
        run.step(*(x[t].astype(np.float32) for x in xs))
        for name in watched:
            got = run.out if name == "y" else run.state()[name]
            assert got.astype(np.int64).tolist() == arrays[name][t].tolist(), (t, name)


@pytest.mark.parametrize(("family", "case"), CASES)
def test_a_stored_layer_does_something(family: str, case: str) -> None:
    assert np.unique(load(family)[0][f"{case}.y"]).size > 1
