"""CUDA graphs of networks that generate, for batches of sizes that recur: all kernels in one launch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..types import Cond

DEVICE = "cuda"
"""The kind of device that has graphs."""


def record(work: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], Any], Tensor]:
    """Warm up work that returns (B, C, H, W) in a stream of its own, and record its kernels.

    Returns:
        a function that repeats the work, and its result, which every replay overwrites.

    Raises:
        FlowlitError: if the work waits for the device, or does something else that no graph can repeat.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        try:
            # "thread_local", since data loaders work meanwhile
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                output = work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise FlowlitError(
                f"a CUDA graph of the network cannot be recorded ({error}); leave graphs out, or have the "
                "network not look at values of tensors on the GPU (.item(), a branch, an index of booleans)"
            ) from error
    return graph.replay, output


class CapturedGraph:
    """The graph of one kind of batch; inputs are copied to its memory, and its output is copied away."""

    def __init__(self, velocity: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Cond):
        with torch.inference_mode(False), torch.no_grad(), uncached(x.device):
            self.inputs = [tensor.clone() for tensor in tensors(x, t, cond)]
            own_x, own_t, *values = self.inputs
            own_cond = dict(zip(sorted(cond), values, strict=True))
            self.replay, self.output = record(lambda: velocity(own_x, own_t, own_cond), x.device)
        self._done: torch.cuda.Event | None = None

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        on_gpu = x.device.type == "cuda"
        if self._done is not None:  # a call in another stream may still be under way
            torch.cuda.current_stream(x.device).wait_event(self._done)
        for ours, theirs in zip(self.inputs, tensors(x, t, cond), strict=True):
            ours.copy_(theirs)
        self.replay()
        output = self.output.clone()
        self._done = torch.cuda.current_stream(x.device).record_event() if on_gpu else None
        return output


class CUDAGraphRunner:
    """A velocity that is replayed from CUDA graphs where it can be, and called as usual where not.

    A graph is recorded when a kind of batch (shapes, types, order in memory, autocast) comes for the second
    time. Usual are calls with gradients, in training mode, in a thread beside the main one before there is a
    graph, and of more kinds than ``most``. Graphs read the weights where they lie: training and averaging in
    place take effect; if weights move, all are recorded anew. Plain numbers of a network (the scale of a
    guidance) are those of the recording, and forward hooks do not run.

    Args:
        velocity: called as (x, t, cond).
        network: its weights, buffers and mode are the velocity's.
        most: graphs that are kept; each holds the memory of one evaluation.
    """

    def __init__(self, velocity: Callable[..., Tensor], network: nn.Module, most: int = 4):
        self.velocity = velocity
        self.network = network
        self.most = most
        self.graphs: dict[Hashable, CapturedGraph] = {}
        self._seen: Counter[Hashable] = Counter()
        self._places: list[int] = []
        self._holders = [
            each for module in network.modules() for each in (module._parameters, module._buffers) if each
        ]
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or self.network.training:  # also of a critic that is no velocity
            return self.velocity(*args, **kwargs)
        return self._replayed(*args, **kwargs)

    def _replayed(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        if not on_device(x, t, cond):
            return self.velocity(x, t, cond)
        with self._lock:  # another thread must not write to the inputs of a graph that is about to read them
            graph = self._graph(x, t, cond)
            if graph is not None:
                return graph(x, t, cond)
        return self.velocity(x, t, cond)

    def _graph(self, x: Tensor, t: Tensor, cond: Cond) -> CapturedGraph | None:
        """Return the graph for such a batch, recorded now if it is time."""
        places = [
            tensor.data_ptr() for each in self._holders for tensor in each.values() if tensor is not None
        ]
        if places != self._places:
            self.graphs.clear()
            self._seen.clear()
            self._places = places
        kind = kind_of(x, t, cond)
        if kind in self.graphs:
            return self.graphs[kind]
        self._seen[kind] += 1
        # PyTorch refuses to record beside the main thread, which draws random numbers meanwhile
        alone = threading.current_thread() is threading.main_thread()
        if self._seen[kind] < 2 or len(self.graphs) >= self.most or not alone:
            return None
        self.graphs[kind] = CapturedGraph(self.velocity, x, t, cond)
        return self.graphs[kind]


class FirstCallGraphed:
    """A network whose first call in a training step runs by CUDA graphs of ``torch.compile``, backward, too.

    All other calls are the usual ones: the second of a step (distillation), because gradients lie in the
    memory of the graph that made them, and PyTorch loses what was added there when it runs once more
    (pytorch#169545); those without gradients, too.

    Args:
        network: whose mode decides.
        mode: of ``torch.compile``, with graphs.
        dynamic: of ``torch.compile``.
    """

    def __init__(self, network: nn.Module, mode: str, dynamic: bool | None):
        self.network = network
        self.usual = called(network)
        self.first = False
        self.graphed = torch.compile(network._call_impl, mode=mode, dynamic=dynamic)

    def begin(self) -> None:
        """Begin a training step: results of the graph in the step before may be overwritten."""
        torch.compiler.cudagraph_mark_step_begin()
        self.first = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.first and torch.is_grad_enabled() and self.network.training):
            return self.usual(*args, **kwargs)
        self.first = False
        return self.graphed(*args, **kwargs)


