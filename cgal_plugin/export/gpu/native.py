"""Small device functions in CUDA C++ that Warp has no builtin for: 16-byte loads, sums over a warp.

Warp's vectors have the alignment of a float, so that it reads a ``vec4f`` in four loads; the functions here
make one. On Warp's CPU device the same functions are plain C++, and each sum is over one thread: kernels
take the number of cooperating threads as an argument, which is 1 there (see :class:`Lanes`).
"""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

from __future__ import annotations

from dataclasses import dataclass

import warp as wp

wp.set_module_options({"enable_backward": False})

#: channels that neighbouring threads of a GPU read together: 8 threads with 4 channels of 4 bytes each
GROUP = 32
#: rows of one thread in :func:`dense_rows`
ROWS = 8


@dataclass(frozen=True)
class Lanes:
    """Threads that share a row: ``width`` channel lanes times ``parts`` (slots of the list, or of a sum)."""

    width: int
    parts: int

    @property
    def count(self) -> int:
        """Threads of a row."""
        return self.width * self.parts

    @classmethod
    def of(cls, is_cuda: bool) -> Lanes:
        """Return 8 × 4 for a GPU (one warp), 1 × 1 for the CPU device."""
        return cls(8, 4) if is_cuda else cls(1, 1)


@wp.func
def place_of(thread: wp.int32, n1: wp.int32, n2: wp.int32):
    """Return i, j, k of a thread in ``(·, n1, n2)``, in int32; Warp's own division is in int64."""
    rest = thread // n2
    return rest // n1, rest % n1, thread % n2


# Warp reads the signatures of native functions; their bodies are the snippets
@wp.func_native("""
#if defined(__CUDA_ARCH__)
    const float4 q = *reinterpret_cast<const float4*>(a.data + i);
    return wp::vec_t<4, wp::float32>(q.x, q.y, q.z, q.w);
#else
    return wp::vec_t<4, wp::float32>(a.data[i], a.data[i + 1], a.data[i + 2], a.data[i + 3]);
#endif
""")
def load4(a: wp.array(dtype=wp.float32), i: wp.int32) -> wp.vec4f:
    """Return ``a[i : i + 4]``; ``i`` is a multiple of 4."""


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    *reinterpret_cast<float4*>(a.data + i) = make_float4(v[0], v[1], v[2], v[3]);
#else
    a.data[i] = v[0]; a.data[i + 1] = v[1]; a.data[i + 2] = v[2]; a.data[i + 3] = v[3];
#endif
""")
def store4(a: wp.array(dtype=wp.float32), i: wp.int32, v: wp.vec4f):
    """Store ``a[i : i + 4] = v``; ``i`` is a multiple of 4."""


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    for (int o = 8; o < 32; o <<= 1)
        for (int c = 0; c < 4; ++c) v[c] += __shfl_xor_sync(0xffffffffu, v[c], o);
#endif
    return v;
""")
def sum_parts(v: wp.vec4f) -> wp.vec4f:
    """Return the sum over the 4 parts, in each of them. All 32 threads of the warp must call it."""


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
#endif
    return x;
""")
def sum_all(x: wp.float64) -> wp.float64:
    """Return the sum over the 32 threads of the warp, in each of them; all must call it."""


@wp.func_native("""
    float sums[8][4] = {};
    const float* p[8];
    for (int r = 0; r < 8; ++r)
        p[r] = x.data + static_cast<size_t>(first + r < rows ? first + r : rows - 1) * stride + x_at;
    const float* q = w.data + w_at;
    for (int k = 0; k < size; k += 4, q += 4 * width) {
        alignas(16) float a[8][4];
        alignas(16) float b[4][4];
#if defined(__CUDA_ARCH__)
        #pragma unroll
        for (int m = 0; m < 4; ++m)
            *reinterpret_cast<float4*>(b[m]) = *reinterpret_cast<const float4*>(q + m * width);
        #pragma unroll
        for (int r = 0; r < 8; ++r)
            *reinterpret_cast<float4*>(a[r]) = *reinterpret_cast<const float4*>(p[r] + k);
#else
        for (int m = 0; m < 4; ++m)
            for (int c = 0; c < 4; ++c) b[m][c] = q[m * width + c];
        for (int r = 0; r < 8; ++r)
            for (int m = 0; m < 4; ++m) a[r][m] = p[r][k + m];
#endif
        for (int m = 0; m < 4; ++m)
            for (int r = 0; r < 8; ++r)
                for (int c = 0; c < 4; ++c) sums[r][c] += a[r][m] * b[m][c];
    }
    for (int r = 0; r < 8; ++r)
        if (first + r < rows) {
            float* to = y.data + static_cast<size_t>(first + r) * y_stride + y_at;
#if defined(__CUDA_ARCH__)
            *reinterpret_cast<float4*>(to) = make_float4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
#else
            for (int c = 0; c < 4; ++c) to[c] = sums[r][c];
#endif
        }
