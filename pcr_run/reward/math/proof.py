"""Equality of expressions: refuted by digits, else proved; the same input takes the same way every time.

Two numbers made of integers by + - * / and roots differ by 0 or by more than a bound that their construction gives
(Burnikel, Funke, Mehlhorn, Schirra and Schmitt, 'A separation bound for real algebraic expressions', 2009): with enough
digits the comparison is a proof.
"""

from __future__ import annotations

import math

import sympy

from pcr_run.reward.math.latex import RefusedError

DIGITS = 20_000
"""More are not computed: numbers that need them are refused."""

_POINTS = [sympy.Rational(p, q) for p, q in ((1729, 997), (355, 113), (577, 408), (89, 233), (271, 99), (41, 29))]


def same_expr(a: sympy.Basic, b: sympy.Basic) -> bool:
    """Exact equality. RefusedError where numbers are too complicated to be told apart."""
    if a == b:
        return True
    if a.is_Rational and b.is_Rational:
        return False
    if a.has(sympy.oo, -sympy.oo) or b.has(sympy.oo, -sympy.oo):
        return False
    difference = a - b
    symbols = sorted(difference.free_symbols, key=str)
    for shift in range(3 if symbols else 1):
        point = {name: _POINTS[(k + shift) % len(_POINTS)] + k // len(_POINTS) for k, name in enumerate(symbols)}
        value = sympy.N(difference.subs(point), 60, maxn=500)
        if not value.is_number:  # an undefined function
            break
        if value.has(sympy.nan, sympy.zoo) or abs(value) > sympy.Float("1e-40"):
            return False
    if not symbols and (digits := separation(difference)) is not None:
        if digits > DIGITS:
            raise RefusedError("numbers too complicated to compare")
        value = sympy.N(difference, 15, maxn=digits + 30)
        return bool(abs(value) < sympy.Float(10, 20) ** -digits)
    if symbols and difference.is_rational_function(*symbols):
        numerator = sympy.fraction(sympy.together(difference))[0]
        return all(same_expr(each, sympy.Integer(0)) for each in sympy.Poly(numerator, *symbols).coeffs())
    return sympy.simplify(difference) == 0


def separation(expr: sympy.Basic) -> int | None:
    """Digits after the point below which the number is 0; None where it is not made of integers and roots."""
    bound = _bound(expr)
    if bound is None:
        return None
    upper, lower, degrees = bound
    degree = math.prod(degrees.values())
    if degree > 10 * DIGITS:
        return 10 * DIGITS
    return math.ceil(((degree - 1) * upper + lower) / math.log2(10)) + 1


def _turn(expr: sympy.Basic) -> int | None:
    """n where an expression is a trigonometric function, or exp, of a multiple of a full turn divided by n."""
    if isinstance(expr, sympy.cos | sympy.sin | sympy.tan | sympy.cot | sympy.sec | sympy.csc):
        share = expr.args[0] / (2 * sympy.pi)
    elif isinstance(expr, sympy.exp):
        share = expr.args[0] / (2 * sympy.pi * sympy.I)
    else:
        return None
    return sympy.lcm(share.q, 4) if share.is_Rational else None


Bound = tuple[float, float, dict[sympy.Basic, int]]


def _bound(expr: sympy.Basic) -> Bound | None:
    """log2 of the theorem's u and l, and the degree of each root inside."""
    if isinstance(expr, sympy.Rational):
        return math.log2(max(1, abs(expr.p))), math.log2(expr.q), {}
    if expr == sympy.I:
        return 0.0, 0.0, {sympy.Integer(-1): 2}
    if (turn := _turn(expr)) is not None:  # twice a cosine is a sum of two roots of unity, an algebraic integer
        size = 0.0 if isinstance(expr, sympy.exp) else 1.0
        return size, size, {sympy.Integer(-1): turn}
    if isinstance(expr, sympy.Pow) and isinstance(expr.exp, sympy.Rational):
        return _bound_of_power(expr.base, expr.exp.p, expr.exp.q)
    if not isinstance(expr, sympy.Add | sympy.Mul):
        return None
    upper, lower, degrees = 0.0, 0.0, dict[sympy.Basic, int]()
    for number, part in enumerate(expr.args):
        found = _bound(part)
        if found is None:
            return None
        u, low, roots = found
        degrees = _joined(degrees, roots)
        if number == 0 or isinstance(expr, sympy.Mul):
            upper, lower = upper + u, lower + low
        else:
            big, small = max(upper + low, u + lower), min(upper + low, u + lower)
            upper, lower = big + math.log2(1 + 2 ** (small - big)), lower + low
    return upper, lower, degrees


def _bound_of_power(base: sympy.Basic, power: int, root: int) -> Bound | None:
    found = _bound(base)
    if found is None:
        return None
    upper, lower, degrees = found
    if root > 1:
        degrees = _joined(degrees, _roots_of(base, root))
        if upper >= lower:
            upper = (upper + (root - 1) * lower) / root
        else:
            lower = ((root - 1) * upper + lower) / root
    if power < 0:
        upper, lower = lower, upper
    return abs(power) * upper, abs(power) * lower, degrees


def _roots_of(base: sympy.Basic, root: int) -> dict[sympy.Basic, int]:
    """What has to be added to the field: of a rational the roots of its primes, which others share."""
    if not isinstance(base, sympy.Rational):
        return {base: root}
    primes = {**sympy.factorint(abs(base.p), limit=10_000), **sympy.factorint(base.q, limit=10_000)}
    found = {sympy.Integer(prime): root for prime in primes if prime > 1}
    return found | ({sympy.Integer(-1): 2 * root} if base < 0 else {})


def _joined(left: dict[sympy.Basic, int], right: dict[sympy.Basic, int]) -> dict[sympy.Basic, int]:
    return {key: math.lcm(left.get(key, 1), right.get(key, 1)) for key in {**left, **right}}
