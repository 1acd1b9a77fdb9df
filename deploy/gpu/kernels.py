"""Measures the vector kernels of the engine on a GPU: GB/s against a copy, and results against f64.

Needs a CUDA device, NVRTC and PyTorch with CUDA (for memory and the reference; nothing is downloaded):

    python3 deploy/gpu/kernels.py [--elements 100000000] [--json]

Prints a line for each kernel: milliseconds (median of 20), GB/s of what it must read and write, the
ratio to the copy measured in the same run, and the largest error against the same arithmetic in f64 on
the CPU, for 1,000,003 elements. Ends with 1 if an error is above its bound.
"""

import argparse
import ctypes
import json
import statistics
import sys
from pathlib import Path

import torch

SOURCE = Path(__file__).parents[2] / "worker/src/engine/cuda/vectors.cu"
BLOCK = 256


def library(names):
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    sys.exit(f"none of {', '.join(names)} can be loaded")


def check(code, what):
    if code:
        sys.exit(f"{what}: error {code}")


def ptx():
    nvrtc = library(["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"])
    major, minor = torch.cuda.get_device_capability()
    options = [f"--gpu-architecture=compute_{major}{minor}", "--std=c++17", "--fmad=false"]
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"vectors.cu", 0, None, None), "NVRTC")
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    check(nvrtc.nvrtcCompileProgram(program, len(options), array), "NVRTC cannot compile the kernels")
    size = ctypes.c_size_t()
    check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)), "NVRTC")
    text = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetPTX(program, text), "NVRTC")
    return text


class Kernels:
    def __init__(self):
        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes the context current
        self.driver = library(["libcuda.so.1"])
        self.module = ctypes.c_void_p()
        check(self.driver.cuModuleLoadData(ctypes.byref(self.module), ptx()), "the driver refuses the kernels")
        self.blocks = torch.cuda.get_device_properties(0).multi_processor_count * 8

    def __call__(self, name, *arguments):
        function = ctypes.c_void_p()
        check(self.driver.cuModuleGetFunction(ctypes.byref(function), self.module, name.encode()), name)
        values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        check(self.driver.cuLaunchKernel(function, self.blocks, 1, 1, BLOCK, 1, 1, 0, stream, pointers, None), name)


f, d, u64, u32 = ctypes.c_float, ctypes.c_double, ctypes.c_uint64, ctypes.c_uint32
NONE = ctypes.c_void_p(None)


