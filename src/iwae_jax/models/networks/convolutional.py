"""Networks without pooling: strided convolutions from an image, fractionally strided ones to an image.

Both are a rearrangement and one matrix product, `products.affine`. XLA's own convolutions are slow on CPUs
where strides are fractional, as they are in each backward pass: docs/recipes.md has the times of a step.
"""

import math
from dataclasses import dataclass, replace

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from iwae_jax.checks import check_positive_int
from iwae_jax.models.networks.base import ACTIVATIONS, MLP, Affine, Bias, Heads, Network
from iwae_jax.models.products import affine
from iwae_jax.typing import Array, Float

NORMS = ("none", "group", "batch")
ROLES = ("encoder", "decoder")
_KERNEL = 4  # rows and columns of a kernel; the stride is half of it
_GROUPS = 8  # of group normalisation, or fewer where channels are fewer

Image = tuple[int, int, int]
"""Rows, columns and channels."""


def strided(
    x: Float[Array, "rows columns i"],
    kernel: Float[Array, "4 4 i o"],
    bias: Float[Array, " o"],
    precision: str = "float32",
) -> Float[Array, "half_rows half_columns o"]:
    """A convolution of stride 2: out[i, j] = bias + sum of kernel[a, b] x[2 i + a - 1, 2 j + b - 1].

    Rows and columns are halved, rounded up; zeros lie around the image.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax.models.networks.convolutional import strided
      >>> strided(jnp.ones((5, 4, 1)), jnp.ones((4, 4, 1, 2)), jnp.zeros(2)).shape
      (3, 2, 2)
    """
    (rows, columns, channels), size = x.shape, kernel.shape[-1]
    padded = jnp.pad(x, ((1, 1 + rows % 2), (1, 1 + columns % 2), (0, 0)))
    m, n = -(-rows // 2), -(-columns // 2)
    # A window of 4 x 4 is two blocks of 2 x 2 in each direction.
    blocks = padded.reshape(m + 1, 2, n + 1, 2, channels).swapaxes(1, 2).reshape(m + 1, n + 1, -1)
    corners = [blocks[i : i + m, j : j + n] for i in (0, 1) for j in (0, 1)]
    matrix = kernel.reshape(2, 2, 2, 2, channels, size).swapaxes(1, 2).reshape(-1, size)
    return affine(jnp.concatenate(corners, axis=-1), matrix, bias, precision)


def fractionally_strided(
    x: Float[Array, "rows columns i"],
    kernel: Float[Array, "4 4 i o"],
    precision: str = "float32",
) -> Float[Array, "twice_rows twice_columns o"]:
    """The transpose of `strided`: kernel[a, b] x[i, j] is added to out[2 i + a - 1, 2 j + b - 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax.models.networks.convolutional import fractionally_strided
      >>> fractionally_strided(jnp.ones((3, 2, 1)), jnp.ones((4, 4, 1, 2))).shape
      (6, 4, 2)
    """
    (rows, columns, channels), size = x.shape, kernel.shape[-1]
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    spread = affine(x, matrix, jnp.zeros(matrix.shape[1], matrix.dtype), precision)
    spread = spread.reshape(rows, columns, 2, 2, 2, 2, size)  # blocks of 2 x 2 that overlap
    total = jnp.zeros((rows + 1, columns + 1, 2, 2, size), spread.dtype)
    for i in (0, 1):
        for j in (0, 1):
            shift = ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0), (0, 0))
            total += jnp.pad(spread[:, :, i, :, j], shift)
    whole = total.swapaxes(1, 2).reshape(2 * rows + 2, 2 * columns + 2, size)
    return whole[1:-1, 1:-1]


class Convolution(nn.Module):
    """A convolution of stride 2 with its kernel and bias, or the transpose of one, to images of a size.

    Attributes:
      channels: the number of channels of the result.
      size: None; or the rows and columns of the result of a transpose, at most twice those of the input.
      precision: that of the products, a name in `products.PRECISIONS`.
      use_bias: whether each channel has a bias.
    """

    channels: int
    size: tuple[int, int] | None = None
    precision: str = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: Float[Array, "rows columns i"]) -> Float[Array, "r c o"]:
        shape = (_KERNEL, _KERNEL, inputs.shape[-1], self.channels)
        dtype = jnp.result_type(float)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, dtype)
        bias = jnp.zeros(self.channels, dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.channels,), dtype)
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        if self.size is None:
            return strided(inputs, kernel, bias, self.precision)
        doubled = fractionally_strided(inputs, kernel, self.precision)
        return doubled[: self.size[0], : self.size[1]] + bias[None, None]


