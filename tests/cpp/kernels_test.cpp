// The kernels without Python and torch, so that whatever a sanitizer reports is ours; every result against the oracle.
//
// Prints what failed, and the counts on the last line.
#include <sys/mman.h>

#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/dispatch.h"
#include "oracle.h"
#include "rows.h"

using gloria::Pool;
using gloria::Problem;
using gloria::WordNorm;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const std::vector<std::string> kIsas = gloria::available_isas();

// How far results may be from the oracle's, as a share of their root mean square: about twice the most that was
// measured. With float32 products that is rounding of sums, and the rounding of a float16 gradient to its dtype;
// bfloat16 products round the attention and its gradient as well. A wrong index or a wrong tail errs by a share near 1.
const struct {
  Type type;
  double scores, gradients;
} kTypes[] = {{kFloat32, 2e-6, 2e-5}, {kBFloat16, 2e-3, 2e-2}, {kFloat16, 2e-6, 1e-3}};

int passed = 0, failed = 0;

void check(bool ok, const std::string& what) {
  ++(ok ? passed : failed);
  if (!ok) std::printf("FAILED %s\n", what.c_str());
}

struct Knobs {
  WordNorm norm;
  float attention_scale;
  bool cosine;
  Pool pool;
  bool pool_mean, pool_divide;
  bool smooth_max = false;
};
const Knobs kReleased{WordNorm::kSoftmax, 4, true, Pool::kLogSumExp, false, false};
const Knobs kPaper{WordNorm::kNone, 4, false, Pool::kLogSumExp, false, true};
const Knobs kScan{WordNorm::kClippedL2, 9, true, Pool::kLogSumExp, false, true};
const Knobs kMaxSim{WordNorm::kNone, kInfinity, false, Pool::kSum, false, false};

struct Shape {
  std::vector<int64_t> regions, words;
  int64_t dim;
};
const Shape kGram{{21, 1, 16}, {9, 2, 5, 7}, 35}, kDirect{{67, 31, 2}, {9, 2, 5, 7}, 13};
// Work for four threads and several bins of texts.
const Shape kLarge{{400, 40, 17, 64, 1, 33, 48}, {60, 31, 47, 2, 56, 17, 64, 40, 9, 33}, 45};

struct Results {
  std::vector<float> scores;
  Rows regions, words;  // gradients; rows that belong to no item stay NaN
  bool operator==(const Results& other) const {
    return std::memcmp(scores.data(), other.scores.data(), scores.size() * sizeof(float)) == 0 &&
           regions.bytes == other.regions.bytes && words.bytes == other.words.bytes;
  }
};

struct Case {
  const Type& type;
  std::string name;
  std::mt19937 random{1};
  Side images, texts;
  Problem problem;
  std::vector<float> upstream;

  Case(const Type& type_, const Knobs& knobs, const Shape& shape)
      : type(type_), images(type, shape.regions, shape.dim, random), texts(type, shape.words, shape.dim, random) {
    problem = {type.dtype,    shape.dim,  images.ragged(), texts.ragged(),  knobs.norm,        knobs.attention_scale,
               knobs.cosine,  knobs.pool, /*scale*/ 3,     knobs.pool_mean, knobs.pool_divide, /*search_words*/ 0,
               /*threads*/ 1, nullptr,    nullptr,         knobs.smooth_max};
    char text[200];
    std::snprintf(text, sizeof text,
                  "%s, norm %d, scale %g, cosine %d, pool %d, mean %d, divide %d, %ld regions, %ld words, dim %ld",
                  type.name, static_cast<int>(knobs.norm), knobs.attention_scale, knobs.cosine,
                  static_cast<int>(knobs.pool), knobs.pool_mean, knobs.pool_divide, static_cast<long>(shape.regions[0]),
                  static_cast<long>(shape.words[0]), static_cast<long>(shape.dim));
    name = text;
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < shape.regions.size() * shape.words.size(); ++i) upstream.push_back(normal(random));
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  // `keeps`: backward takes from forward what it keeps of a hard maximum.
  Results run(const std::string& isa, int threads = 1, bool keeps = true) const {
    Problem mine = problem;
    mine.threads = threads;
    std::vector<int32_t> best(keeps && is_hard(problem) ? problem.images.count * texts.rows.count : 0);
    const gloria::Kept kept{best.empty() ? nullptr : best.data(), texts.rows.count};
    Results results{std::vector<float>(upstream.size(), std::nanf("")),
                    {type, images.rows.count, problem.dim},
                    {type, texts.rows.count, problem.dim}};
    gloria::forward(mine, results.scores.data(), kept, isa);
    gloria::backward(mine, {upstream.data(), kept, results.regions.at(0), results.words.at(0)}, isa);
    return results;
  }
};

struct Truth {
  std::vector<double> scores;
  std::vector<oracle::Matrix> regions, words;
};

