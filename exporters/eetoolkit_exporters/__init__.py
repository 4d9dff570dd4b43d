"""The host side of eetoolkit: trained networks in, bundles out (torch, onnx-ir; never on the device)."""

from eetoolkit_exporters.export import export

__all__ = ["export"]
