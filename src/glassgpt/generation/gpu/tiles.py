"""Division of work among GPU programs, as was fastest on an H100 (docs/log.md).

No result depends on the number of rows: a row gives the same bits in any batch. So whatever determines the order of a
sum (splits, accumulators, keys per program) depends on the model's shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_SPLITS = 4
"""Programs that may share one output's product."""
ATTENTION_KEYS, ATTENTION_WARPS, ATTENTION_STAGES = 256, 4, 2
"""Keys of 64 numbers that an attention program processes at once, and its launch options."""
FP8_ATTENTION_STAGES = 1
"""With keys and values in 8 bits. They are loaded into registers, so that three programs fit on a multiprocessor instead of one."""

LONG_CONTEXT = 1024
"""Models with a longer context share the keys of a slot among programs."""
CHUNK_BLOCKS, MAX_CHUNKS = 2, 64
"""Blocks of keys per program then, and most programs that share a head's keys: beyond, each takes more blocks."""
PREFETCHED_BYTES = 16 * 2**20
"""Keys and values that such a step prefetches into the L2 cache, which has 50 MB on an H100."""


@dataclass(frozen=True)
class Tiles:
    """Division of a matrix product into programs.

    Attributes:
        rows: rows of x per program; at least 16, as the tensor cores need.
        outputs: outputs per program.
        depth: columns loaded at once for each accumulator.
        warps: warps per program.
        stages: loads in flight.
    """

    rows: int
    outputs: int
    depth: int
    warps: int = 4
    stages: int = 4


@dataclass(frozen=True)
class TileTable:
    """Tile sizes of each kind of product, up to some number of rows: with few rows, many small programs are faster.

    Attributes:
        head: the product with the vocabulary.
        whole: products that are not split: queries, keys and values; up.
        short: split products with few columns: attention's output.
        long: split products with many columns: down.
    """

    head: Tiles
    whole: Tiles
    short: Tiles
    long: Tiles

    def select(self, width: int, width_out: int, splits: int) -> Tiles:
        """Return the tile sizes of a product (M, width) by (width, width_out)."""
        if splits == 1:
            return self.head if width_out > 16 * 1024 else self.whole
        return self.short if width <= 1024 else self.long


FEW_ROWS = 16
"""Rows of the narrowest tile: fewer rows cost the same."""
TILE_TABLES = {
    FEW_ROWS: TileTable(Tiles(16, 16, 64, 1), Tiles(16, 32, 64, 2), Tiles(16, 16, 32, 1), Tiles(16, 16, 64, 1, 6)),
    32: TileTable(Tiles(32, 32, 64, 2), Tiles(32, 16, 64, 1), Tiles(32, 16, 32, 1, 3), Tiles(32, 16, 64, 2, 6)),
    64: TileTable(Tiles(64, 64, 64, 4, 3), Tiles(64, 32, 64), Tiles(64, 32, 32, 4, 3), Tiles(64, 32, 64)),
}
FP8_TILE_TABLES = {
    FEW_ROWS: TILE_TABLES[FEW_ROWS],
    64: TileTable(Tiles(32, 64, 64, 4, 3), Tiles(32, 32, 64, 2), Tiles(32, 32, 32, 2, 3), Tiles(32, 32, 64, 2)),
}
"""With weights in 8 bits; other sizes were not tried. No tile has 64 rows and four warps: for those, the compiler chooses another
instruction, which takes the columns in another order than the one for few rows (seen in Triton 3.6's code)."""


def tile_table(rows: int, *, in_fp8: bool = False) -> TileTable:
    """Return the tile sizes for a number of rows."""
    tables = FP8_TILE_TABLES if in_fp8 else TILE_TABLES
    return tables[next((limit for limit in tables if rows <= limit), max(tables))]


def splits_for(width: int) -> int:
    """Return the number of programs that share the columns of a product, each a multiple of 16 for tensor cores."""
    return next(splits for splits in (MAX_SPLITS, 2, 1) if width % (16 * splits) == 0 or splits == 1)


def accumulators_for(share: int) -> int:
    """Return the number of sums that a program accumulates in parallel over its share of columns; see `linear_kernel`."""
    return 2 if share % 32 == 0 else 1


def attention_block_keys(half: int) -> int:
    """Return the number of keys that an attention program processes at once, for heads of width 2 · `half`.

    Keys share the program's memory, so wider heads leave space for fewer of them.
    """
    return min(ATTENTION_KEYS, max(16, ATTENTION_KEYS * 32 // half))


def attention_chunk_keys(block_keys: int, context_length: int) -> int:
    """Return the number of positions whose keys one program processes: a power of two times the keys of a block."""
    chunk = block_keys * CHUNK_BLOCKS
    while chunk * MAX_CHUNKS < context_length:
        chunk *= 2
    return chunk