class ConvNet(nn.Module):
    """Strided convolutions from an image, or fractionally strided ones to an image.

    Each hidden layer halves or doubles rows and columns. There is no pooling, and no fully connected hidden
    layer: only the map between the smallest image and z is a whole matrix.

    Attributes:
      image: the shape of the images.
      hidden_sizes: the channels of each hidden layer.
      heads: the name and the shape of each head. Of a decoder each head has one or more numbers for each
        number of the image.
      activation: a name in `ACTIVATIONS`.
      bias: the initial bias of the first head.
      precision: that of the products, a name in `products.PRECISIONS`.
      norm: ``"none"``; ``"group"``, group normalisation of each hidden layer but the one that reads the image;
        or ``"batch"``, batch normalisation of the same layers. For one datum the latter takes the running
        statistics, which are variables of the collection ``batch_stats`` and start at 0 and 1. Only adversarial
        training moves them: `train_step` leaves them as they are.
      up: whether the heads are images; otherwise the input is one.

    Reference:
      Radford, Metz and Chintala, Unsupervised Representation Learning with Deep Convolutional Generative
      Adversarial Networks (2016), sec. 3.
    """

    image: Image
    hidden_sizes: tuple[int, ...]
    heads: Heads
    activation: str = "relu"
    bias: Bias = 0.0
    precision: str = "float32"
    norm: str = "none"
    up: bool = False

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."], train: bool = False) -> dict[str, Array]:
        """The raw outputs by head.

        Args:
          inputs: an image, flat or not; or, of a decoder, latents.
          train: whether batch normalisation takes the statistics of the batch, over the axis ``"batch"`` of a
            `jax.vmap`, and moves its running statistics.
        """
        if self.up:
            return self._image_heads(self._from_smallest(inputs, train))
        return self._linear_heads(self._to_smallest(inputs, train))

    def _to_smallest(self, inputs: Array, train: bool) -> Array:
        """From an image to the smallest one."""
        hidden = inputs.reshape(self.image)
        for i, width in enumerate(self.hidden_sizes):
            layer = Convolution(width, precision=self.precision, name=f"hidden_{i}")
            hidden = self._activate(layer(hidden), i, train, normalised=i > 0)
        return hidden

    def _from_smallest(self, inputs: Array, train: bool) -> Array:
        """From latents to the last hidden layer, of half the rows and columns of the image."""
        sizes = self._sizes()
        smallest = (*sizes[0], self.hidden_sizes[0])
        first = Affine(math.prod(smallest), self.precision, name="hidden_0")
        hidden = self._activate(first(inputs.reshape(-1)).reshape(smallest), 0, train)
        for i, width in enumerate(self.hidden_sizes[1:], 1):
            layer = Convolution(width, sizes[i], self.precision, name=f"hidden_{i}")
            hidden = self._activate(layer(hidden), i, train)
        return hidden

    def _image_heads(self, hidden: Array) -> dict[str, Array]:
        size = self.image[:2]
        outputs = {}
        for i, (name, shape) in enumerate(self.heads):
            channels = math.prod(shape) // math.prod(size)
            layer = Convolution(channels, size, self.precision, use_bias=False, name=name)

            def first_bias(key, shape, dtype, first=i == 0):
                del key
                bias = jnp.asarray(self.bias if first else 0.0, dtype)
                return bias.reshape(shape) if bias.ndim else jnp.full(shape, bias)

            # One for each pixel, so that the first bias is that of a fully connected network.
            bias = self.param(f"{name}_bias", first_bias, shape, jnp.result_type(float))
            outputs[name] = layer(hidden).reshape(shape) + bias
        return outputs

    def _linear_heads(self, hidden: Array) -> dict[str, Array]:
        outputs = {}
        for i, (name, shape) in enumerate(self.heads):
            bias = self.bias if i == 0 else 0.0
            head = Affine(math.prod(shape), self.precision, bias, name=name)
            outputs[name] = head(hidden.reshape(-1)).reshape(shape)
        return outputs

    def _sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of each hidden layer on the way up: halves of the image's, rounded up."""
        sizes = [self.image[:2]]
        for _ in self.hidden_sizes:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return sizes[:0:-1]

    def _activate(self, hidden: Array, i: int, train: bool, normalised: bool = True) -> Array:
        norm, dtype = self.norm if normalised else "none", jnp.result_type(float)
        if norm == "group":
            groups, axes = math.gcd(hidden.shape[-1], _GROUPS), (-3, -2, -1)
            layer: nn.Module = nn.GroupNorm(
                groups, reduction_axes=axes, param_dtype=dtype, name=f"norm_{i}"
            )
            hidden = layer(hidden)
        elif norm == "batch":
            layer = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                axis_name="batch" if train else None,
                param_dtype=dtype,
                name=f"norm_{i}",
            )
            hidden = layer(hidden)
        return ACTIVATIONS[self.activation](hidden)


