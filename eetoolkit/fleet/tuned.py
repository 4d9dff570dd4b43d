"""What a tuning for a share of a fleet gives each device."""

from __future__ import annotations

import msgspec


class DeviceOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run takes on one device in the mean, in milliseconds, on the held-out rows.

    Attributes:
        name: Of the device.
        whole_ms: The whole network.
        before_ms: With the thresholds that the bundle had.
        tuned_ms: With the chosen ones.
        keeps: Whether that keeps the budget that was asked for; None: the goal is no budget, and a score is the same on
            all devices.
    """

    name: str
    whole_ms: float
    before_ms: float
    tuned_ms: float
    keeps: bool | None = None


class FleetOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a tuning gives a fleet.

    Attributes:
        quantile: For which it was tuned, such as `p90-device`.
        needed: How many devices are at that rank or before.
        device: The one there with the chosen thresholds, of which the report's figures are.
        devices: All, by name.
    """

    quantile: str
    needed: int
    device: str
    devices: tuple[DeviceOutcome, ...]

    @property
    def kept(self) -> int | None:
        """How many devices keep the budget; None: the goal is no budget."""
        known = [each.keeps for each in self.devices if each.keeps is not None]
        return sum(known) if known else None

    def __str__(self) -> str:
        count = len(self.devices)
        told = f"{self.device} is the {self.quantile}: {self.needed} of {count} take no more"
        return (
            told if self.kept is None else f"{told}; {self.kept} of {count} ({self.kept / count:.0%}) keep the budget"
        )
