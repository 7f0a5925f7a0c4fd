#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/dense/dense.h"

namespace sparse_sae {
namespace {

template <class T>
void bind(py::module_& m) {
    m.def(
        "matmul_nt",
        [](const array<T>& x, const array<T>& w, int num_threads) {
            view("x", x, {-1, -1});
            const int64_t N = x.shape(0), D = x.shape(1);
            view("w", w, {-1, D});
            const int64_t M = w.shape(0);
            array<T> out({N, M});
            T* to = out.mutable_data();
            py::gil_scoped_release release;
            matmul_nt(to, x.data(), w.data(), N, M, D, num_threads);
            return out;
        },
        py::arg("x").noconvert(), py::arg("w").noconvert(), py::kw_only(), py::arg("num_threads") = 1);
}

}  // namespace

void bind_dense(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
    m.def(
        "first_nonfinite_row",
        [](const py::array& x, int num_threads) {
            const Rows<float> rows = view_rows<float>("x", x, nullptr, -1);
            py::gil_scoped_release release;
            if (rows.dtype == Dtype::float64)
                return first_nonfinite_row(Rows<double>{rows.x, rows.dtype, rows.stride, nullptr, rows.N, rows.D},
                                           num_threads);
            return first_nonfinite_row(rows, num_threads);
        },
        py::arg("x"), py::kw_only(), py::arg("num_threads") = 1);
}

}  // namespace sparse_sae
