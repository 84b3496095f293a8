// The one description of a problem that the host, every kernel and the bindings share.
#pragma once

#include <cstdint>

namespace gloria {

enum class DType : int { kFloat32, kBFloat16, kFloat16 };
enum class WordNorm : int { kNone, kSoftmax, kClippedL2 };
enum class Pool : int { kLogSumExp, kMax, kMean, kSum, kSoftmax };

// What a thread spends its time on. `kWait`: for other threads, and whatever no stage claims.
enum class Stage : int {
  kWait,
  kPack,
  kGram,
  kAffinity,
  kAttention,
  kContext,
  kPool,
  kGradient,
  kGradGram,
  kGradRegions,
  kGradWords
};
constexpr const char* kStageNames[] = {
    "waiting",          "packing", "gram",     "affinity",         "attention",
    "context",          "pooling", "gradient", "gradient of gram", "gradient of regions",
    "gradient of words"};
constexpr int kStages = static_cast<int>(Stage::kGradWords) + 1;
static_assert(sizeof(kStageNames) / sizeof(kStageNames[0]) == kStages,
              "a name for each stage: callers size their sums by the names");

// One side of the batch in ragged form: item n owns `lengths[n]` rows of `dim` values from row `starts[n]` on.
struct Ragged {
  const void* rows;
  const int64_t* starts;
  const int64_t* lengths;
  int64_t count;
};

struct Problem {
  DType dtype;
  int64_t dim;
  Ragged images;  // rows are regions
  Ragged texts;   // rows are words
  WordNorm word_norm;
  float attention_scale;  // infinity: hard maximum over the regions
  bool cosine;
  Pool pool;
  float word_scale;
  bool pool_mean;        // mean instead of sum inside the log
  bool pool_divide;      // divide the log by word_scale
  int64_t search_words;  // of all texts, where the images are a corpus that is searched for these texts alone; else 0
  int threads;
  int64_t* stage_nanoseconds;  // [kStages], summed over the threads; null where nobody asks
  bool (*interrupted)();    // asked by the caller's thread some twenty times a second whether to give up; null: never
  bool smooth_max = false;  // u is a smooth maximum of the affinities; not with `cosine` or a word norm
  const float* word_weights = nullptr;  // of each row of the texts in the pool; null: 1
};

// Of a hard maximum over the regions every word has its best region, or regions that tie, and no attention.
inline bool is_hard(const Problem& problem) { return __builtin_isinf(problem.attention_scale); }

// Of a hard maximum: what forward writes down so that backward need not look for it again. `regions` is (images,
// words), words being all rows of the texts: which region of the image is the word's best, or `kTied`.
constexpr int32_t kTied = -1;
struct Kept {
  int32_t* regions = nullptr;  // null: nothing is kept
  int64_t words = 0;
};

// Where the results go. `scores` is (images, texts); gradients have the layout and dtype of the rows they belong to.
struct Gradients {
  const float* scores;
  Kept best;  // by forward
  void* regions;
  void* words;
  float* word_weights = nullptr;  // one for each row of the texts; null: not wanted, as below
  double* attention_scale = nullptr;
  double* word_scale = nullptr;
};

}  // namespace gloria
