"""onnxruntime's execution providers: which a caller asks for, sessions on them, and what these then run on."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnxruntime as ort

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.errors import ProviderError, did_you_mean, first_line
from eetoolkit_runtime.forked import renew_after_fork

Provider = str | tuple[str, Mapping[str, object]]
"""A name, or a name and options. A plug-in's name may end in the kind of device: `OpenVINOExecutionProvider/GPU`."""
Providers = str | Sequence[Provider] | Mapping[str, str | Sequence[Provider]]
"""One or several in order of preference, for all segments or by segment; segments that are not named run on the CPU."""
Chosen = tuple[Provider, ...] | dict[str, tuple[Provider, ...]]

CPU = "CPUExecutionProvider"
_LOGGED = r"(?s).*\[[EF]:onnxruntime:[^\]]*\] *(.*)"  # compiled when first used: a device's start-up waits for imports
_COLOUR = r"\x1b\[[\d;]*m"
_PLACE = r"\S*/\S+:\d+ (.*\[ERROR\] |.*?\) )"  # file, line and function, before what was wrong


def choose_providers(given: Providers | None) -> Chosen:
    """Returns the execution providers that a caller asks for; None: the CPU.

    Raises:
        ProviderError: They are not asked for as they should be.
    """
    if given is None:
        return (CPU,)
    if isinstance(given, Mapping) and given and all(isinstance(name, str) for name in given):
        return {name: _listed(each) for name, each in given.items()}
    return _listed(given)


def _listed(given: object) -> tuple[Provider, ...]:
    asked = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not asked or not all(map(_is_provider, asked)):
        raise ProviderError(
            f"providers is {shortened(given)}, expected a list of names or of (name, options), or such lists by segment"
        )
    return asked


def _is_provider(given: object) -> bool:
    match given:
        case str() | (str(), Mapping()):
            return True
    return False


def check_segments(chosen: Chosen, segments: Sequence[str]) -> None:
    """Refuses providers for segments that a bundle has not.

    Raises:
        ProviderError: Which one.
    """
    for name in chosen if isinstance(chosen, dict) else ():
        if name not in segments:
            raise ProviderError(f"providers: no segment {name!r} with a model{did_you_mean(name, segments)}")


def of_segment(chosen: Chosen, segment: str) -> tuple[Provider, ...]:
    """Returns the providers of a segment."""
    return chosen.get(segment, (CPU,)) if isinstance(chosen, dict) else chosen


def expected_providers(chosen: Chosen) -> tuple[str, ...]:
    """Returns what sessions say that they run on where these providers are asked for: the CPU is always behind them."""
    asked = chosen.values() if isinstance(chosen, dict) else (chosen,)
    return together([tuple(map(name_of, each)) for each in asked])


def together(each: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns the providers of all sessions, each once, the CPU last; one list as it is where it names the CPU."""
    named = tuple(dict.fromkeys(name for names in each for name in names))
    if len(each) == 1 and CPU in named:
        return named
    return (*(name for name in named if name != CPU), CPU)


def name_of(provider: Provider) -> str:
    """Returns a provider's name, without its kind of device and its options."""
    return (provider if isinstance(provider, str) else provider[0]).partition("/")[0]


def check_available(providers: Sequence[Provider]) -> None:
    """Refuses providers that this onnxruntime has not.

    Raises:
        ProviderError: Which ones, and which it has.
    """
    available = ort.get_available_providers()
    names = [name_of(provider) for provider in providers]
    if not names or (missing := [name for name in names if name not in available]):
        raise ProviderError(f"providers {missing if names else []} are not in this onnxruntime; it has {available}")


def session_on(
    providers: Sequence[Provider], model: str | bytes, options: Callable[[], ort.SessionOptions], what: str
) -> ort.InferenceSession:
    """Returns a session on these providers and no others; what they write on stderr meanwhile is kept back.

    Args:
        providers: In order of preference.
        model: A graph, or its path.
        options: Returns fresh options.
        what: Names the graph in errors.

    Raises:
        ProviderError: A provider refuses, on a graph that the CPU takes.
        Exception: What onnxruntime raises for a graph that it cannot load.
    """
    names = [name_of(provider) for provider in providers]
    if set(names) == {CPU}:
        return _plain(providers, model, options())
    refused: Exception | None = None
    with _turn.lock, _kept_back() as said:
        try:
            session = _on_devices(providers, model, options()) or _plain(providers, model, options())
        except ProviderError as error:
            raise ProviderError(f"{what}: {error}") from error
        except Exception as error:  # noqa: BLE001 - a provider's library raises what it likes
            refused = error
    if refused is not None:
        _plain((CPU,), model, options())  # else it is the graph
        raise ProviderError(f"{what}: {names[0]} refuses it: {_reason(str(refused))}") from refused
    got = session.get_providers()
    if missing := [name for name in names if name not in got]:
        reasons = [found[1] for line in said if (found := re.fullmatch(_LOGGED, line)) is not None]
        why = _reason(reasons[0]) if reasons else f"onnxruntime runs it on {', '.join(got)}"
        raise ProviderError(f"{what}: {missing[0]} refuses it: {why}")
    return session


def _plain(providers: Sequence[Provider], model: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    given: list[Any] = [provider if isinstance(provider, str) else tuple(provider) for provider in providers]
    return ort.InferenceSession(model, options, providers=given, enable_fallback=0)


def _on_devices(
    providers: Sequence[Provider], model: str | bytes, options: ort.SessionOptions
) -> ort.InferenceSession | None:
    """Returns a session on plug-in providers, which are libraries that the process has registered; None without any."""
    plugged = [device for device in _devices() if "library_path" in device.ep_metadata]
    known = {device.ep_name for device in plugged}
    asked = [provider for provider in providers if name_of(provider) != CPU]
    if not any(name_of(provider) in known for provider in asked):
        return None
    for provider in asked:
        name, _, kind = (provider if isinstance(provider, str) else provider[0]).partition("/")
        if name not in known:
            raise ProviderError(f"{name} is built in, which does not go with the plug-in {', '.join(sorted(known))}")
        devices = [each for each in plugged if each.ep_name == name and kind.upper() in ("", each.device.type.name)]
        if not devices:
            kinds = sorted({each.device.type.name for each in plugged if each.ep_name == name})
            raise ProviderError(f"{name} has no device of the kind {kind!r}; it has {', '.join(kinds)}")
        settings = {} if isinstance(provider, str) else {key: str(value) for key, value in provider[1].items()}
        options.add_provider_for_devices(devices, settings)
    return ort.InferenceSession(model, options, enable_fallback=0)


def _devices() -> list[Any]:
    """Returns the devices that onnxruntime knows of; releases before 1.22 know of none."""
    return list(getattr(ort, "get_ep_devices", list)())


class _Turn:
    """One thread at a time keeps stderr back: another would take what the first has put there for it."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begins anew in a forked process."""
        self.lock = threading.Lock()


_turn = _Turn()


@contextlib.contextmanager
def _kept_back() -> Iterator[list[str]]:
    """Keeps back what any library writes on stderr; gives its lines afterwards."""
    import tempfile  # with all compressions: four milliseconds, for others than the CPU alone

    said: list[str] = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # None where the process began without it
        sys.stderr.flush()
    try:
        own = os.dup(2)
    except OSError:  # there is no stderr
        yield said
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(own, 2)
            os.close(own)
            file.seek(0)
            said += re.sub(_COLOUR, "", file.read().decode(errors="replace")).splitlines()


def _reason(text: str) -> str:
    """Returns what a provider says, without where in its source it says so."""
    return first_line(RuntimeError(re.sub(_PLACE, "", text)))
