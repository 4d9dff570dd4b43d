"""The host side of eetoolkit: trained networks in, bundles out (torch, onnx-ir; never on the device)."""
