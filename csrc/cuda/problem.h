// What the kernels are given. All addresses are of the device's memory; all sizes that a product runs over are padded
// with zeros, so that no kernel looks at a boundary while it multiplies.
#pragma once

#include <cstdint>

namespace gloria_cuda {

constexpr int kWords = 128;  // columns of a tile of words
constexpr int kSlot = 8;     // a text owns whole slots of a tile
constexpr int kSlots = kWords / kSlot;
constexpr int kRows = 128;        // regions of a pass
constexpr int kKeptRows = 16;     // the height of matrices of what is kept is a multiple of it
constexpr int kOnChip = 3;        // passes whose attention stays in shared memory
constexpr int kMostPasses = 128;  // of one image
constexpr int kImagesAtOnce =
    16;  // neighbors in time share images and tiles, which then stay in the second-level cache

enum class WordNorm : int32_t { kNone, kSoftmax };
enum class Pool : int32_t { kLogSumExp, kMax, kMean, kSum };
enum class DType : int32_t { kBFloat16, kFloat16 };
// How |c|^2 is found: not at all (dot), as a^T G a, from c itself, or from c for those words whose a^T G a cancels.
enum class Norm : int32_t { kNone, kGram, kDirect, kDirectWhereCancelled };

// Which words stand in which column. A text of up to 128 words has whole slots of one tile; a longer one has a run of
// tiles to itself.
struct Plan {
  int32_t* rows;        // (tiles, kWords) row of the words, or -1
  int32_t* slots;       // (tiles, kSlots) text of each slot, or -1
  uint32_t* continues;  // (tiles) bit n: slot n goes on with the text of slot n - 1, or is empty
  uint32_t* real;       // (tiles, 4) bit 2 n + e of entry t: column 8 n + 2 t + e is a word
  int32_t* runs;        // (tiles) first tile of each run; most runs are one tile
  int32_t* spans;       // (tiles) tiles of each run
  int32_t* columns;     // (texts) column of the first word, or -1 where the tiles did not suffice
  int32_t* order;       // (texts) scratch
  int32_t* places;      // (texts) scratch
  int32_t* counts;      // (3) runs, tiles in use, runs of long texts, which come first
  int32_t tiles;        // room for so many
};

struct PlanProblem {
  const int64_t* starts;
  const int64_t* lengths;
  Plan plan;
  int32_t texts;
};

// Rows brought to where a kernel wants them: words into tiles (`rows` set), or regions into images of `side` rows.
struct PackProblem {
  const uint16_t* from;  // (.., dim)
  uint16_t* to;          // (count, padded_dim)
  float* norms;          // (count)
  const int32_t* rows;   // (count) row of `from` or -1; null for regions
  const int32_t* used;   // (1) tiles in use; null for regions
  const int64_t* starts;
  const int64_t* lengths;
  int64_t count;
  int32_t side, dim, padded_dim;
  DType dtype;
};

// What backward keeps of the affinities of a chunk of tiles, in matrices (images, height, pitch) whose first column is
// that of `first_tile`; planes of single words are (images, pitch). Passes may reach beyond the height: not all is
// kept.
struct Kept {
  // Of bfloat16 problems s / (|t| |v|) in float16, as good for a bfloat16 gradient as float32; of float16 ones s in
  // float32. Null where nothing is kept.
  void* affinities;
  void* products;             // r^2 G a, likewise
  float* statistics;          // (kStatistics, images, pitch)
  const float* region_norms;  // (images, height)
  int64_t pitch;
  int32_t height, first_tile;
};
// Of a word and an image: what is subtracted in the exponents of its attention, the sum of the exponentials, the means
// of s and of r^2 G a by the attention, and |c|.
enum Statistic { kShift, kExponentials, kMeanAffinity, kMeanProduct, kContextNorm, kStatistics };

struct ForwardProblem {
  const uint16_t* words;          // (tiles * kWords, dim)
  const float* word_norms;        // (tiles * kWords)
  const uint16_t* regions;        // (images, side, dim)
  const float* region_norms;      // (images, side)
  const int64_t* region_lengths;  // (images)
  // float16, and scaled by a power of two r of the image so that no |r v| is above 1. kGram: (images, side, side), r^2
  // G below the diagonal of blocks of 16 twice, above it zero. Direct: (images, side, left_dim), r V.
  const uint16_t* left;
  const float* unscale;  // (images) 1 / r
  Plan plan;
  uint16_t* scratch;    // (blocks, side, kWords) float16 attention, where it does not fit in shared memory
  float* levels;        // (blocks, side, 2) maximum and sum of a text that fills several tiles
  float* similarities;  // (images, tiles * kWords)
  uint8_t* cancelled;   // (images, tiles) whether a word of an image and run waits for the direct way
  Kept kept;
  int32_t images, side, dim, left_dim;
  float scale;  // attention scale times log2(e); 1 for the hard maximum
  WordNorm word_norm;
  Norm norm;
  bool long_only;  // only runs of long texts
  bool hard;       // the hard maximum over the regions: word_norm none, dot product
};

struct PoolProblem {
  const float* similarities;  // (images, width)
  const int64_t* lengths;     // (texts)
  const int32_t* columns;     // (texts)
  float* scores;              // (images, texts)
  int64_t width;
  int32_t images, texts;
  float scale;
  Pool pool;
  bool mean, divide;
};

// Of a word and an image: what the attention e, not yet normalized, is multiplied by in the gradient of the affinity
// directly, and times a difference of r^2 G a; its weight in that of G; what its own vector is multiplied by; and what
// no |gs| is above.
enum Coefficient { kOfAffinity, kOfProduct, kOfGram, kOfWord, kBound, kCoefficients };

struct CoefficientProblem {
  PoolProblem pool;
  Kept kept;
  const float* grad_scores;  // (images, texts)
  const float* word_norms;   // of all columns
  const float* unscale;      // (images), above every |v|
  float* coefficients;       // (kCoefficients, images, pitch), zeros before
  int32_t tiles;             // of the chunk
  float attention_scale;     // 0 for the hard maximum, which passes no gradient
  bool cosine;
};

struct GradientProblem {
  Plan plan;
  Kept kept;
  // As matrices of the same pitch: gs in the dtype of the problem, and in float16 the attention, not normalized. They
  // may take the places of the affinities and products that were kept, where those have 16 bits.
  uint16_t *gradient, *attention;
  const float* coefficients;
  const float* word_norms;
  const int64_t* region_lengths;
  int32_t images;
  float scale, attention_scale;  // as in forward, and as in coefficients
  WordNorm word_norm;
  bool hard, cosine;
};

// What the gradient of the Gram matrices is made of: the attention, not normalized, and the weight of each word's.
struct GramGradientProblem {
  const uint16_t* attention;  // (images, height, pitch) float16
  const uint16_t* weights;    // (images, pitch) float16
  const float* factors;       // (images), of the weights
  float* sums;                // (images, side, side); only the blocks of kRows on and below the diagonal are added to,
                              // beyond the height anything finite
  int64_t pitch;
  int32_t images, height, side;
};

// A word that waits for the direct way is marked by this similarity, which no cosine is.
constexpr float kCancelled = 4.f;
// a^T G a, whose terms are rounded to 2^-12, is trusted while it keeps a quarter of its diagonal terms: where the
// others cancel more than that, it is less exact than the norm of c.
constexpr float kTrusted = 0.25f;

}  // namespace gloria_cuda
