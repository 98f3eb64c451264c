"""What the learning controllers share: networks as functions of one flat parameter vector, replay, conjugate gradient.

A network here is a shape, not an object with weights: its parameters are one float32 vector that the caller owns. So a
snapshot is a copy, a step is an addition, a line search needs no bookkeeping, and the same vector feeds torch (batches,
gradients) and a small compiled kernel (one row, on the control path, where torch's overhead per layer would dominate).
Weight matrices are stored (n_in, n_out), so that the kernel walks memory in order and vectorises without fastmath.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

ADAM_DECAYS = (0.9, 0.999)  # Kingma & Ba 2015, section 2
ADAM_EPSILON = 1e-8  # the same


@dataclass(frozen=True)
class Mlp:
    """A fully connected ReLU network.

    sizes         inputs, hidden layers, outputs
    relu_outputs  whether the last layer is rectified too: a trunk's is, a network's outputs are linear
    """

    sizes: tuple[int, ...]
    relu_outputs: bool = False

    @property
    def n_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum((n_in + 1) * n_out for n_in, n_out in zip(self.sizes, self.sizes[1:]))

    def initial(self, rng: np.random.Generator, last_scale: float = 1.0) -> np.ndarray:
        """Parameters (n_parameters,) float32: He's normal weights, zero biases, last layer times `last_scale`."""
        parts = []
        for layer, (n_in, n_out) in enumerate(zip(self.sizes, self.sizes[1:])):
            scale = np.sqrt(2.0 / n_in) * (last_scale if layer == len(self.sizes) - 2 else 1.0)
            parts += [scale * rng.standard_normal(n_in * n_out), np.zeros(n_out)]
        return np.concatenate(parts).astype(np.float32)

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Outputs (n_rows, n_out) for parameters (n_parameters,) and inputs (n_rows, n_in)."""
        pairs = list(zip(self.sizes, self.sizes[1:]))
        # One split, not slices: the gradient of each slice would be a whole vector of zeros to add up.
        parts = theta.split([size for n_in, n_out in pairs for size in (n_in * n_out, n_out)])
        for layer, (weight, bias) in enumerate(zip(parts[::2], parts[1::2])):
            x = torch.addmm(bias, x, weight.view(pairs[layer]))
            if layer < len(pairs) - 1 or self.relu_outputs:
                x = torch.relu(x)
        return x


@njit(cache=True, nogil=True)
def dense_row(theta, start, x, y, relu):
    """One layer for one row, y = x W + b, the parameters standing in `theta` from `start` on; returns where they end.

    theta (n_parameters,), x (n_in,), y (n_out,) written, all float32. Skips inputs that a ReLU has zeroed, about half.
    Checked by tests/test_nets.py::test_one_row_kernel_equals_the_torch_network.
    """
    n_in, n_out = x.size, y.size
    bias = start + n_in * n_out
    for j in range(n_out):
        y[j] = theta[bias + j]
    for i in range(n_in):
        if x[i] != 0.0:
            row = theta[start + i * n_out : start + (i + 1) * n_out]
            for j in range(n_out):
                y[j] += x[i] * row[j]
    if relu:
        for j in range(n_out):
            y[j] = max(y[j], np.float32(0.0))
    return bias + n_out


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A float32 (or int64, bool) copy in torch's own memory: 64-byte aligned, so that equal input gives equal bits."""
    kind = {"b": torch.bool, "i": torch.int64, "u": torch.int64}.get(np.asarray(array).dtype.kind, torch.float32)
    return torch.tensor(array, dtype=kind)


@dataclass(frozen=True)
class Adam:
    """State of Adam (Kingma & Ba 2015) over one flat vector. Never changed in place: a step returns the next state."""

    mean: torch.Tensor
    square: torch.Tensor
    n_steps: int = 0

    @staticmethod
    def fresh(theta: torch.Tensor) -> "Adam":
        """State before the first step."""
        return Adam(torch.zeros_like(theta), torch.zeros_like(theta))

    def step(self, theta: torch.Tensor, gradient: torch.Tensor, rate: float) -> tuple[torch.Tensor, "Adam"]:
        """The parameters after one descent step, and the state to go on with."""
        n = self.n_steps + 1
        mean = torch.lerp(self.mean, gradient, 1.0 - ADAM_DECAYS[0])
        square = torch.lerp(self.square, gradient * gradient, 1.0 - ADAM_DECAYS[1])
        unbiased = mean / (1.0 - ADAM_DECAYS[0] ** n)
        scale = (square / (1.0 - ADAM_DECAYS[1] ** n)).sqrt() + ADAM_EPSILON
        return theta - rate * unbiased / scale, Adam(mean, square, n)