@dataclass(frozen=True)
class Convolutional:
    """A `Network`: `ConvNet` modules next to x, and an `MLP` of the same widths between latents.

    Attributes:
      image: rows, columns and channels.
      norm: a name in `NORMS`.
      role: ``"encoder"`` or ``"decoder"``; see `in_role`.

    Raises:
      ValueError: if a size is not a positive int, or a name is not known.

    Example:
      >>> import jax, iwae_jax
      >>> from iwae_jax.models.networks import Convolutional
      >>> network = Convolutional((28, 28, 1), norm="group")
      >>> config = iwae_jax.ModelConfig((28, 28), (10,), ((8, 16),), "relu", network=network)
      >>> params = iwae_jax.init(jax.random.key(0), config)
      >>> iwae_jax.sample(params, jax.random.key(1), 2).shape
      (2, 28, 28)
    """

    image: Image
    norm: str = "none"
    role: str = "encoder"

    def __post_init__(self):
        sizes = tuple(check_positive_int("image", size) for size in self.image)
        if len(sizes) != 3:
            raise ValueError(f"Expected image to be (rows, columns, channels), got {self.image}.")
        object.__setattr__(self, "image", sizes)
        for name, known in (("norm", NORMS), ("role", ROLES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Expected {name} to be one of {known}, got {getattr(self, name)!r}."
                )

    def in_role(self, role: str) -> Network:
        """The network of an encoder, of a decoder, or between latents."""
        return MLP if role == "between" else replace(self, role=role)

    def __call__(
        self,
        *,
        hidden_sizes: tuple[int, ...],
        heads: Heads,
        activation: str = "relu",
        bias: Bias = 0.0,
        precision: str = "float32",
    ) -> ConvNet:
        if not hidden_sizes:
            raise ValueError("Expected a convolutional network to have hidden layers, got none.")
        numbers = math.prod(self.image)
        if self.role == "decoder" and any(math.prod(shape) % numbers for _, shape in heads):
            raise ValueError(f"Expected heads of images {self.image}, got {heads}.")
        return ConvNet(
            self.image,
            hidden_sizes,
            heads,
            activation,
            bias,
            precision,
            self.norm,
            up=self.role == "decoder",
        )


def image_of(data_shape: tuple[int, ...], rows: int = 0, channels: int = 0) -> Image:
    """The rows, columns and channels of data of a shape.

    Args:
      data_shape: (rows, columns), (rows, columns, channels), or (pixels,) of flat images.
      rows: of flat images; 0 for square ones.
      channels: of flat images; 0 for grey ones, or ones in colour where only these are square.

    Raises:
      ValueError: if the shape is not that of an image.

    Example:
      >>> from iwae_jax.models.networks.convolutional import image_of
      >>> image_of((28, 28)), image_of((784,)), image_of((3072,)), image_of((12,), rows=3)
      ((28, 28, 1), (28, 28, 1), (32, 32, 3), (3, 4, 1))
    """
    if len(data_shape) in (2, 3) and not rows and not channels:
        height, width, depth = (*data_shape, 1)[:3]
        return height, width, depth
    if len(data_shape) == 1:
        (pixels,) = data_shape
        for depth in (channels,) if channels else (1, 3):
            height = rows or math.isqrt(pixels // depth)
            if height > 0 and pixels % (height * depth) == 0:
                width = pixels // (height * depth)
                if rows or width == height:
                    return (height, width, depth)
    raise ValueError(
        "Expected data_shape to be that of images, (rows, columns) or (rows, columns, channels), or flat "
        f"square ones, or options rows and channels that divide it, got {data_shape}, rows={rows} and "
        f"channels={channels}."
    )
