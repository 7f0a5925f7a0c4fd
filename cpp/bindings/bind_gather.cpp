#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/gather/gather.h"

namespace sparse_sae {
namespace {

// Rows that may be columns of a wider array, so not contiguous as a whole.
template <class T>
T* view_mutable_rows(const char* name, py::array_t<T, 0>& a, int64_t N) {
    if (a.ndim() != 2 || a.shape(0) != N) wrong_shape(name, a, shape_text({N, -1}));
    if (!a.writeable()) throw py::value_error(std::string(name) + ": read-only, expected a writeable array");
    check_elements(name, a);
    return a.mutable_data();
}

void check_index(const int64_t* index, int64_t N, int64_t R) {
    std::uint64_t largest = 0;  // a negative one is larger than any
    for (int64_t i = 0; i < N; ++i) largest = std::max(largest, static_cast<std::uint64_t>(index[i]));
    if (N && largest >= static_cast<std::uint64_t>(R))
        throw py::index_error("index: row " + std::to_string(static_cast<int64_t>(largest)) + ", expected 0 to " +
                              std::to_string(R - 1));
}

template <class T>
void bind(py::module_& m) {
    m.def(
        "gather",
        [](py::array_t<T, 0> out, const py::array& x, const array<int64_t>& index,
           const std::optional<array<float>>& scale, const std::optional<array<T>>& center,
           const std::optional<array<T>>& factor, int num_threads) {
            const int64_t* rows = view("index", index, {-1});
            const int64_t N = index.size();
            T* to = view_mutable_rows("out", out, N);
            const int64_t D = out.shape(1), stride = row_stride("out", out);
            if (x.ndim() != 2 || x.shape(1) != D) wrong_shape("x", x, shape_text({-1, D}));
            const Stored stored{x.data(), dtype_of("x", x), row_stride("x", x),
                                view_optional("scale", scale, {x.shape(0)})};
            const T *c = view_optional("center", center, {D}), *f = view_optional("factor", factor, {D});
            check_index(rows, N, x.shape(0));
            py::gil_scoped_release release;
            return gather(to, stride, stored, rows, c, f, N, D, num_threads);
        },
        py::arg("out").noconvert(), py::arg("x"), py::arg("index").noconvert(),
        py::arg("scale").noconvert() = py::none(), py::kw_only(), py::arg("center").noconvert() = py::none(),
        py::arg("factor").noconvert() = py::none(), py::arg("num_threads") = 1);
}

}  // namespace

void bind_gather(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace sparse_sae
