#pragma once

#include <pybind11/pybind11.h>

namespace sparse_sae {

void bind_encode(pybind11::module_& m);
void bind_decode(pybind11::module_& m);
void bind_dense(pybind11::module_& m);
void bind_gather(pybind11::module_& m);
void bind_pursuit(pybind11::module_& m);
void bind_update(pybind11::module_& m);

}  // namespace sparse_sae
