// Products of bfloat16 tiles on AMX: 32 x 32 results in four tile registers, every operand tile a contiguous KiB of its
// form.
#pragma once

#if defined(GLORIA_AMX_EMULATED)
#include "amx_emulated.h"
#else
#include <immintrin.h>
#define GLORIA_TILE_ZERO(tile) _tile_zero(tile)
#define GLORIA_TILE_LOAD(tile, address) _tile_loadd(tile, address, 64)
#define GLORIA_TILE_STORE(tile, address) _tile_stored(tile, address, 64)
#define GLORIA_TILE_DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#endif

#include "operands.h"

namespace gloria::GLORIA_ISA {

constexpr int64_t kTile = 256;  // units of a tile register: 16 rows of 16
constexpr int64_t kChunkBlocks =
    8;  // blocks of 16 units of K between visits to the results: the operands of a chunk stay in cache

#if !defined(GLORIA_AMX_EMULATED)
inline void configure_tiles() {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  _tile_loadconfig(&config);
}
inline void release_tiles() { _tile_release(); }
#endif

// Up to 32 x 32 results: `a` and `b` point at the first tile, the second row of tiles stands `a_next` (rows) or
// `b_next` (columns) further.
inline void tile_kernel(const Unit* a, int64_t a_next, int64_t a_block, const Unit* b, int64_t b_next, int64_t blocks,
                        float* c, int64_t c_next, bool two_rows, bool two_columns, bool accumulate) {
  GLORIA_TILE_ZERO(0);
  GLORIA_TILE_ZERO(1);
  GLORIA_TILE_ZERO(2);
  GLORIA_TILE_ZERO(3);
  if (accumulate) {
    GLORIA_TILE_LOAD(0, c);
    if (two_columns) GLORIA_TILE_LOAD(1, c + c_next);
    if (two_rows) GLORIA_TILE_LOAD(2, c + kTile);
    if (two_rows && two_columns) GLORIA_TILE_LOAD(3, c + c_next + kTile);
  }
  if (two_rows && two_columns) {
    for (int64_t k = 0; k < blocks; ++k, a += a_block, b += kTile) {
      GLORIA_TILE_LOAD(4, a);
      GLORIA_TILE_LOAD(6, b);
      GLORIA_TILE_DOT(0, 4, 6);
      GLORIA_TILE_LOAD(7, b + b_next);
      GLORIA_TILE_DOT(1, 4, 7);
      GLORIA_TILE_LOAD(5, a + a_next);
      GLORIA_TILE_DOT(2, 5, 6);
      GLORIA_TILE_DOT(3, 5, 7);
    }
  } else {
    for (int64_t k = 0; k < blocks; ++k, a += a_block, b += kTile) {
      GLORIA_TILE_LOAD(4, a);
      GLORIA_TILE_LOAD(6, b);
      GLORIA_TILE_DOT(0, 4, 6);
      if (two_columns) {
        GLORIA_TILE_LOAD(7, b + b_next);
        GLORIA_TILE_DOT(1, 4, 7);
      }
      if (two_rows) {
        GLORIA_TILE_LOAD(5, a + a_next);
        GLORIA_TILE_DOT(2, 5, 6);
      }
    }
  }
  GLORIA_TILE_STORE(0, c);
  if (two_columns) GLORIA_TILE_STORE(1, c + c_next);
  if (two_rows) GLORIA_TILE_STORE(2, c + kTile);
  if (two_rows && two_columns) GLORIA_TILE_STORE(3, c + c_next + kTile);
}

// See `product`. K is rounded up to whole blocks of 16 units: both forms hold zeros there.
inline void product_by_tiles(Left left, Right right, Result result, int64_t rows, int64_t panels, int64_t units,
                             Extent extent) {
  alignas(64)
      Unit turned[kChunkBlocks * 2 * kTile];  // a transposed left operand, 32 rows of a chunk turned into A form
  configure_tiles();
  const int64_t all_blocks = (units + 15) / 16;
  for (int64_t chunk = 0; chunk < all_blocks; chunk += kChunkBlocks)
    for (int64_t i = 0; i < rows; i += 32) {
      const bool two_rows = i + 16 < rows;
      const int64_t chunk_blocks = all_blocks - chunk < kChunkBlocks ? all_blocks - chunk : kChunkBlocks;
      const Unit* a = left.units + (chunk * left.alloc + i) * 16;
      int64_t a_block = left.alloc * 16;
      if (left.transposed) {
        for (int64_t k = 0; k < chunk_blocks; ++k)
          for (int64_t half = 0; half < (two_rows ? 2 : 1); ++half)
            transpose_blocks(left.units + ((i / 16 + half) * left.alloc + (chunk + k) * 16) * 16, 1, 16,
                             turned + (2 * k + half) * kTile);
        a = turned;
        a_block = 2 * kTile;
      }
      for (int64_t p = 0; p < panels; p += kGroup) {
        const bool two_columns = p + 1 < panels;
        const int64_t last = (p + (two_columns ? 2 : 1)) * kPanel;
        if (extent == Extent::kUpperRows && i >= last) continue;
        int64_t blocks = chunk_blocks;
        if (extent == Extent::kUpperInner) {
          const int64_t inner = (last + 31) / 32 - chunk;  // blocks of this chunk above the end of the diagonal block
          if (inner <= 0) continue;
          blocks = inner < blocks ? inner : blocks;
        }
        tile_kernel(a, kTile, a_block, right.units + (p * right.alloc + chunk * 16) * 16, right.alloc * 16, blocks,
                    result.values + (p * result.alloc + i) * kPanel, result.alloc * kPanel, two_rows, two_columns,
                    result.accumulate || chunk > 0);
      }
    }
  release_tiles();
}

}  // namespace gloria::GLORIA_ISA
