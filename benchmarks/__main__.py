"""Runs every benchmark; each prints a table and stores its figures in `benchmarks/results/`."""

from __future__ import annotations

from benchmarks import readme, real_cases, report


def main() -> None:
    """Runs them one after the other, so that none times another."""
    real_cases.main()
    for benchmark in report.BENCHMARKS:
        benchmark.main()
    report.main()
    readme.main()


if __name__ == "__main__":
    main()
