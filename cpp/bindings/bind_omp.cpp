#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/omp/omp.h"

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
}

}  // namespace

void bind_omp(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace sparse_sae
