#include "bindings/arrays.h"
#include "bindings/module.h"
#include "kernels/update/adam.h"

namespace sparse_sae {
namespace {

using Ints = array<int32_t>;

// A dictionary from Python into a RowUpdate: see update_rows in the stub for its keys.
template <class T>
RowUpdate<T> view_update(const py::dict& d, int64_t M, int64_t nnz) {
    const auto get = [&](const char* key) -> std::optional<array<T>> {
        if (!d.contains(key) || d[key].is_none()) return std::nullopt;
        if (!array<T>::check_(d[key]))
            throw py::type_error(std::string(key) + ": must be a contiguous array of the dtype of w");
        return py::reinterpret_borrow<array<T>>(d[key]);
    };
    const auto need = [&](const char* key) {
        auto a = get(key);
        if (!a) throw py::type_error(std::string("updates: no array for ") + key);
        return *a;
    };
    auto w = need("w"), m = need("m"), v = need("v");
    const auto values = need("values"), dense = need("dense");
    const auto along = get("along"), outer = get("outer"), common = get("common");
    view("w", w, {M, -1});
    const int64_t D = w.shape(1);
    view("dense", dense, {-1, D});
    if (nnz > 0 && dense.shape(0) < 1) wrong_shape("dense", dense, "at least one row");
    if (outer.has_value() != common.has_value()) throw py::value_error("outer and common go together");
    return {view_mutable("w", w, {M, D}),
            view_mutable("m", m, {M, D}),
            view_mutable("v", v, {M, D}),
            view("values", values, {nnz}),
            dense.data(),
            dense.shape(0),
            view_optional("along", along, {M}),
            view_optional("outer", outer, {M}),
            view_optional("common", common, {D}),
            d.contains("unit_norm") && d["unit_norm"].cast<bool>(),
            D};
}

template <class T>
std::vector<RowUpdate<T>> view_updates(const py::list& updates, int64_t M, int64_t nnz) {
    std::vector<RowUpdate<T>> out;
    for (const auto& u : updates) out.push_back(view_update<T>(u.cast<py::dict>(), M, nnz));
    if (out.empty()) throw py::value_error("updates: empty, expected at least one");
    return out;
}

ByLatent order_of(const CodesView<int32_t>& codes, int64_t M, int num_threads) {
    return by_latent(codes.indptr, codes.indices, codes.n_rows, M, num_threads);
}

bool is_double(const py::list& updates) {
    return !updates.empty() && updates[0].cast<py::dict>()["w"].cast<py::array>().itemsize() == 8;
}

template <class T>
void bind(py::module_& m) {
    m.def(
        "weight_grad",
        [](const Ints& indptr, const Ints& indices, const array<T>& values, const array<T>& dense, int64_t n_latents,
           int num_threads) {
            view_codes(indptr, indices, values, n_latents);
            view("dense", dense, {-1, -1});
            if (indices.size() > 0 && dense.shape(0) < 1) wrong_shape("dense", dense, "at least one row");
            array<T> out({n_latents, static_cast<int64_t>(dense.shape(1))});
            T* to = out.mutable_data();
            py::gil_scoped_release release;
            const ByLatent order = by_latent(indptr.data(), indices.data(), indptr.size() - 1, n_latents, num_threads);
            weight_grad(to, order, values.data(), dense.data(), dense.shape(0), n_latents, dense.shape(1), num_threads);
            return out;
        },
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("values").noconvert(),
        py::arg("dense").noconvert(), py::arg("n_latents"), py::kw_only(), py::arg("num_threads") = 1);
    m.def(
        "latent_sums",
        [](const Ints& indptr, const Ints& indices, const array<T>& values, int64_t n_latents, int /* num_threads */) {
            const CodesView<T> codes = view_codes(indptr, indices, values, n_latents);
            array<T> out(n_latents);
            T* to = out.mutable_data();
            py::gil_scoped_release release;
            latent_sums(to, codes, n_latents);  // a pass over the values: too little work to share out
            return out;
        },
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("values").noconvert(),
        py::arg("n_latents"), py::kw_only(), py::arg("num_threads") = 1);
    m.def(
        "adam_rows",
        [](array<T> w, array<T> mean, array<T> var, const array<T>& grad, double lr, double beta1, double beta2,
           double eps, int64_t step, bool unit_norm, double scale, int num_threads) {
            view("w", w, {-1, -1});
            const int64_t M = w.shape(0), D = w.shape(1);
            T *pw = view_mutable("w", w, {M, D}), *pm = view_mutable("m", mean, {M, D}),
              *pv = view_mutable("v", var, {M, D});
            const T* g = view("grad", grad, {M, D});
            if (step < 1) throw py::value_error("step: " + std::to_string(step) + ", counted from 1");
            py::gil_scoped_release release;
            adam_rows(pw, pm, pv, g, Adam{lr, beta1, beta2, eps, step, scale}, unit_norm, M, D, num_threads);
        },
        py::arg("w").noconvert(), py::arg("m").noconvert(), py::arg("v").noconvert(), py::arg("grad").noconvert(),
        py::kw_only(), py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("step"),
        py::arg("unit_norm") = false, py::arg("scale") = 1.0, py::arg("num_threads") = 1);
}

}  // namespace

void bind_update(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
    m.def(
        "update_rows",
        [](const py::list& updates, const Ints& indptr, const Ints& indices, int64_t n_latents, double lr, double beta1,
           double beta2, double eps, int64_t step, double scale, int num_threads) {
            if (step < 1) throw py::value_error("step: " + std::to_string(step) + ", counted from 1");
            const CodesView<int32_t> codes = view_codes<int32_t>(indptr, indices, indices, n_latents);
            const Adam how{lr, beta1, beta2, eps, step, scale};
            const auto run = [&](const auto& views) {
                py::gil_scoped_release release;
                const ByLatent order = order_of(codes, n_latents, num_threads);
                update_rows(views.data(), static_cast<int>(views.size()), order, how, n_latents, num_threads);
            };
            if (is_double(updates))
                run(view_updates<double>(updates, n_latents, indices.size()));
            else
                run(view_updates<float>(updates, n_latents, indices.size()));
        },
        py::arg("updates"), py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("n_latents"),
        py::kw_only(), py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("step"),
        py::arg("scale") = 1.0, py::arg("num_threads") = 1);
    m.def(
        "grad_squared_norm",
        [](const py::list& updates, const Ints& indptr, const Ints& indices, int64_t n_latents, int num_threads) {
            const CodesView<int32_t> codes = view_codes<int32_t>(indptr, indices, indices, n_latents);
            const auto run = [&](const auto& views) {
                py::gil_scoped_release release;
                const ByLatent order = order_of(codes, n_latents, num_threads);
                return grad_squared_norm(views.data(), static_cast<int>(views.size()), order, n_latents, num_threads);
            };
            return is_double(updates) ? run(view_updates<double>(updates, n_latents, indices.size()))
                                      : run(view_updates<float>(updates, n_latents, indices.size()));
        },
        py::arg("updates"), py::arg("indptr").noconvert(), py::arg("indices").noconvert(), py::arg("n_latents"),
        py::kw_only(), py::arg("num_threads") = 1);
}

}  // namespace sparse_sae
