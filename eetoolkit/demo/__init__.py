"""The whole way on a network of the zoo: export, verify, run the held-out digits, measure, draw what left where."""

from __future__ import annotations

from eetoolkit.demo.pipeline import MODEL, demo
from eetoolkit.demo.report import DemoReport, ExitResult, Latency, Routes

__all__ = ["MODEL", "DemoReport", "ExitResult", "Latency", "Routes", "demo"]
