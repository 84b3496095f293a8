// Ragged rows of every dtype, in buffers of exactly the size they need: a sanitizer sees one value too many.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "oracle.h"
#include "problem.h"

struct Type {
  const char* name;
  gloria::DType dtype;
  int64_t bytes;
  int exponent, mantissa;  // bits
};
constexpr Type kFloat32{"float32", gloria::DType::kFloat32, 4, 8, 23};
constexpr Type kBFloat16{"bfloat16", gloria::DType::kBFloat16, 2, 8, 7};
constexpr Type kFloat16{"float16", gloria::DType::kFloat16, 2, 5, 10};

// Any format by arithmetic, without the bit tricks of the kernels.
inline void put(const Type& type, double x, char* at) {
  const int bias = (1 << (type.exponent - 1)) - 1;
  int64_t bits = (int64_t{2} << type.exponent) - 1;  // NaN, before the shift
  if (std::isnan(x)) {
    bits <<= type.mantissa - 1;
  } else {
    const int exponent = std::max(x == 0 ? 1 - bias : std::ilogb(x), 1 - bias);
    // A carry out of the mantissa raises the exponent, as it should.
    bits = (int64_t{exponent - 1 + bias} << type.mantissa) +
           std::llrint(std::ldexp(std::fabs(x), type.mantissa - exponent));
    if (x < 0) bits |= int64_t{1} << (type.exponent + type.mantissa);
  }
  std::memcpy(at, &bits, type.bytes);  // little-endian
}
inline double get(const Type& type, const char* at) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, type.bytes);
  const int bias = (1 << (type.exponent - 1)) - 1, full = (1 << type.exponent) - 1;
  const int exponent = static_cast<int>(bits >> type.mantissa) & full;
  const double mantissa = bits & ((1u << type.mantissa) - 1);
  if (exponent == full) return std::nan("");
  const double magnitude =
      std::ldexp(mantissa + (exponent ? 1 << type.mantissa : 0), std::max(exponent, 1) - bias - type.mantissa);
  return bits >> (type.exponent + type.mantissa) ? -magnitude : magnitude;
}

// `count` rows of NaN that end with their buffer and begin one value after its start: aligned as a tensor's view may
// be, no better.
struct Rows {
  const Type* type;
  int64_t count, dim;
  std::vector<char> bytes;

  Rows(const Type& type_, int64_t count_, int64_t dim_)
      : type(&type_), count(count_), dim(dim_), bytes((count * dim + 1) * type->bytes) {
    for (int64_t i = -1; i < count * dim; ++i) put(*type, std::nan(""), at(i));
  }
  char* at(int64_t value) { return bytes.data() + (value + 1) * type->bytes; }
  const char* at(int64_t value) const { return bytes.data() + (value + 1) * type->bytes; }
};

// One side of a batch: the items stand in falling order, with a row of NaN between neighbors.
struct Side {
  std::vector<int64_t> lengths, starts;
  Rows rows;
  std::vector<oracle::Matrix> items;  // what the rows hold, after rounding

  Side(const Type& type, const std::vector<int64_t>& lengths_, int64_t dim, std::mt19937& random)
      : lengths(lengths_), starts(lengths.size()), rows(type, place(), dim) {
    std::normal_distribution<double> normal(
        0, std::pow(static_cast<double>(dim), -0.25));  // affinities have the variance 1
    for (size_t n = 0; n < lengths.size(); ++n) {
      items.push_back({lengths[n], dim});
      for (size_t i = 0; i < items[n].values.size(); ++i) {
        char* at = rows.at(starts[n] * dim + static_cast<int64_t>(i));
        put(type, normal(random), at);
        items[n].values[i] = get(type, at);
      }
    }
  }
  gloria::Ragged ragged() const {
    return {rows.at(0), starts.data(), lengths.data(), static_cast<int64_t>(lengths.size())};
  }

 private:
  int64_t place() {
    int64_t end = -1;
    for (size_t n = lengths.size(); n-- > 0; end += lengths[n]) starts[n] = ++end;
    return end;
  }
};