// The oracle's results. A pair whose best word leads by less than the rounding of bfloat16 has no one right gradient
// under the maximum: its upstream becomes 0.
Truth truth_of(Case& given) {
  Truth truth;
  for (const auto& item : given.images.items) truth.regions.push_back({item.rows, item.columns});
  for (const auto& item : given.texts.items) truth.words.push_back({item.rows, item.columns});
  for (size_t pair = 0; pair < given.upstream.size(); ++pair) {
    const size_t image = pair / truth.words.size(), text = pair % truth.words.size();
    const auto score = [&](double upstream) {
      return oracle::score(given.problem, given.images.items[image], given.texts.items[text], upstream,
                           truth.regions[image], truth.words[text]);
    };
    const oracle::Score plain = score(0);
    truth.scores.push_back(plain.z);
    if (given.problem.pool == Pool::kMax && plain.lead < 0.02 * std::fabs(plain.z)) given.upstream[pair] = 0;
    score(given.upstream[pair]);
  }
  return truth;
}

// Root mean square of the error as a share of that of the truth; NaN if any result is.
class Error {
 public:
  void add(double found, double truth) {
    error_ += (found - truth) * (found - truth);
    truth_ += truth * truth;
  }
  double share() const { return std::sqrt(error_ / truth_); }

 private:
  double error_ = 0, truth_ = 0;
};

double gradient_error(const Side& side, const Rows& found, const std::vector<oracle::Matrix>& truth) {
  Error error;
  for (size_t n = 0; n < truth.size(); ++n)
    for (size_t i = 0; i < truth[n].values.size(); ++i)
      error.add(get(*found.type, found.at(side.starts[n] * found.dim + static_cast<int64_t>(i))), truth[n].values[i]);
  return error.share();
}

bool gaps_are_untouched(const Side& side, const Rows& found) {
  int64_t untouched = 0, owned = 0;
  for (int64_t i = 0; i < found.count * found.dim; ++i) untouched += std::isnan(get(*found.type, found.at(i)));
  for (const int64_t length : side.lengths) owned += length;
  return untouched == (found.count - owned) * found.dim;
}

// One problem on every instruction set, a hard maximum with and without what forward keeps.
void check_on_every_isa(const Type& type, double scores, double gradients, const Knobs& knobs, const Shape& shape) {
  Case given(type, knobs, shape);
  const Truth truth = truth_of(given);
  const auto check_on = [&](const std::string& isa, bool keeps) {
    const Results results = given.run(isa, 1, keeps);
    Error of_scores;
    for (size_t i = 0; i < truth.scores.size(); ++i) of_scores.add(results.scores[i], truth.scores[i]);
    const auto within = [&](const char* what, double error, double allowed) {
      check(error <= allowed, isa + ": " + what + " err by " + std::to_string(error) + ": " + given.name);
    };
    within("scores", of_scores.share(), scores);
    within("gradients of regions", gradient_error(given.images, results.regions, truth.regions), gradients);
    within("gradients of words", gradient_error(given.texts, results.words, truth.words), gradients);
    check(gaps_are_untouched(given.images, results.regions) && gaps_are_untouched(given.texts, results.words),
          isa + ": rows of no item were written: " + given.name);
  };
  for (const auto& isa : kIsas) {
    check_on(isa, true);
    if (is_hard(given.problem)) check_on(isa, false);
  }
}

void every_knob() {
  struct {
    Pool pool;
    bool mean, divide;
  } const pools[] = {{Pool::kLogSumExp, false, false}, {Pool::kLogSumExp, false, true}, {Pool::kLogSumExp, true, false},
                     {Pool::kLogSumExp, true, true},   {Pool::kMax, false, false},      {Pool::kMean, false, false},
                     {Pool::kSum, false, false},       {Pool::kSoftmax, false, false}};
  for (const auto& [type, scores, gradients] : kTypes)
    for (const Shape* shape : {&kGram, &kDirect})
      for (const WordNorm norm : {WordNorm::kNone, WordNorm::kSoftmax, WordNorm::kClippedL2})
        for (const float scale : {4.0f, 20.0f, kInfinity})
          for (const bool cosine : {false, true})
            for (const auto& p : pools)
              check_on_every_isa(type, scores, gradients, {norm, scale, cosine, p.pool, p.mean, p.divide}, *shape);
  for (const auto& [type, scores, gradients] : kTypes)
    for (const auto& p : pools)
      check_on_every_isa(type, scores, gradients, {WordNorm::kNone, 4, false, p.pool, p.mean, p.divide, true}, kGram);
}

