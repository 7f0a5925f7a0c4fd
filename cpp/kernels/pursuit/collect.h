// Rows in, a tile at a time, and their codes out.
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"

namespace sparse_sae {

template <class T>
using Found = std::vector<std::vector<std::pair<int32_t, T>>>;

// Rows first, ..., first + R - 1, those whose squared norm is not finite as zeros, which get no codes.
template <class T>
std::vector<T> read_tile(const Rows<T>& rows, int64_t first, int64_t R) {
    std::vector<T> x(static_cast<std::size_t>(R * rows.D));
    for (int64_t r = 0; r < R; ++r) {
        T* row = x.data() + r * rows.D;
        rows.read(row, first + r);
        if (!(dot(row, row, rows.D) < std::numeric_limits<T>::infinity())) std::fill_n(row, rows.D, T(0));
    }
    return x;
}

template <class T>
Codes<T> collect(const Found<T>& found) {
    std::size_t total = 0;
    for (const auto& row : found) total += row.size();
    if (total > static_cast<std::size_t>(std::numeric_limits<int32_t>::max()))
        throw std::invalid_argument("x: more than 2**31 - 1 codes; encode fewer rows at once");
    Codes<T> codes;
    codes.indices.reserve(total), codes.values.reserve(total), codes.indptr.reserve(found.size() + 1);
    codes.indptr.push_back(0);
    for (const auto& row : found) {
        for (const auto& [latent, value] : row) codes.indices.push_back(latent), codes.values.push_back(value);
        codes.indptr.push_back(static_cast<int32_t>(codes.indices.size()));
    }
    return codes;
}

}  // namespace sparse_sae
