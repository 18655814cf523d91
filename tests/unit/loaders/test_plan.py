"""Plans: every wanted byte once, in its place, and hardly any other."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.safetensors.errors import LoadError, UnknownTensor
from loaders.safetensors.header import TensorSpec
from loaders.safetensors.layout import ALIGNMENT, lay_out, straight
from loaders.safetensors.plan import CHUNK_BYTES, MOST_WASTE, Chunk, Wanted, make_chunks
from loaders.safetensors.selection import bounds_of, chosen

DTYPES = {"U8": 1, "BF16": 2, "F32": 4, "F64": 8}


def specs_of(kinds: list[tuple[str, tuple[int, ...]]], start: int = 100) -> list[TensorSpec]:
    found = []
    for number, (dtype, shape) in enumerate(kinds):
        stop = start + DTYPES[dtype] * math.prod(shape)
        found.append(TensorSpec(name=f"t{number}", dtype=dtype, shape=shape, start=start, stop=stop))
        start = stop
    return found


def whole(specs: list[TensorSpec], file: int = 0) -> list[Wanted]:
    return [Wanted(file=file, spec=spec, bounds=tuple((0, length) for length in spec.shape)) for spec in specs]


def indices(wanted: Wanted) -> list[int]:
    """The file's offsets of the part's bytes, in order, counted the slow way."""
    item = DTYPES[wanted.spec.dtype]
    found = []
    for place in itertools.product(*(range(*bounds) for bounds in wanted.bounds)):
        index = 0
        for position, length in zip(place, wanted.spec.shape, strict=True):
            index = index * length + position
        found += range(wanted.spec.start + index * item, wanted.spec.start + (index + 1) * item)
    return found


def brought(chunks: tuple[Chunk, ...], wanted: list[Wanted]) -> list[list[int | None]]:
    """Which byte of the file each byte of each tensor would get; every one at most once."""
    places: list[list[int | None]] = [[None] * part.size for part in wanted]
    for chunk in chunks:
        for piece in chunk.pieces:
            assert piece.at >= 0
            assert piece.at + piece.count <= chunk.size
            assert wanted[piece.tensor].file == chunk.file
            for byte in range(piece.count):
                assert places[piece.tensor][piece.to + byte] is None
                places[piece.tensor][piece.to + byte] = chunk.start + piece.at + byte
    return places


@st.composite
def parts(draw: st.DrawFn) -> list[Wanted]:
    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    specs = specs_of(draw(st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), shapes), min_size=1, max_size=5)))
    found = []
    for spec in specs:
        bounds = []
        for length in spec.shape:
            start = draw(st.integers(0, length))
            bounds.append((start, draw(st.integers(start, length))))
        found.append(Wanted(file=draw(st.integers(0, 1)), spec=spec, bounds=tuple(bounds)))
    return found


@given(wanted=parts(), breaks=st.frozensets(st.integers(0, 4)))
def test_every_wanted_byte_is_brought_once_to_its_place(wanted: list[Wanted], breaks: frozenset[int]) -> None:
    chunks = make_chunks(wanted, breaks)
    assert brought(chunks, wanted) == [indices(part) for part in wanted]
    needed = sum(part.size for part in wanted)
    assert sum(chunk.size for chunk in chunks) <= needed * (1 + MOST_WASTE)


def test_a_long_tensor_is_cut_at_the_files_multiples_and_on_whole_elements() -> None:
    wanted = whole(specs_of([("U8", (3,)), ("F64", (40_000_000,))]))
    chunks = make_chunks(wanted)
    assert all(chunk.size <= CHUNK_BYTES + 64 for chunk in chunks)
    for before, after in itertools.pairwise(chunks):
        assert before.stop == after.start
        assert 0 <= -before.stop % CHUNK_BYTES < 8
        assert (after.start - wanted[1].spec.start) % 8 == 0


def test_neighbours_share_a_chunk_and_strangers_do_not() -> None:
    specs = specs_of([("U8", (1000,))] * 3)
    assert len(make_chunks(whole(specs))) == 1
    assert len(make_chunks(whole([specs[0], specs[2]]))) == 2
    assert len(make_chunks([*whole(specs[:1], 0), *whole(specs[1:], 1)])) == 2


def test_rows_with_small_gaps_are_read_together_and_with_large_ones_apart() -> None:
    (spec,) = specs_of([("U8", (64, 1000))])
    narrow = Wanted(file=0, spec=spec, bounds=((0, 64), (0, 125)))
    assert sum(chunk.size for chunk in make_chunks([narrow])) == 64 * 125
    wide = Wanted(file=0, spec=spec, bounds=((0, 64), (0, 990)))
    assert len(make_chunks([wide])) == 1


def test_a_slice_of_the_first_dimension_is_one_range() -> None:
    (spec,) = specs_of([("BF16", (8, 1000))])
    part = Wanted(file=0, spec=spec, bounds=bounds_of(spec, (1, 4, {"*": 0}), "weights"))
    (chunk,) = make_chunks([part])
    assert (chunk.start, chunk.stop) == (spec.start + 2 * 2000, spec.start + 4 * 2000)


@given(wanted=parts())
def test_tensors_lie_aligned_and_apart(wanted: list[Wanted]) -> None:
    items = [DTYPES[part.spec.dtype] for part in wanted]
    layout = lay_out(wanted, [part.size for part in wanted], items, 64)
    taken: set[tuple[int, int]] = set()
    for part, place, item in zip(wanted, layout.places, items, strict=True):
        assert place.offset % item == 0
        spots = {(place.block, place.offset + byte) for byte in range(part.size)}
        assert not spots & taken
        assert place.offset + part.size <= layout.blocks[place.block]
        taken |= spots


@given(wanted=parts())
def test_what_lands_straight_lands_right(wanted: list[Wanted]) -> None:
    items = [DTYPES[part.spec.dtype] for part in wanted]
    layout = lay_out(wanted, [part.size for part in wanted], items, 64)
    for chunk in make_chunks(wanted, layout.breaks):
        origin = straight(chunk, layout.places)
        for piece in chunk.pieces if origin else ():
            place = layout.places[piece.tensor]
            assert (place.block, place.offset + piece.to) == (origin.block, origin.offset + piece.at)


def test_a_whole_file_lands_straight_and_congruent_with_the_file() -> None:
    wanted = whole(specs_of([("F32", (5, 7)), ("F32", ()), ("BF16", (3,)), ("U8", (1,))], start=1000))
    layout = lay_out(wanted, [part.size for part in wanted], [4, 4, 2, 1], 1 << 20)
    (chunk,) = make_chunks(wanted, layout.breaks)
    origin = straight(chunk, layout.places)
    assert origin is not None
    assert origin.offset % ALIGNMENT == 1000 % ALIGNMENT


def test_what_must_be_aligned_anew_does_not_land_straight() -> None:
    wanted = whole(specs_of([("U8", (3,)), ("F32", (2,))]))
    layout = lay_out(wanted, [3, 8], [1, 4], 1 << 20)
    (chunk,) = make_chunks(wanted, layout.breaks)
    assert straight(chunk, layout.places) is None


NAMES = ["layers.0.w", "layers.0.b", "layers.1.w", "head[0]", "head0"]


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (None, NAMES),
        ("layers.0.*", ["layers.0.w", "layers.0.b"]),
        (["*.w", "head0"], ["layers.0.w", "layers.1.w", "head0"]),
        ("head[0]", ["head[0]"]),
        (lambda name: name.endswith("b"), ["layers.0.b"]),
        (lambda _: False, []),
    ],
)
def test_tensors_are_chosen_by_glob_name_list_or_function(tensors: object, expected: list[str]) -> None:
    assert chosen(NAMES, tensors, "weights") == expected  # type: ignore[arg-type]


def test_a_pattern_that_matches_nothing_is_an_error_and_no_empty_result() -> None:
    with pytest.raises(UnknownTensor, match=r"layers\.9"):
        chosen(NAMES, ["layers.0.*", "layers.9.*"], "weights")


@given(length=st.integers(0, 50), world=st.integers(1, 9))
def test_the_ranks_parts_are_the_tensor(length: int, world: int) -> None:
    (spec,) = specs_of([("F32", (3, length))])
    cuts = [bounds_of(spec, (rank, world, {"t*": -1}), "weights")[1] for rank in range(world)]
    assert cuts[0][0] == 0
    assert cuts[-1][1] == length
    assert all(before[1] == after[0] for before, after in itertools.pairwise(cuts))
    sizes = [stop - start for start, stop in cuts]
    assert max(sizes) - min(sizes) <= 1


def test_the_first_matching_rule_counts_and_none_keeps_the_tensor_whole() -> None:
    (spec,) = specs_of([("F32", (4, 6))])
    assert bounds_of(spec, (0, 2, {"t0": None, "t*": 1}), "weights") == ((0, 4), (0, 6))
    assert bounds_of(spec, (0, 2, {"x*": 1}), "weights") == ((0, 4), (0, 6))
    assert bounds_of(spec, {"t*": (slice(1, 3), slice(-2, None))}, "weights") == ((1, 3), (4, 6))
    assert bounds_of(spec, {"t*": (slice(3, 1),)}, "weights") == ((3, 3), (0, 6))


def test_a_name_means_itself_and_rules_before_every_glob() -> None:
    (spec,) = specs_of([("F32", (4, 6))])
    assert bounds_of(spec, (0, 2, {"*": 1, "t0": 0}), "weights") == ((0, 2), (0, 6))
    named = replace(spec, name="experts[0].up")
    assert bounds_of(named, (0, 2, {"experts[0].up": 0}), "weights") == ((0, 2), (0, 6))


@pytest.mark.parametrize(
    "shard",
    [(2, 2, {"*": 0}), (-1, 2, {"*": 0}), (0, 2, {"*": 2}), {"*": (slice(None),) * 3}, {"*": (slice(None, None, 2),)}],
)
def test_a_shard_that_means_nothing_is_an_error(shard: object) -> None:
    (spec,) = specs_of([("F32", (4, 6))])
    with pytest.raises(LoadError):
        bounds_of(spec, shard, "weights")  # type: ignore[arg-type]
