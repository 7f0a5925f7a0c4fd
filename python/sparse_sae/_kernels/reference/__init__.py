"""The kernels in NumPy, by family: slow, plain, and the meaning the compiled ones are tested against.

Signatures and shapes are those of `../__init__.pyi`. `num_threads` is accepted for the contract's sake; NumPy has no
threads of ours to set.
"""

import numpy as np

from .decode import code_grad as code_grad
from .decode import decode as decode
from .decode import decode_residual as decode_residual
from .dense import matmul_nt as matmul_nt
from .encode import encode_batch_topk as encode_batch_topk
from .encode import encode_threshold as encode_threshold
from .encode import encode_topk as encode_topk
from .encode import encode_topk_aux as encode_topk_aux
from .encode import keep_int8 as keep_int8
from .encode import screens as screens
from .gather import first_nonfinite_row as first_nonfinite_row
from .gather import gather as gather
from .omp import encode_omp as encode_omp
from .update import adam_rows as adam_rows
from .update import grad_squared_norm as grad_squared_norm
from .update import latent_sums as latent_sums
from .update import update_rows as update_rows
from .update import weight_grad as weight_grad

version = np.__version__
openmp = False
int8 = False
compiler = "numpy"
eigen = None
