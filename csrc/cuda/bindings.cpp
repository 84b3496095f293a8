// The Python face of the CUDA kernels: addresses and shapes in, nothing returned. Callers have checked everything
// before.
#include <pybind11/pybind11.h>

#include "launch.h"
#ifdef GLORIA_EMULATED
#include "execute.h"
#endif

namespace py = pybind11;
using namespace gloria_cuda;

namespace {

template <class T>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

}  // namespace

PYBIND11_MODULE(GLORIA_MODULE, m) {
  m.doc() = "CUDA kernels of gloria_ops; raw addresses of device memory.";
  // Local: the emulated module has types of the same names in the same process.

  py::enum_<WordNorm>(m, "WordNorm", py::module_local())
      .value("none", WordNorm::kNone)
      .value("softmax", WordNorm::kSoftmax);
  py::enum_<Pool>(m, "Pool", py::module_local())
      .value("logsumexp", Pool::kLogSumExp)
      .value("max", Pool::kMax)
      .value("mean", Pool::kMean)
      .value("sum", Pool::kSum);
  py::enum_<DType>(m, "DType", py::module_local())
      .value("bfloat16", DType::kBFloat16)
      .value("float16", DType::kFloat16);
  py::enum_<Norm>(m, "Norm", py::module_local())
      .value("none", Norm::kNone)
      .value("gram", Norm::kGram)
      .value("direct", Norm::kDirect)
      .value("direct_where_cancelled", Norm::kDirectWhereCancelled);
  m.attr("WORDS") = kWords;
  m.attr("SLOT") = kSlot;
  m.attr("ROWS") = kRows;
  m.attr("KEPT_ROWS") = kKeptRows;
  m.attr("ON_CHIP") = kOnChip;
  m.attr("MOST_PASSES") = kMostPasses;

  py::class_<Device>(m, "Device", py::module_local())
      .def(py::init([](int processors, bool hopper, uintptr_t stream) {
             return Device{processors, hopper, address<void>(stream)};
           }),
           py::kw_only(), py::arg("processors"), py::arg("hopper"), py::arg("stream"));
  py::class_<Plan>(m, "Plan", py::module_local())
      .def(py::init([](uintptr_t rows, uintptr_t slots, uintptr_t continues, uintptr_t real, uintptr_t runs,
                       uintptr_t spans, uintptr_t columns, uintptr_t order, uintptr_t places, uintptr_t counts,
                       int32_t tiles) {
             return Plan{address<int32_t>(rows),
                         address<int32_t>(slots),
                         address<uint32_t>(continues),
                         address<uint32_t>(real),
                         address<int32_t>(runs),
                         address<int32_t>(spans),
                         address<int32_t>(columns),
                         address<int32_t>(order),
                         address<int32_t>(places),
                         address<int32_t>(counts),
                         tiles};
           }),
           py::kw_only(), py::arg("rows"), py::arg("slots"), py::arg("continues"), py::arg("real"), py::arg("runs"),
           py::arg("spans"), py::arg("columns"), py::arg("order"), py::arg("places"), py::arg("counts"),
           py::arg("tiles"));

  py::class_<Kept>(m, "Kept", py::module_local())
      .def(py::init([](uintptr_t affinities, uintptr_t products, uintptr_t statistics, uintptr_t region_norms,
                       int64_t pitch, int32_t height, int32_t first_tile) {
             return Kept{address<void>(affinities),
                         address<void>(products),
                         address<float>(statistics),
                         address<const float>(region_norms),
                         pitch,
                         height,
                         first_tile};
           }),
           py::kw_only(), py::arg("affinities") = 0, py::arg("products") = 0, py::arg("statistics") = 0,
           py::arg("region_norms") = 0, py::arg("pitch") = 0, py::arg("height") = 0, py::arg("first_tile") = 0);
  m.attr("STATISTICS") = static_cast<int>(kStatistics);
  m.attr("COEFFICIENTS") = static_cast<int>(kCoefficients);
  m.attr("OF_AFFINITY") = static_cast<int>(kOfAffinity);
  m.attr("OF_PRODUCT") = static_cast<int>(kOfProduct);
  m.attr("OF_GRAM") = static_cast<int>(kOfGram);
  m.attr("OF_WORD") = static_cast<int>(kOfWord);
  m.attr("BOUND") = static_cast<int>(kBound);

  m.def(
      "plan",
      [](const Device& device, const Plan& tiles, uintptr_t starts, uintptr_t lengths, int32_t texts) {
        plan({address<const int64_t>(starts), address<const int64_t>(lengths), tiles, texts}, device);
      },
      py::arg("device"), py::arg("plan"), py::kw_only(), py::arg("starts"), py::arg("lengths"), py::arg("texts"));
  m.def(
      "pack",
      [](const Device& device, uintptr_t source, uintptr_t to, uintptr_t norms, uintptr_t rows, uintptr_t used,
         uintptr_t starts, uintptr_t lengths, int64_t count, int32_t side, int32_t dim, int32_t padded_dim,
         DType dtype) {
        pack({address<const uint16_t>(source), address<uint16_t>(to), address<float>(norms),
              address<const int32_t>(rows), address<const int32_t>(used), address<const int64_t>(starts),
              address<const int64_t>(lengths), count, side, dim, padded_dim, dtype},
             device);
      },
      py::arg("device"), py::kw_only(), py::arg("source"), py::arg("to"), py::arg("norms"), py::arg("rows") = 0,
      py::arg("used") = 0, py::arg("starts") = 0, py::arg("lengths") = 0, py::arg("count"), py::arg("side") = 0,
      py::arg("dim"), py::arg("padded_dim"), py::arg("dtype"));
  m.def(
      "forward",
      [](const Device& device, const Plan& tiles, const Kept& kept, DType dtype, uintptr_t words, uintptr_t word_norms,
         uintptr_t regions, uintptr_t region_norms, uintptr_t region_lengths, uintptr_t left, uintptr_t unscale,
         uintptr_t scratch, uintptr_t levels, uintptr_t similarities, uintptr_t cancelled, int32_t images, int32_t side,
         int32_t dim, int32_t left_dim, float scale, WordNorm word_norm, Norm norm, bool hard) {
        forward({address<const uint16_t>(words),
                 address<const float>(word_norms),
                 address<const uint16_t>(regions),
                 address<const float>(region_norms),
                 address<const int64_t>(region_lengths),
                 address<const uint16_t>(left),
                 address<const float>(unscale),
                 tiles,
                 address<uint16_t>(scratch),
                 address<float>(levels),
                 address<float>(similarities),
                 address<uint8_t>(cancelled),
                 kept,
                 images,
                 side,
                 dim,
                 left_dim,
                 scale,
                 word_norm,
                 norm,
                 false,
                 hard},
                dtype, device);
      },
      py::arg("device"), py::arg("plan"), py::arg("kept"), py::arg("dtype"), py::kw_only(), py::arg("words"),
      py::arg("word_norms"), py::arg("regions"), py::arg("region_norms"), py::arg("region_lengths"), py::arg("left"),
      py::arg("unscale"), py::arg("scratch"), py::arg("levels"), py::arg("similarities"), py::arg("cancelled"),
      py::arg("images"), py::arg("side"), py::arg("dim"), py::arg("left_dim"), py::arg("scale"), py::arg("word_norm"),
      py::arg("norm"), py::arg("hard"), py::call_guard<py::gil_scoped_release>());
  m.def(
      "pool",
      [](const Device& device, uintptr_t similarities, uintptr_t lengths, uintptr_t columns, uintptr_t scores,
         int64_t width, int32_t images, int32_t texts, float scale, Pool kind, bool mean, bool divide) {
        pool({address<const float>(similarities), address<const int64_t>(lengths), address<const int32_t>(columns),
              address<float>(scores), width, images, texts, scale, kind, mean, divide},
             device);
      },
      py::arg("device"), py::kw_only(), py::arg("similarities"), py::arg("lengths"), py::arg("columns"),
      py::arg("scores"), py::arg("width"), py::arg("images"), py::arg("texts"), py::arg("scale"), py::arg("kind"),
      py::arg("mean"), py::arg("divide"));
  m.def(
      "coefficients",
      [](const Device& device, const Kept& kept, uintptr_t similarities, uintptr_t lengths, uintptr_t columns,
         int64_t width, int32_t images, int32_t texts, float scale, Pool kind, bool divide, uintptr_t grad_scores,
         uintptr_t word_norms, uintptr_t unscale, uintptr_t factors, int32_t tiles, float attention_scale,
         bool cosine) {
        const PoolProblem pool{address<const float>(similarities),
                               address<const int64_t>(lengths),
                               address<const int32_t>(columns),
                               nullptr,
                               width,
                               images,
                               texts,
                               scale,
                               kind,
                               false,
                               divide};
        coefficients({pool, kept, address<const float>(grad_scores), address<const float>(word_norms),
                      address<const float>(unscale), address<float>(factors), tiles, attention_scale, cosine},
                     device);
      },
      py::arg("device"), py::arg("kept"), py::kw_only(), py::arg("similarities"), py::arg("lengths"),
      py::arg("columns"), py::arg("width"), py::arg("images"), py::arg("texts"), py::arg("scale"), py::arg("kind"),
      py::arg("divide"), py::arg("grad_scores"), py::arg("word_norms"), py::arg("unscale"), py::arg("coefficients"),
      py::arg("tiles"), py::arg("attention_scale"), py::arg("cosine"));
  m.def(
      "gradient",
      [](const Device& device, const Plan& tiles, const Kept& kept, DType dtype, uintptr_t grad_affinities,
         uintptr_t attention, uintptr_t factors, uintptr_t word_norms, uintptr_t region_lengths, int32_t images,
         float scale, float attention_scale, WordNorm word_norm, bool hard, bool cosine) {
        gradient({tiles, kept, address<uint16_t>(grad_affinities), address<uint16_t>(attention),
                  address<const float>(factors), address<const float>(word_norms),
                  address<const int64_t>(region_lengths), images, scale, attention_scale, word_norm, hard, cosine},
                 dtype, device);
      },
      py::arg("device"), py::arg("plan"), py::arg("kept"), py::arg("dtype"), py::kw_only(), py::arg("gradient"),
      py::arg("attention"), py::arg("coefficients"), py::arg("word_norms"), py::arg("region_lengths"),
      py::arg("images"), py::arg("scale"), py::arg("attention_scale"), py::arg("word_norm"), py::arg("hard"),
      py::arg("cosine"), py::call_guard<py::gil_scoped_release>());
  m.def(
      "gram_gradient",
      [](const Device& device, uintptr_t attention, uintptr_t weights, uintptr_t factors, uintptr_t sums, int64_t pitch,
         int32_t images, int32_t height, int32_t side) {
        gram_gradient({address<const uint16_t>(attention), address<const uint16_t>(weights),
                       address<const float>(factors), address<float>(sums), pitch, images, height, side},
                      device);
      },
      py::arg("device"), py::kw_only(), py::arg("attention"), py::arg("weights"), py::arg("factors"), py::arg("sums"),
      py::arg("pitch"), py::arg("images"), py::arg("height"), py::arg("side"),
      py::call_guard<py::gil_scoped_release>());

#ifdef GLORIA_EMULATED
  m.def("set_schedule", [](uint64_t seed) { schedule = seed; });
  m.def("take_counters", [] {
    const emulated::Counters taken = emulated::counters;
    emulated::counters = {};
    py::dict counts;
    counts["bytes_copied"] = taken.bytes_copied, counts["multiplications"] = taken.multiplications;
    counts["exponentials"] = taken.exponentials, counts["shuffles"] = taken.shuffles;
    counts["matrices"] = taken.matrices, counts["conflicts"] = taken.conflicts;
    return counts;
  });
#endif
}
