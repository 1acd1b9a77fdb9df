"""A round of virtual clients in PyTorch on one GPU, one after the other: what `starling simulate --device
cuda` is compared with.

    python3 clients.py --clients 100 --steps 10 --batch 50 [--precision bf16] [--graph]

Each client starts at the global weights, does its steps on its own share of 50,000 images of noise that lie
on the GPU, and its change is added to the mean there. Prints one JSON line with the seconds of each round.
"""

import argparse
import json
import time

import torch
from torch.nn import functional as F

from models import make

IMAGES = {"kind": "images", "channels": 3, "height": 32, "width": 32, "classes": 10}


def main():
    ask = argparse.ArgumentParser()
    ask.add_argument("--model", default="cnn")
    ask.add_argument("--clients", type=int, default=100)
    ask.add_argument("--steps", type=int, default=10)
    ask.add_argument("--batch", type=int, default=50)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16"])
    ask.add_argument("--graph", action="store_true")
    args = ask.parse_args()
    allow = args.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = make({"kind": args.model, "stem": "cifar"}, IMAGES).cuda()
    data = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8, device="cuda")
    labels = torch.randint(10, (50_000,), device="cuda")
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    weights = [p.detach().clone() for p in net.parameters()]
    x = torch.empty(args.batch, 3, 32, 32, device="cuda")
    y = torch.empty(args.batch, dtype=torch.long, device="cuda")

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()

    if args.graph:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(5):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay
    else:
        replay = step
    share = 50_000 // args.clients
    seconds = []
    for _ in range(args.rounds + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        mean = [torch.zeros_like(w) for w in weights]
        for client in range(args.clients):
            with torch.no_grad():
                for p, w in zip(net.parameters(), weights):
                    p.copy_(w)
            for _ in range(args.steps):
                rows = client * share + torch.randint(share, (args.batch,), device="cuda")
                x.copy_((data[rows].float() / 255 - 0.5) / 0.25)
                y.copy_(labels[rows])
                replay()
            with torch.no_grad():
                for m, p in zip(mean, net.parameters()):
                    m.add_(p, alpha=1 / args.clients)
        weights = mean
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"clients": args.clients, "steps": args.steps, "batch": args.batch,
                      "precision": args.precision, "graph": args.graph, "round_s": seconds[1:]}))


main()
