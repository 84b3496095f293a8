// The Python face of the kernels: addresses and shapes in, nothing returned. Callers have checked everything before,
// except the ranges of items, which are checked here: as tensor operations they would cost more than a small problem.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace py = pybind11;
using gloria::Problem;
using gloria::Ragged;

namespace {

const int64_t* indices(uintptr_t address) { return reinterpret_cast<const int64_t*>(address); }

Ragged ragged(uintptr_t rows, uintptr_t starts, uintptr_t lengths, int64_t count, int64_t row_count) {
  const Ragged side{reinterpret_cast<const void*>(rows), indices(starts), indices(lengths), count};
  for (int64_t i = 0; i < count; ++i)
    if (side.lengths[i] < 1 || side.starts[i] < 0 || side.starts[i] > row_count - side.lengths[i])
      throw py::value_error("item " + std::to_string(i) + " has length " + std::to_string(side.lengths[i]) +
                            " from row " + std::to_string(side.starts[i]) + ", outside the " +
                            std::to_string(row_count) +
                            " rows given: every length must be at least 1 and end within the tensor");
  return side;
}

// Whether the items follow one another without a gap from the first row to the last.
bool fills(const Ragged& side, int64_t row_count) {
  int64_t end = 0;
  for (int64_t i = 0; i < side.count; ++i) {
    if (side.starts[i] != end) return false;
    end += side.lengths[i];
  }
  return end == row_count;
}

// Whether a Python signal handler, Ctrl-C's among them, has raised: the kernels then give up. Handlers run on the main
// thread alone.
bool interrupted() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// Runs a kernel without the lock of the interpreter. What a signal handler raised meanwhile is raised here.
template <class Kernel>
void run(Kernel kernel) {
  const auto finished = [&] {
    const py::gil_scoped_release no_gil;
    return kernel();
  }();
  if (!finished) throw py::error_already_set();
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of gloria_ops; raw addresses.";

  py::enum_<gloria::DType>(m, "DType")
      .value("float32", gloria::DType::kFloat32)
      .value("bfloat16", gloria::DType::kBFloat16)
      .value("float16", gloria::DType::kFloat16);
  py::enum_<gloria::WordNorm>(m, "WordNorm")
      .value("none", gloria::WordNorm::kNone)
      .value("softmax", gloria::WordNorm::kSoftmax)
      .value("clipped_l2", gloria::WordNorm::kClippedL2);
  py::enum_<gloria::Pool>(m, "Pool")
      .value("logsumexp", gloria::Pool::kLogSumExp)
      .value("max", gloria::Pool::kMax)
      .value("mean", gloria::Pool::kMean)
      .value("sum", gloria::Pool::kSum)
      .value("softmax", gloria::Pool::kSoftmax);

  m.attr("STAGES") = std::vector<std::string>(std::begin(gloria::kStageNames), std::end(gloria::kStageNames));

  py::class_<Ragged>(m, "Ragged")
      .def(py::init(&ragged), py::arg("rows"), py::arg("starts"), py::arg("lengths"), py::arg("count"),
           py::arg("row_count"))
      .def("fills", &fills, py::arg("row_count"));
  py::class_<Problem>(m, "Problem")
      .def(py::init([](gloria::DType dtype, int64_t dim, Ragged images, Ragged texts, gloria::WordNorm word_norm,
                       float attention_scale, bool cosine, gloria::Pool pool, float word_scale, bool pool_mean,
                       bool pool_divide, int64_t search_words, int threads, uintptr_t stage_nanoseconds,
                       bool smooth_max, uintptr_t word_weights) {
             return Problem{dtype,
                            dim,
                            images,
                            texts,
                            word_norm,
                            attention_scale,
                            cosine,
                            pool,
                            word_scale,
                            pool_mean,
                            pool_divide,
                            search_words,
                            threads,
                            reinterpret_cast<int64_t*>(stage_nanoseconds),
                            &interrupted,
                            smooth_max,
                            reinterpret_cast<const float*>(word_weights)};
           }),
           py::kw_only(), py::arg("dtype"), py::arg("dim"), py::arg("images"), py::arg("texts"), py::arg("word_norm"),
           py::arg("attention_scale"), py::arg("cosine"), py::arg("pool"), py::arg("word_scale"), py::arg("pool_mean"),
           py::arg("pool_divide"), py::arg("search_words"), py::arg("threads"), py::arg("stage_nanoseconds"),
           py::arg("smooth_max"), py::arg("word_weights"));

  py::class_<gloria::Kept>(m, "Kept").def(py::init([](uintptr_t regions, int64_t words) {
                                            return gloria::Kept{reinterpret_cast<int32_t*>(regions), words};
                                          }),
                                          py::arg("regions"), py::arg("words"));

  m.def("available_isas", &gloria::available_isas);
  m.def(
      "forward",
      [](const Problem& problem, uintptr_t scores, const gloria::Kept& best, const std::string& isa) {
        run([&] { return gloria::forward(problem, reinterpret_cast<float*>(scores), best, isa); });
      },
      py::arg("problem"), py::arg("scores"), py::arg("best"), py::arg("isa"));
  m.def(
      "backward",
      [](const Problem& problem, uintptr_t grad_scores, const gloria::Kept& best, uintptr_t grad_regions,
         uintptr_t grad_words, uintptr_t grad_word_weights, uintptr_t grad_attention_scale, uintptr_t grad_word_scale,
         const std::string& isa) {
        const gloria::Gradients gradients{
            reinterpret_cast<const float*>(grad_scores), best,
            reinterpret_cast<void*>(grad_regions),       reinterpret_cast<void*>(grad_words),
            reinterpret_cast<float*>(grad_word_weights), reinterpret_cast<double*>(grad_attention_scale),
            reinterpret_cast<double*>(grad_word_scale)};
        run([&] { return gloria::backward(problem, gradients, isa); });
      },
      py::arg("problem"), py::arg("grad_scores"), py::arg("best"), py::arg("grad_regions"), py::arg("grad_words"),
      py::arg("grad_word_weights"), py::arg("grad_attention_scale"), py::arg("grad_word_scale"), py::arg("isa"));
  m.def(
      "exponential",
      [](gloria::DType dtype, uintptr_t x, uintptr_t out, int64_t count, const std::string& isa) {
        gloria::exponential(dtype, reinterpret_cast<const float*>(x), reinterpret_cast<float*>(out), count, isa);
      },
      py::arg("dtype"), py::arg("x"), py::arg("out"), py::arg("count"), py::arg("isa"),
      py::call_guard<py::gil_scoped_release>());
}
