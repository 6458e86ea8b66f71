"""Operators of TorchScript that a potential may call: functions of tensors, numbers, lists and texts.

None reads or writes a file, opens a connection, prints, starts a thread or process, or returns memory that
belongs to something else. Names without a namespace are those of ``aten``, which code in a file may call as
``torch.NAME(x)`` or as a method ``x.NAME()``.
"""

from __future__ import annotations

_NUMBERS = """
Bool Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit Size abs absolute acos acosh
add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh
ceil celu clamp clamp_max clamp_min clip copysign cos cosh deg2rad degrees digamma div divide divmod elu erf
erfc erfinv exp exp2 expm1 fabs factorial floor floor_divide floordiv float_power fmax fmin fmod frac frexp
gamma gcd gelu glu hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac ldexp
leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logit mathremainder maximum
minimum mish modf mul multiply mvlgamma nan_to_num neg negative nextafter polygamma positive pow prelu
rad2deg radians reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc
sinh softplus softshrink special_bessel_j0 special_bessel_j1 special_digamma special_entr special_erf
special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammainc
special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p
special_log_ndtr special_log_softmax special_logit special_logsumexp special_ndtr special_ndtri special_psi
special_sinc special_softmax special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta sqrt
square sub subtract tan tanh threshold true_divide trunc xlogy
"""
_LOGIC = """
all allclose any bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
can_cast count_nonzero eq equal ge greater greater_equal gt is_complex is_contiguous is_floating_point
is_grad_enabled is_nonzero is_same_size is_scripting is_signed isclose isfinite isin isinf isnan isneginf
isposinf isreal le less less_equal logical_and logical_not logical_or logical_xor lt ne not_equal
promote_types result_type where
"""
_SUMS = """
addbmm addmm addmv addr amax amin aminmax argmax argmin baddbmm bmm cdist chain_matmul cosine_similarity cov
cross cummax cummin cumprod cumsum cumulative_trapezoid diff dist dot einsum frobenius_norm inner kron
l1_loss linalg_cholesky linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_eigvalsh linalg_inv
linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_multi_dot linalg_norm
linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_svd linalg_svdvals linalg_vecdot linalg_vector_norm
linear log_softmax logcumsumexp logsumexp matmul matrix_exp matrix_power max mean median min mm mode
mse_loss mv nanmean nanmedian nansum norm nuclear_norm outer pairwise_distance pdist prod smooth_l1_loss
softmax std std_mean sum sum_to_size tensordot trace trapezoid trapz triangular_solve var var_mean vdot
"""
_SHAPES = """
adjoint alias argsort argwhere atleast_1d atleast_2d atleast_3d bincount block_diag broadcast_tensors
broadcast_to bucketize cartesian_prod cat chunk clone column_stack combinations complex concat concatenate
conj constant_pad_nd contiguous cpu cuda detach diag diag_embed diagflat diagonal dim dsplit dstack
element_size expand expand_as flatten flip fliplr flipud gather get_device hsplit hstack imag index
index_add index_copy index_fill index_put index_reduce index_select masked_fill masked_scatter masked_select
meshgrid moveaxis movedim msort narrow nonzero numel one_hot pad permute ravel real repeat repeat_interleave
reshape reshape_as resolve_conj resolve_neg roll rot90 row_stack scatter scatter_add scatter_reduce
searchsorted select select_scatter slice slice_scatter split split_with_sizes squeeze stack storage_offset
stride swapaxes swapdims t take take_along_dim tensor_split tile to topk transpose tril tril_indices triu
triu_indices type_as unbind unflatten unfold unique_consecutive unique_dim unsafe_chunk unsafe_split
unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real vsplit vstack numpy_T mT mH size
sort zero fill
"""
_MAKERS = """
arange as_tensor eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like
scalar_tensor tensor zeros zeros_like empty empty_like new_empty copy_ grad backward requires_grad_
_set_item
"""
_LAYERS = """
adaptive_avg_pool1d alpha_dropout avg_pool1d batch_norm bilinear conv1d dropout embedding embedding_bag
feature_dropout group_norm instance_norm layer_norm native_dropout native_layer_norm rms_norm
scaled_dot_product_attention
"""
_PYTHON = """
append center clear copy count data device dict endswith extend find format get hash insert item items join
keys len list lower ord percentFormat pop popitem range remove replace reverse setdefault sorted startswith
str strip update upper values __and__ __contains__ __derive_index __getitem__ __iand__ __ilshift__ __ior__
__irshift__ __is__ __isnot__ __ixor__ __lshift__ __not__ __or__ __range_length __round_to_zero_floordiv
__rshift__ __xor__ Delete
"""
_PRIM = """
EnumName EnumValue NumToTensor RaiseException TupleIndex TupleUnpack Uninitialized abs data device dtype
grad id is_cpu is_cuda is_nested is_quantized is_sparse itemsize layout max min nbytes rangelist
requires_grad tolist type unchecked_cast unchecked_unwrap_optional
"""
_ATEN = frozenset(f"{_NUMBERS} {_LOGIC} {_SUMS} {_SHAPES} {_MAKERS} {_LAYERS} {_PYTHON}".split())
#: by namespace; those of other namespaces than aten are called as ``ops.NAMESPACE.NAME(x)``
_ALLOWED = {"aten": _ATEN, "prim": frozenset(_PRIM.split())}


def is_allowed(name: str, namespace: str = "aten") -> bool:
    """Return whether a potential may call an operator; ``NAME_`` works in place and is as ``NAME``."""
    known = _ALLOWED.get(namespace, frozenset())
    return name in known or (name.endswith("_") and not name.startswith("_") and name[:-1] in known)


def is_operator(name: str) -> bool:
    """Return whether torch has an operator ``aten::NAME``."""
    import torch

    return bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))
