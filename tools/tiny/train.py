"""Train the embedded model: contrastive learning of crops and captions. `python -m tools.tiny.train --help`.

No label or mask enters the loss: captions only, as CLIP was trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from clearclip.cli.options import prepare
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.outputs import Outputs
from clearclip.files.progress import progress_bar
from clearclip.files.writing import claim
from tools.tiny.crops import Album, draw_batch, render_album
from tools.tiny.recipe import CLIP_MEAN, CLIP_STD, WEIGHTS_NAME, Recipe, write_model_folder

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"
console = Console(stderr=True)


def build_model(folder: Path, recipe: Recipe) -> nn.Module:
    """The model that the folder's configuration describes, with the recipe's seed and its start of queries and keys."""
    torch.manual_seed(recipe.seed)
    model: nn.Module = open_clip.create_model(
        f"local-dir:{folder}", load_weights=False, require_pretrained=False, force_patch_dropout=0.5
    )
    width = recipe.width
    with torch.no_grad():
        for block in model.visual.transformer.resblocks:  # type: ignore[union-attr]
            weight = block.attn.in_proj_weight
            for rows in (slice(width), slice(width, 2 * width)):
                nn.init.normal_(weight[rows], std=recipe.query_gain * width**-0.5)
    return model.train()


def make_optimizers(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the blocks' matrices, AdamW for all else; weight decay on matrices only."""
    hidden: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "embedding" in name:
            others.append(parameter)
        else:
            (hidden if "resblocks" in name else matrices).append(parameter)
    decay = recipe.weight_decay
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    # match_rms_adamw makes its steps as long as AdamW's of the same learning rate (Liu et al., arXiv:2502.16982).
    return (
        torch.optim.Muon(
            [{"params": hidden, "factor": recipe.muon}], weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6),
    )


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine decay to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy of matching pictures and captions, (B, E) of unit length."""
    logits = scale * images @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Parts of views, normalised, as large as the model's native size, and the first patch of each in its view.

    `grid` is the side of the views in patches.
    """

    images: Tensor
    corners: Tensor
    grid: int


