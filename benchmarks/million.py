"""What a million images cost in time and money, from a measured rate. The assumptions are the arguments.

python benchmarks/million.py --rate 5.0                                  images a second of one worker
python benchmarks/million.py --rate 60 --workers 8 --price 2.50          eight GPUs at 2.50 an hour each
"""

from __future__ import annotations

import argparse
import json


def cost(*, rate, workers=1, price=0.04, efficiency=0.95, images=1_000_000, start=60.0, bytes_each=60_000):
    """Time, money and room of a run.

    Args:
        rate: Images a second of one worker, as `benchmarks/fleet.py speed` measures it (images_per_second).
        workers: How many run at once.
        price: Of one worker for an hour: of its cores, or of its GPU.
        efficiency: What is left of a worker's rate beside the others (the measured throughput ratio / workers).
        images: How many.
        start: Seconds until a worker has its model; once a run.
        bytes_each: Of an image's results.

    Returns:
        Hours, money in the price's currency, GB of results.
    """
    seconds = images / (rate * efficiency * workers) + start
    return {
        "images": images,
        "workers": workers,
        "hours": round(seconds / 3600, 2),
        "worker_hours": round(workers * seconds / 3600, 1),
        "money": round(workers * seconds / 3600 * price, 2),
        "results_gb": round(images * bytes_each / 1e9, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, required=True)
    for name, default in (("price", 0.04), ("efficiency", 0.95), ("start", 60.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in (("workers", 1), ("images", 1_000_000), ("bytes-each", 60_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    print(json.dumps({"assumed": given, "found": cost(**given)}, indent=2))


if __name__ == "__main__":
    main()
