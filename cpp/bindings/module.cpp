#include "bindings/module.h"

#include "kernels/common/parallel.h"
#include "kernels/dense/dense.h"
#include "kernels/encode/kept.h"

PYBIND11_MODULE(SPARSE_SAE_MODULE, m) {
    m.doc() = "The kernels of sparse_sae, compiled for one CPU level.";
    m.attr("level") = SPARSE_SAE_LEVEL;
    m.attr("version") = SPARSE_SAE_VERSION;
    m.attr("openmp") = sparse_sae::has_openmp();
    m.attr("int8") = sparse_sae::has_fast_bytes();
    m.attr("amx") = sparse_sae::has_amx();
    m.attr("compiler") = __VERSION__;
    m.attr("eigen") = sparse_sae::eigen_version();
    sparse_sae::bind_encode(m);
    sparse_sae::bind_decode(m);
    sparse_sae::bind_dense(m);
    sparse_sae::bind_gather(m);
    sparse_sae::bind_pursuit(m);
    sparse_sae::bind_update(m);
}
