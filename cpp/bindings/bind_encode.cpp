#include <algorithm>
#include <cstdlib>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/encode/kept.h"
#include "kernels/encode/screen/screening.h"
#include "kernels/encode/threshold.h"
#include "kernels/encode/topk.h"

namespace sparse_sae {
namespace {

template <class T>
using Optional = std::optional<array<T>>;
using Latents = std::optional<array<int32_t>>;

// A dictionary, and what keeps the copy alive that it may point to.
template <class T>
struct ViewedDictionary : Dictionary<T> {
    std::shared_ptr<const ByteCopy> copy;
};

template <class T>
ViewedDictionary<T> view_dictionary(const array<T>& w, const Optional<T>& b, const Latents& latents) {
    view("w", w, {-1, -1});
    const int64_t M = w.shape(0), D = w.shape(1);
    ViewedDictionary<T> dict{{w.data(), view_optional("b", b, {M}), nullptr, M, D}, nullptr};
    // Weights that may have been written to since are not those that were copied.
    if constexpr (std::is_same_v<T, float>)
        if (!latents && !w.writeable()) dict.copy = kept_copy(w.data(), M, D);
    dict.kept = dict.copy.get();
    if (latents) {
        dict.latents = view("latents", *latents, {-1});
        dict.M = latents->shape(0);
        for (int64_t i = 0; i < dict.M; ++i)
            if (dict.latents[i] < 0 || dict.latents[i] >= M)
                throw py::value_error("latents: " + std::to_string(dict.latents[i]) + ", expected 0 to " +
                                      std::to_string(M - 1));
    }
    if (D < 1 || dict.M < 1) throw py::value_error("w: empty, expected at least one latent and one input");
    check_number("w: latents", dict.M, 1, INT32_MAX);
    return dict;
}

// The k largest of M are all M where k is larger; bounded here, so that kernels may compute with it.
int64_t view_count(const char* name, int64_t k, int64_t M) {
    check_number(name, k, 1, INT64_MAX);
    return std::min(k, M);
}

// What Python calls kScreens.
constexpr const char* kScreenNames[kScreenCount] = {"float", "int8", "amx"};

std::optional<Screening> named(const std::string& name) {
    for (int i = 0; i < kScreenCount; ++i)
        if (name == kScreenNames[i]) return kScreens[i];
    return std::nullopt;
}
const char* name_of(Screening how) {
    return kScreenNames[std::find(kScreens, kScreens + kScreenCount, how) - kScreens];
}
std::string screen_names() {
    std::string all = kScreenNames[0];
    for (int i = 1; i < kScreenCount; ++i) all += (i + 1 < kScreenCount ? ", " : " or ") + std::string(kScreenNames[i]);
    return all;
}

// SPARSE_SAE_SCREEN forces a screen where a call leaves the choice to us: for tests, and to compare.
Screening screen_of_environment() {
    const char* forced = std::getenv("SPARSE_SAE_SCREEN");
    const std::string name = forced ? forced : "";
    if (name.empty() || name == "auto") return Screening::automatic;
    if (const auto how = named(name)) return *how;
    throw py::value_error("SPARSE_SAE_SCREEN: got " + name + ", expected auto, " + screen_names());
}

template <class T>
Screening view_screen(const std::string& screen, bool absolute = false) {
    if (screen == "auto") return screen_of_environment();
    const auto how = named(screen);
    if (how && (*how == Screening::floats || (std::is_same_v<T, float> && !absolute))) return *how;
    throw py::value_error("screen: got " + screen + ", expected auto, " + screen_names() +
                          "; all but auto and float need float32 and not absolute");
}

template <class T>
py::tuple give_codes(Codes<T>&& codes) {
    return py::make_tuple(give(std::move(codes.indptr)), give(std::move(codes.indices)), give(std::move(codes.values)));
}

template <class T>
void bind(py::module_& m) {
    m.def(
        "encode_topk",
        [](const py::array& x, const array<T>& w, const Optional<T>& b, int64_t k, const Optional<T>& center,
           const Latents& latents, bool absolute, bool relu, bool simple, const std::string& screen, int num_threads) {
            const Screening how = view_screen<T>(screen, absolute);
            const ViewedDictionary<T> dict = view_dictionary(w, b, latents);
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {dict.D}), dict.D);
            const int64_t most = view_count("k", k, dict.M);
            Codes<T> codes;
            {
                py::gil_scoped_release release;
                const TopK select{most, absolute, relu};
                codes = simple ? encode_topk_simple(rows, dict, select, num_threads)
                               : encode_topk(rows, dict, select, num_threads, how);
            }
            const int64_t fallbacks = codes.fallbacks;
            return give_codes(std::move(codes)) + py::make_tuple(fallbacks);
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("b").noconvert(), py::arg("k"), py::kw_only(),
        py::arg("center").noconvert() = py::none(), py::arg("latents").noconvert() = py::none(),
        py::arg("absolute") = false, py::arg("relu") = true, py::arg("simple") = false, py::arg("screen") = "auto",
        py::arg("num_threads") = 1);
    m.def(
        "encode_topk_aux",
        [](const py::array& x, const array<T>& w, const Optional<T>& b, int64_t k, const array<bool>& dead,
           int64_t aux_k, const Optional<T>& center, bool absolute, bool relu, const std::string& screen,
           int num_threads) {
            const Screening how = view_screen<T>(screen, absolute);
            const ViewedDictionary<T> dict = view_dictionary(w, b, std::nullopt);
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {dict.D}), dict.D);
            static_assert(sizeof(bool) == 1, "NumPy's bool is one byte, 0 or 1");
            const char* mask = reinterpret_cast<const char*>(view("dead", dead, {dict.M}));
            const TopK select{view_count("k", k, dict.M), absolute, relu};
            const int64_t aux_most = view_count("aux_k", aux_k, dict.M);
            std::pair<Codes<T>, Codes<T>> both;
            {
                py::gil_scoped_release release;
                both = encode_topk_aux(rows, dict, select, mask, aux_most, num_threads, how);
            }
            const int64_t fallbacks = both.first.fallbacks + both.second.fallbacks;
            return give_codes(std::move(both.first)) + give_codes(std::move(both.second)) + py::make_tuple(fallbacks);
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("b").noconvert(), py::arg("k"), py::arg("dead").noconvert(),
        py::arg("aux_k"), py::kw_only(), py::arg("center").noconvert() = py::none(), py::arg("absolute") = false,
        py::arg("relu") = true, py::arg("screen") = "auto", py::arg("num_threads") = 1);
    m.def(
        "encode_threshold",
        [](const py::array& x, const array<T>& w, const Optional<T>& b, const Optional<T>& threshold,
           const Optional<T>& center, const Latents& latents, const std::string& screen, int num_threads) {
            const Screening how = view_screen<T>(screen);
            const ViewedDictionary<T> dict = view_dictionary(w, b, latents);
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {dict.D}), dict.D);
            const T* limit = view_optional("threshold", threshold, {w.shape(0)});
            Codes<T> codes;
            {
                py::gil_scoped_release release;
                codes = encode_threshold(rows, dict, limit, num_threads, how);
            }
            return give_codes(std::move(codes));
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("b").noconvert(), py::arg("threshold").noconvert(),
        py::kw_only(), py::arg("center").noconvert() = py::none(), py::arg("latents").noconvert() = py::none(),
        py::arg("screen") = "auto", py::arg("num_threads") = 1);
    m.def(
        "encode_batch_topk",
        [](const py::array& x, const array<T>& w, const Optional<T>& b, int64_t total, const Optional<T>& center,
           const std::string& screen, int num_threads) {
            const Screening how = view_screen<T>(screen);
            const ViewedDictionary<T> dict = view_dictionary(w, b, std::nullopt);
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {dict.D}), dict.D);
            check_number("x: rows", rows.N, 0, INT32_MAX);
            const int64_t most = view_count("total", total, std::max<int64_t>(1, rows.N * dict.M));
            Codes<T> codes;
            {
                py::gil_scoped_release release;
                codes = encode_batch_topk(rows, dict, most, num_threads, how);
            }
            return give_codes(std::move(codes));
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("b").noconvert(), py::arg("total"), py::kw_only(),
        py::arg("center").noconvert() = py::none(), py::arg("screen") = "auto", py::arg("num_threads") = 1);
}

}  // namespace