def tensors(x: Tensor, t: Tensor, cond: Cond) -> Iterator[Tensor]:
    """Yield all inputs of a velocity, x (B, C, H, W), t (B,) and the conditions by name."""
    yield from (x, t, *(cond[name] for name in sorted(cond)))


def on_device(x: Tensor, t: Tensor, cond: Cond) -> bool:
    """Return whether x (B, C, H, W), t (B,) and cond are where graphs are, and none is being recorded there.

    A wrapper of this network may be recorded, for instance.
    """
    if any(tensor.device.type != DEVICE for tensor in tensors(x, t, cond)):
        return False
    return DEVICE != "cuda" or not torch.cuda.is_current_stream_capturing()


def kind_of(x: Tensor, t: Tensor, cond: Cond) -> Hashable:
    """Return what must be equal for batches x (B, C, H, W), t (B,), cond to share a graph."""
    device = x.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    products = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    inputs = tuple((i.shape, i.stride(), i.dtype, i.device) for i in tensors(x, t, cond))
    return inputs, tuple(sorted(cond)), autocast, products


def uncached(device: torch.device) -> torch.autocast:
    """Return autocast as it is, without its cache: a graph must cast weights anew, not read freed copies."""
    kind = device.type
    return torch.autocast(
        kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
    )


def check_device(device: torch.device) -> None:
    """Refuse devices without graphs.

    Raises:
        FlowlitError: saying what to do.
    """
    if device.type != DEVICE:
        raise FlowlitError(
            f"CUDA graphs need the network on an NVIDIA GPU, found {device.type}; move it there, or leave "
            "graphs out"
        )


def replayed(network: nn.Module, most: int = 4) -> None:
    """Have calls of a network, compiled or not, replayed from CUDA graphs; copies and checkpoints are not."""
    if not isinstance(called(network), CUDAGraphRunner):
        network._compiled_call_impl = CUDAGraphRunner(called(network), network, most)  # type: ignore[assignment]


def released(network: nn.Module) -> None:
    """Undo ``replayed``, and free the memory of the graphs."""
    runner = called(network)
    if isinstance(runner, CUDAGraphRunner):
        before = runner.velocity
        network._compiled_call_impl = None if before == network._call_impl else before


def called(network: nn.Module) -> Any:
    """Return the function that a call of a network runs: where ``nn.Module.compile`` puts its result."""
    return network._compiled_call_impl or network._call_impl


def is_compiled(network: nn.Module) -> bool:
    """Return whether ``nn.Module.compile`` was called, which copies do not keep."""
    call = called(network)
    call = call.velocity if isinstance(call, CUDAGraphRunner) else call
    return bool(call != network._call_impl)