class Trainer:
    """One training run: model, optimiser and step, resumable at any step with the same numbers.

    `UsageError` if the folder's checkpoint is of another recipe, or another program's file is there.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, album: Album, device: str = "cpu") -> None:
        self.folder, self.recipe, self.album = folder, recipe, album
        self.device = torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        self.outputs = Outputs(folder)
        self.outputs.check([CHECKPOINT_NAME, LOG_NAME])
        write_model_folder(self.outputs, recipe)
        self.model = build_model(folder, recipe).to(self.device)
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.optimizers = make_optimizers(self.model, recipe)
        self.step = 0
        self.seconds = 0.0
        self.log: list[str] = []
        self._resume()

    def _resume(self) -> None:
        file = self.folder / CHECKPOINT_NAME
        if not self.outputs.stands(CHECKPOINT_NAME):
            return
        saved = torch.load(file, map_location=self.device, weights_only=True)
        mine = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        changed = [name for name in sorted(mine) if saved["recipe"].get(name) != mine[name] and name != "steps"]
        if changed:
            raise UsageError(f"{file} was made with other values of {', '.join(changed)}: use them, or another folder")
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds = saved["step"], saved["seconds"]
        if self.outputs.stands(LOG_NAME):
            lines = (self.folder / LOG_NAME).read_text(encoding="utf-8").splitlines()
            self.log = [line for line in lines if json.loads(line)["step"] <= self.step]

    def save(self) -> None:
        """Write the checkpoint and the log; the old ones stay until the new ones are complete."""
        recipe = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers, "recipe": recipe}
        with self.outputs.write(LOG_NAME, again=True) as partial:
            partial.write_text("".join(f"{line}\n" for line in self.log), encoding="utf-8")
        with self.outputs.write(CHECKPOINT_NAME, again=True) as partial:
            torch.save({**state, "step": self.step, "seconds": self.seconds}, partial)

    def export(self) -> None:
        """Write the weights in float16 beside the configuration, as open_clip reads them."""
        rewritten = scale_norms(rewrite_queries(self.model.state_dict(), recipe=self.recipe), recipe=self.recipe)
        weights = {name: value.detach().cpu().half().contiguous() for name, value in rewritten.items()}
        with self.outputs.write(WEIGHTS_NAME, again=True) as partial:
            save_file(weights, partial, metadata={"format": "pt"})

    def _batch(self) -> tuple[Views, Tensor]:
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.step))
        side = recipe.image_size // recipe.patch_size
        full = self.step >= recipe.steps * (1 - recipe.full_share)
        fine = float(rng.random()) < recipe.fine_share
        grid = 2 * side if fine else side
        self.model.visual.patch_dropout.prob = 0.0 if full else 1.0 - recipe.kept  # type: ignore[union-attr]
        batch = draw_batch(
            self.album,
            rng,
            batch_size=recipe.batch_size,
            side=side,
            grid=grid,
            patch_size=recipe.patch_size,
            zoom=recipe.fine_zoom if fine else recipe.zoom,
            named=recipe.named,
            share=recipe.share,
            ground_share=recipe.ground_share,
            bare=recipe.bare,
            other=recipe.other,
        )
        images = torch.from_numpy(batch.images).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(CLIP_MEAN, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(CLIP_STD, device=self.device).view(1, 3, 1, 1)
        views = Views((images - mean) / std, torch.from_numpy(batch.corners).to(self.device), grid)
        return views, self.tokenizer(batch.captions).to(self.device)

    def train_step(self) -> float:
        """Do one step; returns its loss."""
        recipe, started = self.recipe, time.perf_counter()
        views, tokens = self._batch()
        torch.manual_seed(recipe.seed * 1_000_003 + self.step)
        model: Any = self.model
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(self.step, recipe) * group.get("factor", 1.0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            image_features = encode_views(model, views, late=recipe.late)
            text_features = encode_text_trimmed(model, tokens)
        images, texts = F.normalize(image_features.float(), dim=-1), F.normalize(text_features.float(), dim=-1)
        loss = contrastive_loss(images, texts, model.logit_scale.exp())
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        self.step += 1
        self.seconds += time.perf_counter() - started
        return float(loss.detach())

    def run(self, *, until: int | None = None, save_every: int = 250) -> Iterator[tuple[int, float]]:
        """Train to the end or to step `until`, saving and exporting on the way; yields steps done and the last loss."""
        last = min(until or self.recipe.steps, self.recipe.steps)
        while self.step < last:
            loss = self.train_step()
            if self.step % 10 == 0 or self.step == last:
                row = {"step": self.step, "loss": round(loss, 4), "seconds": round(self.seconds, 1)}
                self.log.append(json.dumps(row))
            if self.step % save_every == 0 or self.step == last:
                self.save()
                self.export()
            yield self.step, loss


def rewrite_queries(weights: Mapping[str, Tensor], *, recipe: Recipe) -> dict[str, Tensor]:
    """Give each head of the last vision block orthonormal query directions times `query_scale`; keys carry the rest.

    Only products of queries with keys reach the model's outputs, so none changes, and training leaves open which of the
    two carries what. Self-self attention reads q with q: here it compares tokens in all directions alike.
    """
    rewritten = dict(weights)
    names = [f"visual.transformer.resblocks.{recipe.layers - 1}.attn.in_proj_{kind}" for kind in ("weight", "bias")]
    weight, bias = (weights[name].double() for name in names)
    scale, width = recipe.query_scale, recipe.width
    for start in range(0, width, recipe.head_width):
        q = slice(start, start + recipe.head_width)
        k = slice(width + q.start, width + q.stop)
        basis, mixing = torch.linalg.qr(weight[q].T)
        weight[q], bias[q] = scale * basis.T, scale * torch.linalg.solve(mixing.T, bias[q])
        weight[k], bias[k] = mixing @ weight[k] / scale, mixing @ bias[k] / scale
    for name, value in zip(names, (weight, bias), strict=True):
        rewritten[name] = value.to(weights[name].dtype)
    return rewritten


def scale_norms(weights: Mapping[str, Tensor], *, recipe: Recipe) -> dict[str, Tensor]:
    """Multiply `ln_1` of every vision block by `norm_scale` and divide what reads it: no output changes.

    GEM takes its attention's temperature from the length of `ln_1`'s output, which grows with the root of the width; in
    a tower as narrow as this one its attention would be nearly uniform.
    """
    scaled = dict(weights)
    for number in range(recipe.layers):
        block = f"visual.transformer.resblocks.{number}"
        for name in ("ln_1.weight", "ln_1.bias"):
            scaled[f"{block}.{name}"] = weights[f"{block}.{name}"] * recipe.norm_scale
        scaled[f"{block}.attn.in_proj_weight"] = weights[f"{block}.attn.in_proj_weight"] / recipe.norm_scale
    return scaled


def encode_views(model: Any, views: Views, *, late: float = 0.0) -> Tensor:
    """Image features (B, E), not normalised, of parts of views, their patches in the places they have in the view.

    `late` is stochastic depth (Huang et al., ECCV 2016) of the class token alone: the share of the views whose class
    token enters at a block drawn at random. Patch tokens go through all blocks but the last, of which only the class
    token's row is run. With 0 and the native grid this is `encode_image`.
    """
    visual = model.visual
    patches = visual.conv1(views.images)
    steps = torch.arange(patches.shape[-1], device=patches.device)
    rows, columns = views.corners[:, :1] + steps, views.corners[:, 1:] + steps
    places = (rows[:, :, None] * views.grid + columns[:, None, :]).flatten(1)
    table = visual.positional_embedding[1:]
    if views.grid != visual.grid_size[0]:
        square = table.view(1, *visual.grid_size, -1).permute(0, 3, 1, 2)
        table = F.interpolate(square, (views.grid, views.grid), mode="bicubic").flatten(2)[0].T
    tokens = patches.flatten(2).transpose(1, 2) + table[places]
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(patches), 1, -1)
    tokens = visual.ln_pre(visual.patch_dropout(torch.cat([first, tokens], dim=1)))
    entering = visual.ln_pre(first)
    *blocks, last = visual.transformer.resblocks
    each = torch.rand(2, len(tokens), 1, 1, device=tokens.device)
    entries = torch.where(each[0] < late, (each[1] * (len(blocks) + 1)).long(), 0)
    for number, block in enumerate([*blocks, last]):
        if late > 0:
            first_tokens = torch.where(entries == number, entering.to(tokens.dtype), tokens[:, :1])
            tokens = torch.cat([first_tokens, tokens[:, 1:]], dim=1)
        if block is not last:
            tokens = run_block(block, tokens)
    normed = last.ln_1(tokens)
    stream = tokens[:, :1] + last.attn(normed[:, :1], normed, normed, need_weights=False)[0]
    stream = stream + last.mlp(last.ln_2(stream))
    features: Tensor = visual.ln_post(stream[:, 0]) @ visual.proj
    return features


def run_block(block: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual block of open_clip on tokens (B, N, D), its attention spelled out.

    `need_weights` takes torch's plain softmax: at 60 tokens in bfloat16 on a CPU, forward and backward, four times as
    fast as its fused kernel.
    """
    normed = block.ln_1(tokens)
    attended, _ = block.attn(normed, normed, normed, need_weights=True, attn_mask=mask, average_attn_weights=False)
    tokens = tokens + attended
    mixed: Tensor = tokens + block.mlp(block.ln_2(tokens))
    return mixed


