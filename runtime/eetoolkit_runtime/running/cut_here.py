"""Where a runner's bundle is cut between this machine and a server."""

from __future__ import annotations

from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.halves import cut_point, halves
from eetoolkit_runtime.plan.names import plan_name
from eetoolkit_runtime.plan.types import Manifest, Split
from eetoolkit_runtime.remote.settings import RemoteSettings


def halves_for(plan: Manifest, settings: RemoteSettings) -> tuple[Manifest, Manifest | None, Split]:
    """Returns the device's half, the server's where the bundle has it, and where they part.

    Raises:
        InputError: The settings do not say where, or say another place than a half was cut at.
    """
    if plan.split is not None:
        split = plan.split
        if settings.at is not None and plan_name(settings.at, plan.titles) != split.local:
            raise InputError(f"remote: from is {settings.at!r}, but {plan.name!r} was cut behind {split.local!r}")
        if settings.policy == "faster":
            raise InputError(
                f"remote: policy 'faster' needs a whole bundle: {plan.name!r} is a device's half, and cannot go on here"
            )
        return plan, None, split
    if settings.at is None:
        raise InputError(f"remote: {plan.name!r} is a whole bundle; say where it is cut: from='EXIT' (--from EXIT)")
    found = halves(plan, cut_point(plan, settings.at))
    assert found.device.split is not None  # noqa: S101 - `halves` says so
    return found.device, found.server, found.device.split


def check_fallback(plan: Manifest, settings: RemoteSettings, split: Split, *, most_confident: bool) -> None:
    """Refuses a fallback that the server does not have, which tells another answer of its exits than this machine.

    Raises:
        InputError: Says so.
    """
    several = sum(exit_.threshold != "never" for exit_ in split.exits) > 1
    if several and settings.policy != "local" and most_confident != (plan.fallback == "most_confident"):
        raise InputError(
            f"remote: fallback is {'most_confident' if most_confident else 'last'!r}, but where no exit fires the "
            f"server's half answers by {plan.fallback!r}, as {plan.name!r} says; leave fallback out"
        )
