#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/pursuit/iht.h"
#include "kernels/pursuit/lasso.h"
#include "kernels/pursuit/omp.h"

namespace sparse_sae {
namespace {

template <class T>
void bind(py::module_& m) {
    m.def(
        "encode_omp",
        [](const py::array& x, const array<T>& w, int64_t k, const std::optional<array<T>>& center, bool simple,
           int num_threads) {
            view("w", w, {-1, -1});
            const int64_t M = w.shape(0), D = w.shape(1);
            check_number("k", k, 1, M);
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {D}), D);
            if (rows.N > INT32_MAX / k)
                throw py::value_error("x: " + std::to_string(rows.N) + " rows of k = " + std::to_string(k) +
                                      " codes, expected at most 2**31 - 1 codes; encode fewer rows at once");
            Codes<T> codes;
            {
                py::gil_scoped_release release;
                codes = encode_omp(rows, w.data(), M, k, simple, num_threads);
            }
            return py::make_tuple(give(std::move(codes.indptr)), give(std::move(codes.indices)),
                                  give(std::move(codes.values)));
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("k"), py::kw_only(), py::arg("center").noconvert() = py::none(),
        py::arg("simple") = false, py::arg("num_threads") = 1);
    m.def(
        "encode_iht",
        [](const py::array& x, const array<T>& w, int64_t k, double step, int64_t n_steps,
           const std::optional<array<T>>& center, bool simple, int num_threads) {
            view("w", w, {-1, -1});
            const int64_t M = w.shape(0), D = w.shape(1);
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {D}), D);
            Codes<T> codes;
            {
                py::gil_scoped_release release;
                codes = encode_iht(rows, w.data(), M, k, static_cast<T>(step), n_steps, simple, num_threads);
            }
            return py::make_tuple(give(std::move(codes.indptr)), give(std::move(codes.indices)),
                                  give(std::move(codes.values)));
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("k"), py::kw_only(), py::arg("step"), py::arg("n_steps") = 60,
        py::arg("center").noconvert() = py::none(), py::arg("simple") = false, py::arg("num_threads") = 1);
    m.def(
        "encode_lasso",
        [](const py::array& x, const array<T>& w, double penalty, int64_t rounds, double tolerance,
           const std::optional<array<T>>& center, bool simple, int num_threads) {
            view("w", w, {-1, -1});
            const int64_t M = w.shape(0), D = w.shape(1);
            check_number("rounds", rounds, 0, INT64_MAX);
            if (!(tolerance >= 0))
                throw py::value_error("tolerance: " + std::to_string(tolerance) + ", expected at least 0");
            const Rows<T> rows = view_rows("x", x, view_optional("center", center, {D}), D);
            Codes<T> codes;
            std::vector<T> gaps;
            {
                py::gil_scoped_release release;
                codes = encode_lasso(gaps, rows, w.data(), M, static_cast<T>(penalty), rounds, tolerance, simple,
                                     num_threads);
            }
            return py::make_tuple(give(std::move(codes.indptr)), give(std::move(codes.indices)),
                                  give(std::move(codes.values)), give(std::move(gaps)));
        },
        py::arg("x"), py::arg("w").noconvert(), py::arg("penalty"), py::kw_only(), py::arg("rounds") = 0,
        py::arg("tolerance") = 1e-5, py::arg("center").noconvert() = py::none(), py::arg("simple") = false,
        py::arg("num_threads") = 1);
}

}  // namespace

void bind_pursuit(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace sparse_sae
