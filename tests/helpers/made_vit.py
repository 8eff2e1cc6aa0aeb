"""A ViT of our own making with any number of prefix tokens, query-key norm and rotary positions, and its view.

`plain` is its forward pass written out, for tests of the road from pixels to labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from clearclip.backbones.base import Backbone, Block, TextEncoder

WIDTH, HEADS, PATCH, GRID, EMBED = 32, 2, 8, 4, 24


class MadeBlock(nn.Module):
    """Pre-norm block; q and k are normed per head, then turned by their places."""

    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.q_norm, self.k_norm = nn.LayerNorm(WIDTH // HEADS), nn.LayerNorm(WIDTH // HEADS)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def heads(self, part, tokens):
        return part(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def rotate(self, part, grid_size):
        """Pairs of channels turn with the row (first half) and the column (second half) of a patch."""
        rows, columns = torch.meshgrid(*(torch.arange(length) for length in grid_size), indexing="ij")
        quarter = part.shape[-1] // 4
        speeds = 10.0 ** -torch.arange(quarter).div(quarter)
        angles = torch.cat([rows.flatten()[:, None] * speeds, columns.flatten()[:, None] * speeds], dim=1)
        patches = torch.view_as_complex(part[:, :, self.prefix :].unflatten(-1, (-1, 2)).contiguous())
        turned = torch.view_as_real(patches * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
        return torch.cat([part[:, :, : self.prefix], turned], dim=2)

    def qk(self, normed, grid_size):
        q = self.rotate(self.q_norm(self.heads(self.q, normed)), grid_size)
        return q, self.rotate(self.k_norm(self.heads(self.k, normed)), grid_size)

    def forward(self, tokens, grid_size):
        normed = self.ln_1(tokens)
        q, k = self.qk(normed, grid_size)
        attended = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ self.heads(self.v, normed)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.ln_2(tokens))


class MadeVit(nn.Module):
    """`prefix` tokens before the patches, of which the first `placed` have learned positions."""

    def __init__(self, prefix, placed, seed=3):
        super().__init__()
        torch.manual_seed(seed)
        self.prefix, self.placed = prefix, placed
        self.conv = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.tokens = nn.Parameter(torch.randn(prefix, WIDTH))
        self.positions = nn.Parameter(torch.randn(placed + GRID * GRID, WIDTH))
        self.blocks = nn.ModuleList(MadeBlock(prefix) for _ in range(3))
        self.norm, self.to_text = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, EMBED)
        self.words = nn.Embedding(256, EMBED)
        self.eval()

    def head(self, tokens):
        """A small network, as a pooling head's last layers are."""
        return self.to_text(F.gelu(self.norm(tokens)))

    @torch.no_grad()
    def plain(self, images, *, clearclip=True):
        """ClearCLIP's features (or the model's own) at the native size, `(B, gh, gw, E)`, written out."""
        grid_size = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        patches = self.conv(images).flatten(2).transpose(1, 2)
        prefix = self.tokens.clone()
        prefix[: self.placed] += self.positions[: self.placed]
        tokens = torch.cat([prefix.expand(len(images), -1, -1), patches + self.positions[self.placed :]], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, grid_size)
        last = self.blocks[-1]
        if clearclip:
            normed = last.ln_1(tokens)
            q, _ = last.qk(normed, grid_size)
            attended = (q @ q.mT * q.shape[-1] ** -0.5).softmax(-1) @ last.heads(last.v, normed)
            tokens = last.out(attended.transpose(1, 2).flatten(2))
        else:
            tokens = last(tokens, grid_size)
        return self.head(tokens[:, self.prefix :]).unflatten(1, grid_size)

    def view(self):
        """As an adapter sees it; a text is its bytes, and its embedding their mean."""
        blocks = [
            Block(
                forward=block,
                ln_1=block.ln_1,
                qkv={name: (lambda part=part: (part.weight, part.bias)) for name, part in
                     (("q", block.q), ("k", block.k), ("v", block.v))},
                out_proj=block.out,
                ln_2=block.ln_2,
                mlp=block.mlp,
                norms={"q": block.q_norm, "k": block.k_norm},
                rotate=block.rotate,
            )
            for block in self.blocks
        ]  # fmt: skip
        text = TextEncoder(
            tokenize=lambda texts: [list(text.encode()) for text in texts],
            encode=lambda ids, mask: (self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
            context_length=200,
            pad_id=0,
            modules=(self.words,),
        )
        return Backbone(
            name="made",
            model=self,
            blocks=blocks,
            heads=HEADS,
            width=WIDTH,
            embed_dim=EMBED,
            patch_size=PATCH,
            native_grid=(GRID, GRID),
            embed_patches=self.conv,
            prefix_tokens=lambda: self.tokens,
            position_table=lambda: self.positions,
            ln_pre=lambda tokens: tokens,
            head=self.head,
            text=text,
        )