void bind_encode(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
    m.def(
        "keep_int8",
        [](const array<float>& w, const std::optional<py::array>& sample, int num_threads) {
            const Dictionary<float> dict = view_dictionary<float>(w, std::nullopt, std::nullopt);
            if (w.writeable()) throw py::value_error("w: writeable, expected weights that cannot change meanwhile");
            const Rows<float> rows = sample ? view_rows<float>("sample", *sample, nullptr, dict.D)
                                            : Rows<float>{nullptr, Dtype::float32, dict.D, nullptr, 0, dict.D};
            struct Kept {
                std::shared_ptr<const ByteCopy> copy;
                py::object w;  // what it was made of stays where it is
            };
            auto* kept = new Kept{nullptr, w};
            const py::capsule handle(kept, [](void* p) { delete static_cast<Kept*>(p); });
            {
                py::gil_scoped_release release;
                kept->copy = keep_copy(rows, dict, num_threads);
            }
            return py::make_tuple(handle, kept_bytes(*kept->copy));
        },
        py::arg("w").noconvert(), py::kw_only(), py::arg("sample") = py::none(), py::arg("num_threads") = 1);
    m.def("screens", [] {
        py::list all;
        for (const ScreenReport& report : screen_reports()) {
            py::dict entry(py::arg("kernel") = report.key.kernel, py::arg("d_in") = report.key.D,
                           py::arg("d_sae") = report.key.M, py::arg("k") = report.key.k,
                           py::arg("dead_eighths") = report.key.dead_eighths, py::arg("threads") = report.key.threads,
                           py::arg("chosen") = name_of(report.choice));
            for (int i = 0; i < kScreenCount; ++i)
                entry[(std::string(kScreenNames[i]) + "_us_per_row").c_str()] = report.microseconds[i];
            all.append(entry);
        }
        return all;
    });
}

}  // namespace sparse_sae
