// The tile instructions of AMX as plain loops, so that the AMX kernels are tested on processors that lack them.
#pragma once

#include "forms.h"

namespace gloria::GLORIA_ISA {

inline thread_local Unit tiles[8][16][16];

inline void configure_tiles() {}
inline void release_tiles() {}

inline void emulated_dot(int sum, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n) {
        const Unit x = tiles[a][m][k], y = tiles[b][k][n];
        float value;
        std::memcpy(&value, &tiles[sum][m][n], 4);
        value += widen(BFloat16{static_cast<uint16_t>(x)}) * widen(BFloat16{static_cast<uint16_t>(y)});
        value += widen(BFloat16{static_cast<uint16_t>(x >> 16)}) * widen(BFloat16{static_cast<uint16_t>(y >> 16)});
        std::memcpy(&tiles[sum][m][n], &value, 4);
      }
}

}  // namespace gloria::GLORIA_ISA

#define GLORIA_TILE_ZERO(tile) std::memset(tiles[tile], 0, sizeof(tiles[tile]))
#define GLORIA_TILE_LOAD(tile, address) std::memcpy(tiles[tile], address, sizeof(tiles[tile]))
#define GLORIA_TILE_STORE(tile, address) std::memcpy(address, tiles[tile], sizeof(tiles[tile]))
#define GLORIA_TILE_DOT(sum, a, b) emulated_dot(sum, a, b)
