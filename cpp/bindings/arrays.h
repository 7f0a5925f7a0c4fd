// Check, then view. Nothing here copies or computes.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "kernels/common/rows.h"
#include "kernels/common/types.h"

namespace sparse_sae {

namespace py = pybind11;
template <class T>
using array = py::array_t<T, py::array::c_style>;

[[noreturn]] inline void wrong_shape(const char* name, const py::array& a, const std::string& expected) {
    throw py::value_error(std::string(name) + ": shape " + py::str(a.attr("shape")).cast<std::string>() +
                          ", expected " + expected);
}

inline std::string shape_text(std::initializer_list<int64_t> shape) {
    std::string s = "(";
    for (const int64_t n : shape) s += (n < 0 ? std::string("any") : std::to_string(n)) + ", ";
    s.resize(s.size() - 2);
    return s + ")";
}

// Every size and every number of things, before anything is computed from it.
inline void check_number(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
        throw py::value_error(std::string(name) + ": " + std::to_string(value) + ", expected " +
                              (most == INT64_MAX ? "at least " + std::to_string(least)
                                                 : std::to_string(least) + " to " + std::to_string(most)));
}

// Elements at multiples of their size, in the byte order of this machine: what compiled code takes for granted.
inline void check_elements(const char* name, const py::array& a) {
    if (!(a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
        throw py::value_error(std::string(name) + ": not aligned in memory; pass numpy.require(" + name +
                              ", requirements='A')");
    const char order = a.dtype().byteorder();
    if (order != '=' && order != '|')
        throw py::type_error(std::string(name) + ": dtype " + py::str(a.dtype()).cast<std::string>() +
                             " has the byte order of another machine; pass " + name + ".astype(" + name +
                             ".dtype.newbyteorder('='))");
}

// A dense array of exactly T; a negative size accepts any.
template <class T>
const T* view(const char* name, const array<T>& a, std::initializer_list<int64_t> shape) {
    bool ok = a.ndim() == static_cast<py::ssize_t>(shape.size());
    int64_t i = 0;
    for (const int64_t n : shape) ok = ok && (n < 0 || a.shape(i) == n), ++i;
    if (!ok) wrong_shape(name, a, shape_text(shape));
    check_elements(name, a);
    return a.data();
}

template <class T>
T* view_mutable(const char* name, array<T>& a, std::initializer_list<int64_t> shape) {
    view(name, a, shape);
    if (!a.writeable()) throw py::value_error(std::string(name) + ": read-only, expected a writeable array");
    return a.mutable_data();
}

template <class T>
const T* view_optional(const char* name, const std::optional<array<T>>& a, std::initializer_list<int64_t> shape) {
    return a ? view(name, *a, shape) : nullptr;
}

inline Dtype dtype_of(const char* name, const py::array& x) {
    check_elements(name, x);
    const char kind = x.dtype().kind();
    const py::ssize_t item = x.itemsize();
    if (kind == 'f' && item == 2) return Dtype::float16;
    if (kind == 'f' && item == 4) return Dtype::float32;
    if (kind == 'f' && item == 8) return Dtype::float64;
    if (kind == 'u' && item == 2) return Dtype::bfloat16;
    if (kind == 'i' && item == 1) return Dtype::int8;
    throw py::type_error(std::string(name) + ": dtype " + py::str(x.dtype()).cast<std::string>() +
                         ", expected float16, float32, float64 or bfloat16 bits in uint16");
}

// Distance between rows, in elements; the last axis must be contiguous.
inline int64_t row_stride(const char* name, const py::array& x) {
    const py::ssize_t item = x.itemsize();
    // NumPy gives axes of length 0 or 1, and all axes of an empty array, strides that mean nothing.
    const bool walks_rows = x.shape(0) > 1 && x.shape(1) > 0, walks_columns = x.shape(1) > 1 && x.shape(0) > 0;
    if ((walks_columns && x.strides(1) != item) || (walks_rows && x.strides(0) % item != 0))
        throw py::value_error(std::string(name) +
                              ": the last axis must be contiguous; pass numpy.ascontiguousarray(x)");
    return static_cast<int64_t>(x.strides(0) / item);
}

// Input rows: float16, float32, float64, or uint16 holding bfloat16 bits; the last axis contiguous.
template <class T>
Rows<T> view_rows(const char* name, const py::array& x, const T* center, int64_t D) {
    const Dtype dtype = dtype_of(name, x);
    if (dtype == Dtype::int8)
        throw py::type_error(std::string(name) +
                             ": dtype int8, expected float16, float32, float64 or bfloat16 bits in uint16");
    if (x.ndim() != 2 || (D >= 0 && x.shape(1) != D)) wrong_shape(name, x, shape_text({-1, D}));
    return {x.data(), dtype, row_stride(name, x), center, x.shape(0), x.shape(1)};
}

template <class T>
CodesView<T> view_codes(const array<int32_t>& indptr, const array<int32_t>& indices, const array<T>& values,
                        int64_t M) {
    check_number("n_latents", M, 0, INT32_MAX);
    if (indptr.ndim() != 1 || indptr.shape(0) < 1) wrong_shape("indptr", indptr, "(N + 1)");
    check_elements("indptr", indptr);
    const int64_t N = indptr.shape(0) - 1, nnz = indices.size();
    view("indices", indices, {nnz});
    view("values", values, {nnz});
    const int32_t* p = indptr.data();
    bool ok = p[0] == 0 && p[N] == nnz;
    for (int64_t n = 0; n < N; ++n) ok = ok && p[n] <= p[n + 1];
    if (!ok) throw py::value_error("indptr: must start at 0, never fall, and end at the number of entries");
    const int32_t* j = indices.data();
    std::uint32_t largest = 0;  // a negative one is larger than any; without a way out, the loop is vector code
    for (int64_t e = 0; e < nnz; ++e) largest = std::max(largest, static_cast<std::uint32_t>(j[e]));
    if (nnz && largest >= M)
        throw py::value_error("indices: latent " + std::to_string(static_cast<int32_t>(largest)) + ", expected 0 to " +
                              std::to_string(M - 1));
    return {p, j, values.data(), N};
}

// Hands a vector to NumPy without a copy.
template <class T>
array<T> give(std::vector<T>&& values) {
    auto* owned = new std::vector<T>(std::move(values));
    return array<T>(static_cast<py::ssize_t>(owned->size()), owned->data(),
                    py::capsule(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); }));
}

}  // namespace sparse_sae
