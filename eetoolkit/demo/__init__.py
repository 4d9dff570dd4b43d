"""The whole way on a network of the zoo: export, verify, run the held-out digits, measure, draw what left where."""

from __future__ import annotations

from eetoolkit.demo.pipeline import MODEL, DemoReport, demo

__all__ = ["MODEL", "DemoReport", "demo"]
