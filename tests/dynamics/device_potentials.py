"""Potentials on a Warp device whose distributions are known, with the interface of GPUPotential."""

import warp as wp

from cgal_plugin.dynamics import integrator_kernels as kernels


@wp.kernel(enable_backward=False)
def chain_forces(
    x: wp.array(dtype=wp.vec3d),
    f: wp.array(dtype=wp.vec3f),
    e: wp.array(dtype=wp.float64),
    n: wp.int32,
    k: wp.float64,
    r0: wp.float64,
    well: wp.float64,
    limit: wp.float64,
):
    """Harmonic bonds, a harmonic well at the origin, and NaN for replicas with a bead beyond a limit."""
    r = wp.tid()
    energy = wp.float64(0.0)
    nan = wp.float64(0.0)
    for b in range(n):
        i = r * n + b
        p = x[i]
        total = -well * p
        energy += wp.float64(0.5) * well * wp.dot(p, p)
        if wp.length(p - x[r * n]) > limit:
            nan = wp.float64(wp.nan)
        if b > 0:
            d = p - x[i - 1]
            s = wp.length(d)
            total -= (k * (s - r0) / s) * d
            energy += wp.float64(0.5) * k * (s - r0) * (s - r0)
        if b + 1 < n:
            d = p - x[i + 1]
            s = wp.length(d)
            total -= (k * (s - r0) / s) * d
        f[i] = wp.vec3f(wp.float32(total[0]), wp.float32(total[1]), wp.float32(total[2]))
    e[r] = energy + nan
    if nan != wp.float64(0.0):
        for b in range(n):
            f[r * n + b] = wp.vec3f(wp.nan, wp.nan, wp.nan)


@wp.kernel(enable_backward=False)
def overflow_beyond(
    x: wp.array(dtype=wp.vec3d), f: wp.array(dtype=wp.vec3f), room: wp.float64, flag: wp.array(dtype=wp.int32)
):
    """Raise the flag and spoil the force of a bead that is beyond ``room``, as a list without room does."""
    i = wp.tid()
    if wp.length(x[i]) > room:
        flag[0] = 1
        f[i] = wp.vec3f(0.0, 0.0, 0.0)


class DeviceChain:
    """Chains with bonds ``k`` (kcal/mol/Å²), ``r0`` (Å) in a ``well`` (kcal/mol/Å²) at the origin.

    Replicas with a bead beyond ``limit`` (Å) from their first bead are NaN. Without ``room`` (Å from the
    origin) a list "overflows"; every :meth:`grow` doubles it. A replica takes ``replica_bytes``.
    """

    device = "cpu"

    def __init__(
        self, n_beads, n_replicas=1, *, k=0.0, r0=3.8, well=0.0, limit=1e9, room=1e9, replica_bytes=100
    ):
        self.n_beads, self.n_replicas = n_beads, n_replicas
        self.options = {
            "k": k,
            "r0": r0,
            "well": well,
            "limit": limit,
            "room": room,
            "replica_bytes": replica_bytes,
        }
        self.room = room
        self.calls = 0
        self.flag = wp.zeros(1, dtype=wp.int32, device="cpu")

    @property
    def memory_bytes(self):
        return self.options["replica_bytes"] * self.n_replicas

    def with_replicas(self, n_replicas):
        return DeviceChain(self.n_beads, n_replicas, **self.options)

    def compute(self, positions, forces, energies):
        o = self.options
        inputs = [positions, forces, energies, self.n_beads, o["k"], o["r0"], o["well"], o["limit"]]
        wp.launch(chain_forces, dim=self.n_replicas, inputs=inputs, device="cpu")
        inputs = [positions, forces, self.room, self.flag]
        wp.launch(overflow_beyond, dim=self.n_replicas * self.n_beads, inputs=inputs, device="cpu")

    @property
    def overflowed(self):
        return bool(self.flag.numpy()[0])

    def reset(self):
        self.flag.zero_()

    def grow(self):
        self.room *= 2
        self.flag.zero_()


@wp.kernel(enable_backward=False)
def write_noise(
    out: wp.array(dtype=wp.vec3d, ndim=2),
    words: wp.array(dtype=wp.vec4ui),
    counters: wp.array(dtype=wp.vec4ui),
    keys: wp.array(dtype=wp.vec2ui),
    first: wp.uint64,
    k0: wp.uint32,
    k1: wp.uint32,
):
    """Write the normal numbers of steps and beads, and the random words of given counters and keys."""
    s, i = wp.tid()
    out[s, i] = kernels.normals(first + wp.uint64(s), i, k0, k1)
    if s == 0 and i < words.shape[0]:
        words[i] = kernels.philox(counters[i], keys[i][0], keys[i][1])
