"""A frozen wav2vec 2.0 encoder with a trained head: for few recordings and a strong machine (Baevski et al. 2020)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.registry import register


@dataclass(frozen=True)
class Wav2VecConfig:
    """Sizes of a :class:`Wav2Vec`; by default those of the base model."""

    n_mels: int = 1  # the front end is the waveform
    n_labels: int = 50  # classes
    channels: int = 1  # of the sound; the encoder hears their mean
    window_frames: int = 64_000  # samples of one decision
    bundle: str = ""  # of torchaudio.pipelines, whose weights the encoder gets; none for a checkpoint, which has them
    convolutions: tuple[tuple[int, int, int], ...] = (  # channels, kernel, stride
        (512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2),
    )  # fmt: skip
    width: int = 768  # values of one step
    layers: int = 12  # of the transformer
    heads: int = 12  # of its attention
    feed_forward: int = 3072  # units inside a layer
    position_kernel: int = 128  # steps that the positional convolution sees
    position_groups: int = 16  # of that convolution
    dropout: float = 0.2  # before the classifier


@register("wav2vec", Wav2VecConfig())
class Wav2Vec(nn.Module):
    """Samples as frames [B, channels, 1, T] → logits [B, n_labels].

    The head: a learnt mix of the layers' means over time (Yang et al. 2021, SUPERB), then linear.
    """

    column_stride = 0
    int8 = False  # static ranges do not fit a transformer's outliers

    def __init__(self, config: Wav2VecConfig) -> None:
        super().__init__()
        if config.n_mels != 1:
            raise ValueError(f"n_mels is {config.n_mels}; allowed: 1, with frontend.kind 'waveform'")
        self.encoder = _encoder(config)
        if config.bundle:
            _load_pretrained(self.encoder, config.bundle)
        self.encoder.requires_grad_(requires_grad=False)
        # A checkpoint has the weights: whoever loads it needs no bundle.
        self.config, self.window_frames = dataclasses.replace(config, bundle=""), config.window_frames
        self.mix = nn.Parameter(torch.zeros(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, config.n_labels)
        self.train()

    def train(self, mode: bool = True) -> Wav2Vec:
        """The head alone trains."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        with torch.no_grad():
            layers, _ = self.encoder.extract_features(frames.mean((1, 2)))  # each [B, T', width]
            means = torch.stack([layer.mean(1) for layer in layers], dim=1)  # [B, layers, width]
        mixed = (torch.softmax(self.mix, 0)[:, None] * means).sum(1)
        return self.classifier(self.dropout(mixed))


def _encoder(config: Wav2VecConfig) -> nn.Module:
    import torchaudio  # here, so that the other architectures do without it

    return torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[tuple(layer) for layer in config.convolutions],
        extractor_conv_bias=False,
        encoder_embed_dim=config.width,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=config.position_kernel,
        encoder_pos_conv_groups=config.position_groups,
        encoder_num_layers=config.layers,
        encoder_num_heads=config.heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=config.feed_forward,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )


def _load_pretrained(encoder: nn.Module, name: str) -> None:
    """The weights of ``torchaudio.pipelines.name``, from torch's cache or the network. Raises ValueError."""
    from torchaudio import pipelines

    there = {n: b for n in dir(pipelines) if isinstance(b := getattr(pipelines, n), pipelines.Wav2Vec2Bundle)}
    if name not in there:
        raise ValueError(f"unknown bundle {name!r}; there are: {', '.join(sorted(there))}")
    try:
        state = there[name].get_model().state_dict()
    except OSError as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise ValueError(
            f"the weights of {name} cannot be downloaded: {error}; connect this machine to the network once, or copy "
            f"them into {folder} from one that has them"
        ) from None
    try:
        encoder.load_state_dict(state)
    except RuntimeError:
        raise ValueError(
            f"the encoder of {name} has other sizes than this configuration; WAV2VEC2_BASE and HUBERT_BASE have the "
            "default ones"
        ) from None
