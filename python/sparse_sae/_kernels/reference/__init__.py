"""The kernels in NumPy, by family: slow, plain, and the meaning the compiled ones are tested against.

Signatures and shapes are those of `../__init__.pyi`. `num_threads` is accepted for the contract's sake; NumPy has no
threads of ours to set.
"""

import numpy as np

from sparse_sae._kernels.reference.decode import (
    code_grad as code_grad,
    decode as decode,
    decode_residual as decode_residual,
)
from sparse_sae._kernels.reference.dense import matmul_nt as matmul_nt
from sparse_sae._kernels.reference.encode import (
    encode_batch_topk as encode_batch_topk,
    encode_threshold as encode_threshold,
    encode_topk as encode_topk,
    encode_topk_aux as encode_topk_aux,
    keep_int8 as keep_int8,
    screens as screens,
)
from sparse_sae._kernels.reference.gather import first_nonfinite_row as first_nonfinite_row, gather as gather
from sparse_sae._kernels.reference.pursuit import (
    encode_iht as encode_iht,
    encode_lasso as encode_lasso,
    encode_omp as encode_omp,
)
from sparse_sae._kernels.reference.update import (
    adam_rows as adam_rows,
    grad_squared_norm as grad_squared_norm,
    latent_sums as latent_sums,
    update_rows as update_rows,
    weight_grad as weight_grad,
)

version = np.__version__
openmp = False
int8 = False
compiler = "numpy"
eigen = None
