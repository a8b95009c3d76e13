"""Autoencoders: latents go in and come out in the denoiser's units."""

from __future__ import annotations

from trt_engines.architectures.axis import ROWS, sides
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.latent_format import LatentFormat
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.tensor import Tensor

OVERFLOWING = ("bfloat16", "float32")
"""Types of networks that pass half precision's largest value in their widest blocks for some pictures."""


def autoencoder(
    latent: LatentFormat,
    *,
    parameters: tuple[int, int],
    costs: tuple[Cost, Cost],
    precisions: tuple[str, ...] = OVERFLOWING,
) -> tuple[Network, Network]:
    """Decoder and encoder. Args: parameters, costs: of the two."""
    pixels = (ROWS, 3, *sides(1, int(latent.pixels), prefix="pixel_"))
    decoder = Ports(inputs=(latent.tensor("latent", Feed.LATENT),), outputs=(Tensor(name="pixels", shape=pixels),))
    encoder = Ports(inputs=(Tensor(name="pixels", shape=pixels, feed=Feed.PIXELS),), outputs=(latent.tensor("latent"),))
    first, second = (
        Network(
            name=name,
            role=Role.AUTOENCODER,
            ports=ports,
            folders=("vae",),
            parameters=count,
            cost=cost,
            precisions=precisions,
        )
        for name, ports, count, cost in zip(
            ("vae_decoder", "vae_encoder"), (decoder, encoder), parameters, costs, strict=True
        )
    )
    return first, second


FLUX_VAE_DECODER, FLUX_VAE_ENCODER = autoencoder(
    LatentFormat(channels=16, pixels=8),
    parameters=(49_545_475, 34_274_208),
    costs=(
        Cost(cell=8, per_cell=605_618_176.0, per_cell_squared=2_048.0, activation_bytes_per_cell=98_336.0),
        Cost(cell=8, per_cell=264_454_144.0, per_cell_squared=2_048.0, activation_bytes_per_cell=81_920.0),
    ),
)


def _four_channels(precisions: tuple[str, ...]) -> tuple[Network, Network]:
    """The autoencoder of Stable Diffusion 1, 2 and XL, which differ in their weights and their scale."""
    return autoencoder(
        LatentFormat(channels=4, pixels=8),
        parameters=(49_490_199, 34_163_664),
        costs=(
            Cost(cell=8, per_cell=605_507_616.0, per_cell_squared=2_048.0, activation_bytes_per_cell=98_320.0),
            Cost(cell=8, per_cell=264_233_088.0, per_cell_squared=2_048.0, activation_bytes_per_cell=81_920.0),
        ),
        precisions=precisions,
    )


STABLE_DIFFUSION_VAE_DECODER, STABLE_DIFFUSION_VAE_ENCODER = _four_channels(("float16", "bfloat16", "float32"))
SDXL_VAE_DECODER, SDXL_VAE_ENCODER = _four_channels(OVERFLOWING)
"""In half precision it overflows in the decoder's widest blocks and gives black pictures."""

FLUX2_VAE_DECODER, FLUX2_VAE_ENCODER = autoencoder(
    LatentFormat(channels=128, pixels=16),
    parameters=(49_620_259, 34_425_856),
    costs=(
        Cost(cell=16, per_cell=2_423_070_720.0, per_cell_squared=32_768.0, activation_bytes_per_cell=393_984.0),
        Cost(cell=16, per_cell=1_059_028_992.0, per_cell_squared=32_768.0, activation_bytes_per_cell=327_680.0),
    ),
)
"""Its own 32 channels at an eighth of the pixels exist only inside the two graphs."""

QWEN_IMAGE_VAE_DECODER, QWEN_IMAGE_VAE_ENCODER = autoencoder(
    LatentFormat(channels=16, pixels=8),
    parameters=(71_524_595, 53_043_392),
    costs=(
        Cost(cell=8, per_cell=262_324_736.0, per_cell_squared=1_536.0, activation_bytes_per_cell=79_872.0),
        Cost(cell=8, per_cell=148_895_744.0, per_cell_squared=1_536.0, activation_bytes_per_cell=73_984.0),
    ),
)