// Sizes that no tile divides, that one tile exceeds, and single rows.
void odd_sizes() {
  const Shape shapes[] = {{{1}, {1}, 3},
                          {{1, 1}, {7, 1}, 4},
                          {{7}, {1, 1, 1}, 5},
                          {{15, 16, 17}, {15, 16, 17}, 16},
                          {{33, 31, 32}, {33}, 31},
                          {{129, 65}, {3, 64}, 33},
                          {{50, 1030}, {40, 30, 3}, 24},
                          {{5, 40}, {500, 2}, 65},
                          {{47}, {12}, 203}};
  for (const auto& [type, scores, gradients] : kTypes) {
    for (const Shape& shape : shapes)
      for (const Knobs* knobs : {&kReleased, &kPaper, &kScan, &kMaxSim})
        check_on_every_isa(type, scores, gradients, *knobs, shape);
    for (const Knobs* knobs : {&kPaper, &kMaxSim})  // in one dimension a cosine is a sign, without gradient
      check_on_every_isa(type, scores, gradients, *knobs, {{5, 2}, {3, 4}, 1});
  }
}

void any_number_of_threads_gives_the_same_bits() {
  for (const auto& [type, scores, gradients] : kTypes)
    for (const Knobs* knobs : {&kReleased, &kPaper, &kScan, &kMaxSim}) {
      check_on_every_isa(type, scores, gradients, *knobs, kLarge);
      const Case given(type, *knobs, kLarge);
      for (const auto& isa : kIsas) {
        const Results alone = given.run(isa);
        for (int threads = 2; threads <= 4; ++threads)
          check(given.run(isa, threads) == alone, isa + " on " + std::to_string(threads) + " threads: " + given.name);
      }
    }
}

void concurrent_callers_get_the_same_bits() {
  for (const Type& type : {kFloat32, kBFloat16, kFloat16})
    for (const auto& isa : kIsas) {
      const Case given(type, kReleased, kLarge);
      const Results alone = given.run(isa);
      bool same[3];
      std::vector<std::thread> callers;
      for (bool& mine : same) callers.emplace_back([&] { mine = given.run(isa, 2) == alone; });
      for (auto& caller : callers) caller.join();
      check(same[0] && same[1] && same[2], isa + " called by three threads: " + given.name);
    }
}

// Address space of which only the touched pages become memory.
class Reserved {
 public:
  explicit Reserved(int64_t bytes) : bytes_(bytes) {
    base_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::runtime_error("no address space for the rows of the 64-bit test");
  }
  ~Reserved() { munmap(base_, bytes_); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  char* bytes() const { return static_cast<char*>(base_); }

 private:
  int64_t bytes_;
  void* base_;
};

// The second item of each side begins 2^32 values after the first: 32 bits, signed or not, would bring it back to the
// start.
void offsets_beyond_32_bits() {
  const Shape shape{{20, 9}, {7, 12}, 32};
  const int64_t far = (int64_t{1} << 32) / shape.dim;
  for (const Type& type : {kFloat32, kBFloat16, kFloat16}) {
    const Case given(type, kReleased, shape);
    const int64_t bytes = (far + 32) * shape.dim * type.bytes;
    const std::vector<int64_t> starts{0, far};
    // Where each item stands: values into the small rows, bytes into the large ones, bytes of it.
    const auto each_item = [&](const Side& side, auto use) {
      for (int64_t n = 0; n < 2; ++n)
        use(side.starts[n] * shape.dim, starts[n] * shape.dim * type.bytes, side.lengths[n] * shape.dim * type.bytes);
    };
    for (const auto& isa : kIsas) {
      const Reserved regions(bytes), words(bytes), grad_regions(bytes), grad_words(bytes);
      each_item(given.images, [&](int64_t at, int64_t to, int64_t n) {
        std::memcpy(regions.bytes() + to, given.images.rows.at(at), n);
      });
      each_item(given.texts, [&](int64_t at, int64_t to, int64_t n) {
        std::memcpy(words.bytes() + to, given.texts.rows.at(at), n);
      });
      Problem problem = given.problem;
      problem.images.rows = regions.bytes();
      problem.texts.rows = words.bytes();
      problem.images.starts = problem.texts.starts = starts.data();
      Results results{
          std::vector<float>(4), {type, given.images.rows.count, shape.dim}, {type, given.texts.rows.count, shape.dim}};
      gloria::forward(problem, results.scores.data(), {}, isa);
      gloria::backward(problem, {given.upstream.data(), {}, grad_regions.bytes(), grad_words.bytes()}, isa);
      each_item(given.images, [&](int64_t at, int64_t to, int64_t n) {
        std::memcpy(results.regions.at(at), grad_regions.bytes() + to, n);
      });
      each_item(given.texts, [&](int64_t at, int64_t to, int64_t n) {
        std::memcpy(results.words.at(at), grad_words.bytes() + to, n);
      });
      check(results == given.run(isa), isa + " with rows 2^32 values apart: " + given.name);
    }
  }
}

void an_unknown_isa_is_refused() {
  const Case given(kFloat32, kReleased, kGram);
  try {
    given.run("sse9");
    check(false, "isa 'sse9' was taken");
  } catch (const std::invalid_argument&) {
    check(true, "");
  }
}

}  // namespace

int main() {
  every_knob();
  odd_sizes();
  any_number_of_threads_gives_the_same_bits();
  concurrent_callers_get_the_same_bits();
  offsets_beyond_32_bits();
  an_unknown_isa_is_refused();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