""")
def product_of_rows(
    x: wp.array(dtype=wp.float32),
    x_at: wp.int32,
    stride: wp.int32,
    first: wp.int32,
    rows: wp.int32,
    size: wp.int32,
    w: wp.array(dtype=wp.float32),
    w_at: wp.int32,
    width: wp.int32,
    y: wp.array(dtype=wp.float32),
    y_stride: wp.int32,
    y_at: wp.int32,
):
    """Store four columns of x w for the ``ROWS`` rows from ``first``; ``size`` is a multiple of 4.

    ``w_at`` and ``y_at`` are the offsets of the first of the columns.
    """


# reads of 16 bytes, and the loop over the neighbours of a bead; `w` of each channel is a cubic in t
_MESSAGES = """
#if defined(__CUDA_ARCH__)
    #define READ(to, from) *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from)
#else
    #define READ(to, from) for (int q = 0; q < 4; ++q) (to)[q] = (from)[q]
#endif
    const float* coefficients = table.data + table_at;
    const float* source = %s.data + static_cast<size_t>(first) * stride + at;
    const int* found = pair.data + slots;
    const float* position = place.data + slots;
    wp::vec_t<4, wp::float32> sums;
"""


@wp.func_native(
    _MESSAGES % "v"
    + """
    for (int s = part; s < n; s += parts) {
        const int p = found[s];
        if (p >= 0) {
            alignas(16) float c0[4], c1[4], c2[4], c3[4], x[4];
            const float t = position[s];
            const float* c = coefficients + (static_cast<unsigned>(p) >> 20) * 128u;
            READ(c0, c); READ(c1, c + 32); READ(c2, c + 64); READ(c3, c + 96);
            READ(x, source + (static_cast<unsigned>(p) & 1048575u) * static_cast<unsigned>(stride));
            for (int q = 0; q < 4; ++q)
                sums[q] += (((c3[q] * t + c2[q]) * t + c1[q]) * t + c0[q]) * x[q];
        }
    }
    #undef READ
    return sums;
"""
)
def messages(
    n: wp.int32,
    slots: wp.int32,
    first: wp.int32,
    pair: wp.array(dtype=wp.int32),
    place: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    table_at: wp.int32,
    v: wp.array(dtype=wp.float32),
    stride: wp.int32,
    at: wp.int32,
    part: wp.int32,
    parts: wp.int32,
) -> wp.vec4f:
    """Return Σ W v over the slots of one part, for four channels.

    ``slots``: first slot of the bead, ``first``: first row of its molecule; ``table_at``, ``at``: offsets of
    the four channels.
    """


@wp.func_native(
    _MESSAGES % "m"
    + """
    float* halves = slope.data + static_cast<size_t>(slots) * groups + group;
    // the same number of rounds for all threads of a warp, which exchange values in each
    for (int start = 0; start < n; start += parts) {
        const int s = start + part;
        const int p = s < n ? found[s] : -1;
        float here = 0.0f;
        if (p >= 0) {
            alignas(16) float c0[4], c1[4], c2[4], c3[4], x[4];
            const float t = position[s], t2 = 2.0f * t, t3 = 3.0f * t * t;
            const float* c = coefficients + (static_cast<unsigned>(p) >> 20) * 128u;
            READ(c0, c); READ(c1, c + 32); READ(c2, c + 64); READ(c3, c + 96);
            READ(x, source + (static_cast<unsigned>(p) & 1048575u) * static_cast<unsigned>(stride));
            for (int q = 0; q < 4; ++q) {
                sums[q] += (((c3[q] * t + c2[q]) * t + c1[q]) * t + c0[q]) * x[q];
                here += (c3[q] * t3 + (c2[q] * t2 + c1[q])) * (x[q] * own[q]);
            }
        }
#if defined(__CUDA_ARCH__)
        for (int o = 4; o > 0; o >>= 1) here += __shfl_xor_sync(0xffffffffu, here, o);
#endif
        if (writer != 0 && s < n) {
            float* to = halves + static_cast<unsigned>(s) * static_cast<unsigned>(groups);
            *to = fresh != 0 ? here : *to + here;
        }
    }
    #undef READ
    return sums;
"""
)
def messages_back(
    n: wp.int32,
    slots: wp.int32,
    first: wp.int32,
    pair: wp.array(dtype=wp.int32),
    place: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    table_at: wp.int32,
    m: wp.array(dtype=wp.float32),
    stride: wp.int32,
    at: wp.int32,
    part: wp.int32,
    parts: wp.int32,
    own: wp.vec4f,
    slope: wp.array(dtype=wp.float32),
    groups: wp.int32,
    group: wp.int32,
    writer: wp.int32,
    fresh: wp.int32,
) -> wp.vec4f:
    """Return Σ W m as :func:`messages`, and write or add Σ_c W' m · own of each slot to ``slope``.

    All 32 threads of the warp must call it with the same ``n``; ``writer`` is 1 in one channel lane of 8.
    """
