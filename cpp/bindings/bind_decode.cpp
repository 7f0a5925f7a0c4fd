#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/decode/decode.h"

namespace sparse_sae {
namespace {

template <class T>
void bind(py::module_& m) {
    using Ints = array<int32_t>;
    m.def(
        "decode",
        [](const Ints& indptr, const Ints& indices, const array<T>& values, const array<T>& w,
           const std::optional<array<T>>& bias, int num_threads) {
            view("w", w, {-1, -1});
            const int64_t D = w.shape(1);
            const CodesView<T> codes = view_codes(indptr, indices, values, w.shape(0));
            const T* b = view_optional("bias", bias, {D});
            array<T> out({codes.n_rows, D});
            T* to = out.mutable_data();
            py::gil_scoped_release release;
            decode(to, codes, w.data(), b, w.shape(0), D, num_threads);
            return out;
        },
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("values").noconvert(),
        py::arg("w").noconvert(), py::arg("bias").noconvert() = py::none(), py::kw_only(), py::arg("num_threads") = 1);
    m.def(
        "code_grad",
        [](const Ints& indptr, const Ints& indices, const array<T>& grad, const array<T>& w, int num_threads) {
            view("w", w, {-1, -1});
            const int64_t D = w.shape(1);
            array<T> out(indices.size());
            const CodesView<T> codes = view_codes(indptr, indices, out, w.shape(0));
            const T* g = view("grad", grad, {codes.n_rows, D});
            T* to = out.mutable_data();
            py::gil_scoped_release release;
            code_grad(to, codes, g, w.data(), w.shape(0), D, num_threads);
            return out;
        },
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("grad").noconvert(),
        py::arg("w").noconvert(), py::kw_only(), py::arg("num_threads") = 1);
    m.def(
        "decode_residual",
        [](const Ints& indptr, const Ints& indices, const array<T>& values, const array<T>& w, const array<T>& target,
           const std::optional<array<T>>& out, int num_threads) {
            view("w", w, {-1, -1});
            const int64_t D = w.shape(1);
            const CodesView<T> codes = view_codes(indptr, indices, values, w.shape(0));
            const T* y = view("target", target, {codes.n_rows, D});
            array<T> residual = out ? *out : array<T>({codes.n_rows, D});
            array<T> projected(indices.size()), squared(codes.n_rows);
            T* r = view_mutable("out", residual, {codes.n_rows, D});
            T *p = projected.mutable_data(), *s = squared.mutable_data();
            {
                py::gil_scoped_release release;
                decode_residual(r, p, s, codes, w.data(), y, w.shape(0), D, num_threads);
            }
            return py::make_tuple(residual, projected, squared);
        },
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("values").noconvert(),
        py::arg("w").noconvert(), py::arg("target").noconvert(), py::kw_only(), py::arg("out").noconvert() = py::none(),
        py::arg("num_threads") = 1);
}

}  // namespace

void bind_decode(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace sparse_sae
