#!/usr/bin/env python3
"""A second opinion on an exported privacy ledger, by a route that shares nothing with the program.

    python3 deploy/privacy/recompute.py LEDGER.jsonl --delta 1e-5

For ledgers of Gaussian noise on everyone and of noise that is correlated over the rounds (DP-FTRL). The
sensitivity of a factorisation is found by trying every pattern of rounds that one unit may take part in, on the
whole matrix C and not by a formula; trees by the binary nodes that a round touches. Then the closed form of
Gaussian differential privacy (Balle and Wang 2018; Dong, Roth and Su 2022). The standard library alone.
"""

import argparse
import json
import math
import sys

MOST_PATTERNS = 3_000_000


def coefficients(factor, rounds):
    if factor["kind"] == "square_root":
        # (1 - x)^(-1/2): binomial(2j, j) / 4^j.
        return [math.exp(math.lgamma(2 * j + 1) - 2 * math.lgamma(j + 1) - j * math.log(4)) for j in range(rounds)]
    if factor["kind"] == "banded":
        given = factor["coefficients"]
        return [given[j] if j < len(given) else 0.0 for j in range(rounds)]
    if factor["kind"] == "buffered":
        pairs = list(zip(factor["weights"], factor["decays"]))
        return [1.0] + [sum(w * d ** (j - 1) for w, d in pairs) for j in range(1, rounds)]
    sys.exit(f"factor `{factor['kind']}`: expected `square_root`, `banded` or `buffered`")


def patterns(rounds, most, separation, first=0):
    """All sets of at most `most` rounds, `separation` apart."""
    yield ()
    if most == 0:
        return
    for t in range(first, rounds):
        for rest in patterns(rounds, most - 1, separation, t + separation):
            yield (t,) + rest


def toeplitz(strategy):
    part = strategy["participation"]
    rounds, most, separation = part["rounds"], part["most"], part["separation"]
    c = coefficients(strategy["factor"], rounds)
    matrix = [[c[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)]
    gram = [[sum(matrix[i][a] * matrix[i][b] for i in range(max(a, b), rounds)) for b in range(rounds)]
            for a in range(rounds)]
    # No entry is negative, so that contributions in one direction are the worst.
    best, seen = (0.0, ()), 0
    for pattern in patterns(rounds, most, separation):
        seen += 1
        if seen > MOST_PATTERNS:
            sys.exit(f"more than {MOST_PATTERNS} patterns of participation: too many to try")
        square = sum(gram[a][b] for a in pattern for b in pattern)
        best = max(best, (square, pattern))
    print(f"  {seen} patterns tried; worst: rounds {[t + 1 for t in best[1]]}", file=sys.stderr)
    return math.sqrt(best[0])


def tree(strategy):
    # One unit is in one leaf, and in each node above it.
    longest = strategy["longest"]
    nodes = max(sum(1 for level in range(64) if ((leaf >> level) + 1) << level <= longest) for leaf in range(longest))
    return math.sqrt(nodes)


def sensitivity(mechanism):
    if mechanism["kind"] == "gaussian":
        return 1.0
    if mechanism["kind"] == "correlated":
        strategy = mechanism["strategy"]
        return tree(strategy) if strategy["kind"] == "tree" else toeplitz(strategy)
    sys.exit(f"mechanism `{mechanism['kind']}`: expected `gaussian` or `correlated`")


def phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def delta_of(epsilon, mu):
    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


def epsilon_of(mu, delta):
    if mu == 0 or delta_of(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, mu * (mu / 2 + math.sqrt(2 * math.log(1 / delta)))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ledger")
    parser.add_argument("--delta", type=float, default=1e-5)
    args = parser.parse_args()
    square, adjacency = 0.0, None
    with open(args.ledger, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["entry"] == "opened":
                adjacency = entry["adjacency"]
            elif entry["entry"] == "reset":
                square = 0.0
            else:
                event = entry["event"]
                if event["sampling"]["kind"] != "everyone":
                    sys.exit("a sampled event: this script knows events on everyone only")
                z = event["mechanism"]["noise_multiplier"]
                square += event["count"] * (sensitivity(event["mechanism"]) / z) ** 2
    moves = 2.0 if adjacency == "replace_one" else 1.0
    mu = moves * math.sqrt(square)
    print(json.dumps({"mu": mu, "delta": args.delta, "epsilon": epsilon_of(mu, args.delta)}))


if __name__ == "__main__":
    main()
