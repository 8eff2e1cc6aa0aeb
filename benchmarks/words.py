"""What long lists of words cost, and what a rule of presence wins back, on scenes by the embedded model.

python benchmarks/words.py --split val --pictures 60            mIoU by list of words and rule
python benchmarks/words.py --split test --markdown              the table of docs/words.md
python benchmarks/words.py --cost                               time of a label map of 150 words, as a ratio

Lists: the 30 labels; with 100 known distractors, "COLOUR THING" of things that are not in the image; with 100 words
that the model has never seen; the labels of the image alone. A pixel that a distractor wins is wrong.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace

import numpy as np
import torch

import clearclip
from clearclip.benchmarks import vocabulary_of
from clearclip.benchmarks.metrics import confusion, scores
from clearclip.classify.freecp import crop_features
from clearclip.scenes import CLASSES, COLOURS, THINGS, make_scene

LISTS = ("30 labels", "and 100 known", "and 100 unknown", "oracle")
RULES = ("none", "weak:0.2", "weak:0.5", "weak:0.8", "freecp", "freecp-filter", "auto background")
OTHERS = len(CLASSES)


def unknown_words(known, count=100):
    """Class names of the field's benchmarks of which the model knows no word."""
    words = [word for name in ("ade20k", "coco_object", "coco_stuff") for word in vocabulary_of(name).names]
    fresh = (word for word in dict.fromkeys(words) if not {part.removesuffix("s") for part in word.split()} & known)
    return [word for word in fresh if word not in known][:count]


def lists_of(scene, unknown, *, count=100):
    """The words of each list for a scene, and which class each is."""
    present = {CLASSES[index] for index in np.unique(scene.label_map)}
    pairs = [f"{colour} {thing}" for thing in sorted(THINGS - present) for colour in COLOURS]
    chosen = np.random.default_rng(scene.label_map.size).permutation(len(pairs))[:count]
    own = [name for name in CLASSES if name in present]
    return {
        "30 labels": list(CLASSES),
        "and 100 known": [*CLASSES, *(pairs[index] for index in sorted(chosen.tolist()))],
        "and 100 unknown": [*CLASSES, *unknown],
        "oracle": own,
    }


def classified(segmenter, encoded, words, rule):
    """The label map in classes; what is none of them is `OTHERS`."""
    if rule == "auto background":
        vocabulary = clearclip.Vocabulary.parse(words, background="auto")
        result = segmenter.classify(encoded, vocabulary)
    else:
        presence, _, area = rule.partition(" area:")
        segmenter.protocol = replace(segmenter.protocol, area=float(area or 0))
        vocabulary = clearclip.Vocabulary.parse(words, background="none")
        result = segmenter.classify(encoded, vocabulary, presence=presence)
    to_class = {name: index for index, name in enumerate(CLASSES)}
    return np.array([to_class.get(name, OTHERS) for name in result.labels])[result.label_map]


def measure(segmenter, split, pictures, rules):
    unknown = unknown_words(segmenter.backbone.text.known_words)
    totals = {(name, rule): np.zeros((OTHERS + 1, OTHERS + 1), np.int64) for name in LISTS for rule in rules}
    for index in range(pictures):
        scene = make_scene(index, split=split)
        encoded = segmenter.encode(scene.image)
        for name, words in lists_of(scene, unknown).items():
            for rule in rules:
                found = classified(segmenter, encoded, words, rule)
                totals[name, rule] += confusion(scene.label_map, found, classes=OTHERS + 1)
    return {key: 100 * float(np.nanmean(scores(total).iou[:OTHERS])) for key, total in totals.items()}


def table(found, rules):
    """Markdown, with the share of the distance between all labels and the oracle that a rule wins back."""
    lines = ["| rule | " + " | ".join(LISTS) + " | won back |", "| :-- |" + " --: |" * (len(LISTS) + 1)]
    plain, oracle = found["and 100 known", "none"], found["oracle", "none"]
    for rule in rules:
        back = (found["and 100 known", rule] - plain) / (oracle - plain)
        values = " | ".join(f"{found[name, rule]:.1f}" for name in LISTS)
        lines.append(f"| {rule} | {values} | {back:.0%} |")
    return "\n".join(lines)


def cost(rules, repeats=5):
    """Seconds from a 448 × 672 image to a label map of 150 words, ViT-B/16, as ratios in one run; random weights."""
    import open_clip

    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    segmenter = clearclip.Segmenter(
        clearclip.view(model), protocol="paper", templates="a photo of a {}.", cache=False, show_progress=False
    )
    words = list(vocabulary_of("ade20k").names)
    image = np.random.default_rng(0).integers(0, 255, (448, 672, 3), dtype=np.uint8)
    vocabulary = clearclip.Vocabulary.parse(words, background="none")
    prepared = {rule: segmenter.prepare(vocabulary, presence=rule) for rule in rules}
    least = dict.fromkeys(rules, float("inf"))
    for _ in range(repeats):
        for rule in rules:
            start = time.perf_counter()
            segmenter(image, prepared[rule])
            least[rule] = min(least[rule], time.perf_counter() - start)
    window, boxes = torch.zeros(3, 448, 448), [(0, 0, 14, 14)] * 16
    start = time.perf_counter()
    crop_features(segmenter.backbone, window, boxes, positions="model")
    print(f"a crop: {1000 * (time.perf_counter() - start) / len(boxes):.1f} ms")
    return {rule: seconds / least[rules[0]] for rule, seconds in least.items()}, least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    rules = arguments.rules.split(",")
    if arguments.cost:
        ratios, least = cost(["none", "weak:0", "freecp-filter:0.5:0.7", "freecp:0.5:0.7"])  # 0.5: no crop is looked at
        for rule, ratio in ratios.items():
            print(f"{rule}: {1000 * least[rule]:.1f} ms, {ratio:.3f} ×")
        return
    segmenter = clearclip.load("tiny", device="cpu", show_progress=False)
    print(f"scenes, {arguments.split}, {arguments.pictures} pictures, mIoU of ClearCLIP in percent\n")
    print(table(measure(segmenter, arguments.split, arguments.pictures, rules), rules))


if __name__ == "__main__":
    main()
