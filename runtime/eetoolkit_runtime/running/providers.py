"""onnxruntime's execution providers: which a caller asks for, and what sessions then say that they run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.errors import RunError

Provider = str | tuple[str, Mapping[str, object]]

CPU = "CPUExecutionProvider"


def choose_providers(given: str | Sequence[Provider] | None) -> tuple[Provider, ...]:
    """Returns the execution providers that a caller asks for; None: the CPU.

    Raises:
        RunError: They are not asked for as they should be.
    """
    if given is None:
        return (CPU,)
    asked = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not asked or not all(map(_is_provider, asked)):
        raise RunError(f"providers is {shortened(given)}, expected a list of names, or of (name, options)")
    return asked


def _is_provider(given: object) -> bool:
    match given:
        case str() | (str(), Mapping()):
            return True
    return False


def expected_providers(asked: Sequence[Provider]) -> tuple[str, ...]:
    """Returns what sessions say that they run on where these providers are asked for: the CPU is always behind them."""
    names = tuple(map(name_of, asked))
    return names if CPU in names else (*names, CPU)


def name_of(provider: Provider) -> str:
    """Returns a provider's name, without its options."""
    return provider if isinstance(provider, str) else provider[0]