@dataclass(frozen=True)
class Critic:
    """A value network as learning carries it about: replaced as a whole by each update, never changed in place."""

    net: Mlp
    theta: torch.Tensor
    adam: Adam

    @staticmethod
    def fresh(sizes: tuple[int, ...], rng: np.random.Generator) -> "Critic":
        """A new value network whose outputs start near zero."""
        net = Mlp(sizes)
        theta = to_tensor(net.initial(rng, last_scale=0.01))
        return Critic(net, theta, Adam.fresh(theta))

    @torch.no_grad()
    def value(self, states: torch.Tensor) -> torch.Tensor:
        """V(s), (n_rows,)."""
        return self.net(self.theta, states)[:, 0]

    def fitted(self, states: torch.Tensor, targets: torch.Tensor, n_steps: int, rate: float) -> "Critic":
        """After `n_steps` Adam steps on the mean of (V(s) - G)^2, equation (30) as docs/papers/ntn_cell.md corrects it.

        states (n_rows, n_in), targets (n_rows,). A step that is not finite is not taken.
        """
        theta, adam = self.theta, self.adam
        for _ in range(n_steps):
            leaf = theta.detach().requires_grad_()
            loss = (self.net(leaf, states)[:, 0] - targets).square().mean()
            (gradient,) = torch.autograd.grad(loss, leaf)
            if not torch.isfinite(gradient).all():
                break
            theta, adam = adam.step(theta, gradient, rate)
        return Critic(self.net, theta, adam)


def conjugate_gradient(
    apply: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, n_iterations: int = 10, tolerance: float = 1e-10
) -> torch.Tensor:
    """x with A x = b, for A symmetric and positive definite, given as the function x -> A x.

    b             (n,)  right-hand side
    n_iterations  ()    at most; the residual's square falling below tolerance * |b|^2 ends it earlier

    Returns (n,). Source: Hestenes & Stiefel 1952.
    Checked by tests/test_nets.py::test_conjugate_gradient_solves_a_system.
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    square = residual @ residual
    enough = tolerance * square
    for _ in range(n_iterations):
        if not square > enough:
            break
        image = apply(direction)
        curvature = direction @ image
        if not curvature > 0.0:  # also false for NaN: keep what is solved so far
            break
        step = square / curvature
        x = x + step * direction
        residual = residual - step * image
        previous, square = square, residual @ residual
        direction = residual + (square / previous) * direction
    return x


class Replay:
    """First in, first out memory of rows, one array per named column.

    capacity  rows kept
    columns   name = (shape of one row's entry, dtype)
    """

    def __init__(self, capacity: int, **columns: tuple[tuple[int, ...], str]):
        self.capacity = capacity
        self.n_rows = 0
        self._next = 0
        self._arrays = {name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in columns.items()}

    def append(self, **row) -> None:
        """Store one row, dropping the oldest when full."""
        for name, array in self._arrays.items():
            array[self._next] = row[name]
        self._next = (self._next + 1) % self.capacity
        self.n_rows = min(self.n_rows + 1, self.capacity)

    def copy(self) -> dict[str, np.ndarray]:
        """All rows, oldest first, as copies that later appends leave alone."""
        return self.rows(np.arange(self.n_rows))

    def rows(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Some rows, 0 the oldest, as copies that later appends leave alone."""
        order = (which + self._next - self.n_rows) % self.capacity
        return {name: array[order] for name, array in self._arrays.items()}


@njit(cache=True, nogil=True)
def advantages(reward, value, next_value, ends, terminal, gamma, decay):
    """Generalised advantage estimates, A_i = delta_i + gamma decay A_{i+1}, delta_i = R_i + gamma V(s_{i+1}) - V(s_i).

    reward      (n,)  float64  R_i
    value       (n,)  float64  V(s_i)
    next_value  (n,)  float64  V(s_{i+1})
    ends        (n,)  bool     the next row does not follow this one: the sum stops here, at V(s_{i+1})
    terminal    (n,)  bool     the episode ends with this row: nothing is earned after it
    gamma       ()             discount factor, 0 to 1
    decay       ()             lambda, 0 to 1

    Returns (n,) float64. Source: Schulman et al. 2016, equation (16).
    Checked by tests/test_nets.py::test_returns_and_advantages_equal_the_sums_written_out.
    """
    n = reward.size
    result = np.zeros(n)
    for i in range(n - 1, -1, -1):
        ahead = 0.0 if terminal[i] else next_value[i]
        result[i] = reward[i] + gamma * ahead - value[i]
        if i + 1 < n and not ends[i] and not terminal[i]:
            result[i] += gamma * decay * result[i + 1]
    return result


@njit(cache=True, nogil=True)
def discounted_returns(reward, next_value, ends, terminal, gamma):
    """Forward discounted return of each row, G_i = R_i + gamma G_{i+1}; the paper's (30) sums past rewards by mistake.

    Arguments as in `advantages`; where the rows of an episode stop before it does, V(s_{i+1}) stands in for the rest.
    Returns (n,) float64. Checked by tests/test_nets.py::test_returns_and_advantages_equal_the_sums_written_out.
    """
    n = reward.size
    result = np.zeros(n)
    for i in range(n - 1, -1, -1):
        if terminal[i]:
            ahead = 0.0
        elif i + 1 == n or ends[i]:
            ahead = next_value[i]
        else:
            ahead = result[i + 1]
        result[i] = reward[i] + gamma * ahead
    return result


def standardised(x: torch.Tensor) -> torch.Tensor:
    """x less its mean, over its standard deviation; all zeros where x does not vary."""
    centred = x - x.mean()
    return centred / (centred.square().mean().sqrt() + 1e-6)