def encode_text_trimmed(model: Any, tokens: Tensor) -> Tensor:
    """Text features (B, E), not normalised, of tokens trimmed to the longest caption: the tower is causal."""
    length = int((tokens != 0).sum(dim=1).max())
    ids = tokens[:, :length]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    for block in model.transformer.resblocks:
        x = run_block(block, x, model.attn_mask[:length, :length])
    x = model.ln_final(x)
    pooled: Tensor = x[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]
    projected: Tensor = pooled @ model.text_projection
    return projected


def train(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the run; an interrupted run goes on there.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Length of the run.")] = Recipe.steps,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, crops and patch dropout.")
    ] = Recipe.seed,
    pictures: Annotated[int, typer.Option(min=1, help="Scenes rendered before training.")] = Recipe.pictures,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = Recipe.batch_size,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default torch's own choice.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    change: Annotated[list[str] | None, typer.Option("--set", help="Other values of the recipe, NAME=VALUE.")] = None,
) -> None:
    """Train the embedded model from nothing on generated scenes; run it again to go on after an interruption."""
    prepare()
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = Recipe(steps=steps, seed=seed, pictures=pictures, batch_size=batch_size)
    for pair in change or []:
        name, _, value = pair.partition("=")
        if name not in {field.name for field in dataclasses.fields(Recipe)} or not value:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE of the recipe: {recipe}")
        recipe = dataclasses.replace(recipe, **{name: type(getattr(recipe, name))(json.loads(value))})
    try:
        with claim(output):
            with progress_bar("Rendering scenes") as advance:
                album = render_album(
                    output / "album",
                    pictures=recipe.pictures,
                    size=recipe.picture_size,
                    portraits=recipe.portraits,
                    progress=advance and (lambda done: advance(done, recipe.pictures, "")),
                )
            trainer = Trainer(output, recipe, album=album, device=device)
            with progress_bar("Training") as advance:
                for step, loss in trainer.run(save_every=save_every):
                    if advance is not None:
                        advance(step, recipe.steps, f"loss {loss:.3f}")
    except ClearclipError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    console.print(f"{trainer.step} steps, {trainer.seconds / 60:.0f} minutes; the model is in {output}")


if __name__ == "__main__":
    typer.run(train)
