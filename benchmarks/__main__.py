"""Runs every benchmark; each prints a table and stores its figures in `benchmarks/results/`."""

from __future__ import annotations

from benchmarks import chain, cold_start, control_flow, cut, floor, layout, readme, real_cases, report, zoo


def main() -> None:
    """Runs them one after the other, so that none times another."""
    for benchmark in (cut, cold_start, layout, chain, control_flow, floor, zoo, real_cases, report, readme):
        benchmark.main()


if __name__ == "__main__":
    main()