def cases(k, n):
    """Name, bytes that must move, a call, and a function that gives (got, wanted in f64, bound)."""
    device = "cuda"
    generator = torch.Generator(device=device).manual_seed(1)
    rand = lambda size=n: torch.rand(size, device=device, generator=generator) * 2 - 1
    x = [rand() for _ in range(6)]
    wide = lambda t: t.double().cpu()
    to = torch.empty(n, device=device)
    square = torch.empty(k.blocks, dtype=torch.float64, device=device)
    total = lambda: square.sum().reshape(1)
    count = u64(n)

    def combine(terms):
        arguments = []
        for i in range(6):
            arguments += [f(0.5 - i), x[i]] if i < terms else [f(0), NONE]
        return lambda: k("combine", to, count, *arguments)

    for terms in (2, 6):
        want = lambda terms=terms: sum((0.5 - i) * wide(x[i]) for i in range(terms))
        yield f"combine, {terms} terms", 4 * n * (terms + 1), combine(terms), lambda want=want: (to, want(), 1e-5)
    yield "dot", 8 * n, lambda: k("dot", x[0], x[1], count, square), lambda: (
        total(), (wide(x[0]) * wide(x[1])).sum().reshape(1), 1e-6 * n)
    known = (wide(x[0]) ** 2).sum().reshape(1).cuda()
    norm = known.sqrt().item()
    y = torch.empty_like(x[0])
    yield "perturb", 12 * n, lambda: k("perturb", y, x[1], x[0], count, known, f(3.0)), lambda: (
        y, wide(x[1]) + 3.0 * wide(x[0]) / (norm + 1e-7), 1e-6)

    def clip():
        y.copy_(x[0])
        k("clip", y, count, known, d(norm / 2))
        return y, wide(x[0]) / 2, 1e-6

    yield "clip", 8 * n, lambda: k("clip", y, count, known, d(norm / 2)), clip
    w, m, v = (t.clone() for t in x[:3])
    v.abs_()
    step = (f(0.1), f(0.7), f(0.01), f(0.5), f(0.9))
    descend = lambda: k("descend", w, x[3], m, x[4], x[5], count, *step)

    def descended():
        w.copy_(x[0]), m.copy_(x[1])
        descend()
        a = [wide(t) for t in x]
        g = 0.7 * a[3] + a[4] + 0.5 * (a[0] - a[5]) + 0.01 * a[0]
        return w, a[0] - 0.1 * (0.9 * a[1] + g), 1e-5

    yield "descend", 28 * n, descend, descended
    adam = lambda: k("adam", w, x[3], m, v, count, f(0.01), f(0.9), f(0.99), f(1e-3), f(0.1))

    def adapted():
        w.copy_(x[0]), m.copy_(x[1]), v.copy_(x[2].abs())
        adam()
        a = [wide(t) for t in x]
        first, second = 0.9 * a[1] + 0.1 * a[3], 0.99 * a[2].abs() + 0.01 * a[3] ** 2
        return w, a[0] - 0.01 * (first / (second.sqrt() + 1e-3) + 0.1 * a[0]), 1e-5

    yield "adam", 28 * n, adam, adapted
    sums = torch.zeros(n, dtype=torch.int64, device=device)

    def encoded():
        sums.zero_()
        k("encode", sums, x[0], count, d(1234567.25))
        return sums, (wide(x[0]) * 1234567.25).round(), 0

    yield "encode", 20 * n, lambda: k("encode", sums, x[0], count, d(1234567.25)), encoded
    codes = torch.empty(n, dtype=torch.int8, device=device)
    scales = torch.empty((n + 255) // 256, device=device)
    yield "quantise", 5 * n, lambda: k("quantise", x[0], count, codes, scales), lambda: (
        codes.double() * scales.double().repeat_interleave(256)[:n], wide(x[0]), 0.51 / 127)
    yield "dequantise", 5 * n, lambda: k("dequantise", codes, scales, to, count), lambda: (
        to, wide(codes.double() * scales.double().repeat_interleave(256)[:n]), 1e-6)
    z = x[5].clone()

    def kept():
        z.copy_(x[5])
        k("keep_of", z, count, u32(2), u32(4))
        whole = wide(x[5])[: n // 4 * 4].view(-1, 4)
        top = whole.abs().topk(2, dim=1).indices
        return z[: n // 4 * 4], torch.zeros_like(whole).scatter(1, top, whole.gather(1, top)).flatten(), 0

    yield "keep 2 of 4", 8 * n, lambda: k("keep_of", z, count, u32(2), u32(4)), kept
    counts = torch.zeros(2048, dtype=torch.int64, device=device)

    def counted():
        counts.zero_()
        k("count_digits", x[0], count, u32(0), u32(20), u32(11), counts)
        digits = (x[0].view(torch.int32) & 0x7FFFFFFF) >> 20
        return counts, torch.bincount(digits, minlength=2048).double().cpu(), 0

    yield "count digits", 4 * n, lambda: k("count_digits", x[0], count, u32(0), u32(20), u32(11), counts), counted
    middle = 0.5
    bits = int(torch.tensor(middle).view(torch.int32))

    def halved():
        z.copy_(x[5])
        k("cut", z, count, u32(bits), u64(n))
        a = wide(x[5])
        return z, torch.where(a.abs() >= middle, a, 0.0), 0

    yield "cut", 8 * n, lambda: k("cut", z, count, u32(bits), u64(n)), halved
    width = n // 5
    squares = torch.empty(5, dtype=torch.float64, device=device)
    rows = lambda: k("row_squares", x[0], u64(5), u64(width), squares)
    yield "row squares", 4 * n, rows, lambda: (
        squares, (wide(x[0])[: 5 * width].view(5, -1) ** 2).sum(1), 1e-6 * n)
    limit = norm / 5**0.5 * 0.9999

    def summed():
        rows()
        to.zero_()
        k("clipped_sum", x[0], u64(5), u64(width), squares, d(limit), to)
        a = wide(x[0])[: 5 * width].view(5, -1)
        return to[:width], (a * (limit / a.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0), 1e-5

    yield "clipped sum", 4 * 7 * width, lambda: k(
        "clipped_sum", x[0], u64(5), u64(width), squares, d(limit), to), summed

    def noisy():
        to.zero_()
        k("add_noise", to, count, f(2.0), u64(7))
        moments = torch.stack([to.double().mean(), to.double().std()])
        return moments, torch.tensor([0.0, 2.0]).double(), 20 / n**0.5

    yield "add noise", 8 * n, lambda: k("add_noise", to, count, f(2.0), u64(7)), noisy


def milliseconds(call):
    times = []
    for i in range(23):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[3:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=100_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    k, failed = Kernels(), False
    errors = {}
    for name, _, call, compare in cases(k, 1_000_003):
        call()
        got, want, bound = compare()
        errors[name] = (got.double().cpu() - want).abs().max().item(), bound
    n = arguments.elements
    a, b = torch.rand(n, device="cuda"), torch.empty(n, device="cuda")
    copy = 8 * n / milliseconds(lambda: b.copy_(a)) / 1e6
    del a, b
    for name, moved, call, _ in cases(k, n):
        ms = milliseconds(call)
        rate, (error, bound) = moved / ms / 1e6, errors[name]
        failed |= not error <= bound
        row = {"kernel": name, "elements": n, "ms": ms, "gigabytes_per_second": rate, "ratio": rate / copy,
               "error": error, "bound": bound, "device": torch.cuda.get_device_name()}
        print(json.dumps(row) if arguments.json else
              f"{name:18} {ms:8.3f} ms {rate:8.0f} GB/s  {rate / copy:.2f} of a copy  error {error:.1e} of {bound:.1e}")
    sys.exit(failed)


main()
