"""Training steps in PyTorch, for `starling bench train --against-torch`.

Started with one JSON argument: {"spec", "info", "batch", "threads", "device", "precision", "graph"}. For
each line with a number on its input it does so many steps (forward, backward, plain SGD) on one fixed
batch and answers with one JSON line. Memory is what the process grew by over its size before the first
step. On a GPU a block of steps is timed as a whole; `graph` captures the step as a CUDA graph. A line with
another such argument changes to that case.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from models import make  # noqa: E402


def memory(field):
    """Bytes of a line of /proc/self/status, 0 where there is none."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def processor():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def captured(step):
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay():
        graph.replay()
        return loss

    return replay


def prepare(case):
    """A function that does so many steps of the case and gives their wall times and the last loss."""
    spec, info, batch, device = case["spec"], case["info"], case["batch"], case["device"]
    gpu = device.startswith("cuda")
    tf32 = case.get("precision", "f32") == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    narrow = case.get("precision") == "bf16"
    torch.manual_seed(0)
    torch.set_num_threads(case["threads"])
    net = make(spec, info).to(device)
    if info["kind"] == "text":
        classes, positions = info["vocabulary"], info["sequence"]
        x = torch.randint(classes, (batch, positions), device=device)
    else:
        keys = ("dimension",) if info["kind"] == "features" else ("channels", "height", "width")
        classes, positions = info["classes"], 1
        x = torch.randn(batch, *(info[k] for k in keys), device=device)
    y = torch.randint(classes, (batch * positions,), device=device)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=narrow):
            loss = F.cross_entropy(net(x).reshape(-1, classes), y)
        loss.backward()
        optimiser.step()
        return loss

    replay = captured(step) if gpu and case.get("graph") else step

    def block(steps):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            loss = replay()
        torch.cuda.synchronize()
        return [(time.perf_counter() - began) * 1e3 / steps] * steps, loss

    def singly(steps):
        walls = []
        for _ in range(steps):
            began = time.perf_counter()
            loss = step()
            walls.append((time.perf_counter() - began) * 1e3)
        return walls, loss

    return block if gpu else singly


def main():
    run = prepare(json.loads(sys.argv[1]))
    before = memory("VmRSS:")
    try:
        # The largest size so far starts again at the present one.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    hello = json.dumps({"version": f"torch {torch.__version__}"})
    print(hello, flush=True)
    for line in sys.stdin:
        if line.startswith("{"):
            del run
            run = prepare(json.loads(line))
            print(hello, flush=True)
            continue
        used = processor()
        walls, loss = run(int(line))
        answer = {
            "wall_ms": walls,
            "processor_ms": (processor() - used) * 1e3,
            "loss": loss.item(),
            "memory_bytes": max(0, memory("VmHWM:") - before),
        }
        print(json.dumps(answer), flush=True)


main()
