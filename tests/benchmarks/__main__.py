"""``python -m tests.benchmarks``: all benchmarks, ratios only, each of two things measured in the same run."""

from __future__ import annotations

from tests.benchmarks import scale, training

if __name__ == "__main__":
    scale.main(["10", "100", "1000"])
    training.main()
