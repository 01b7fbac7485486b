"""Student's t intervals of a mean and of the difference of two; a share's lower bound. Bare Python."""

import math
from typing import Final


def t_half_width(stddev: float, n: int) -> float | None:
    """Half the width of the 95 % interval of a mean of n values; None below 2 values."""
    return None if n < 2 else t_quantile(n - 1) * stddev / math.sqrt(n)


def welch_half_width(stddev_a: float, n_a: int, stddev_b: float, n_b: int) -> float | None:
    """Half the width of the 95 % interval of mean(a) - mean(b), unequal variances; None below 2 values each.

    The degrees of freedom are rounded down: the interval is never too narrow for it.
    Source: B. L. Welch, Biometrika 34 (1947).
    """
    if n_a < 2 or n_b < 2:
        return None
    a, b = stddev_a**2 / n_a, stddev_b**2 / n_b
    if a + b == 0:
        return 0.0
    df = (a + b) ** 2 / (a**2 / (n_a - 1) + b**2 / (n_b - 1))
    return t_quantile(max(1, int(df))) * math.sqrt(a + b)


def share_at_least(k: int, n: int) -> float:
    """Lower bound (99 %, one-sided) of the share that k of n are of. 0 <= k <= n, n > 0.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    p, z2 = k / n, _Z_99**2
    root = math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return max(0.0, (p + z2 / (2 * n) - _Z_99 * root) / (1 + z2 / n))


_Z_99: Final = 2.3263478740408408
_T_975: Final = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
    2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)  # fmt: skip


def t_quantile(df: int) -> float:
    """0.975 quantile of Student's t with df >= 1 degrees of freedom.

    Tabulated to df 20, beyond by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5), error < 1e-4.
    """
    if df <= len(_T_975):
        return _T_975[df - 1]
    z = 1.959963984540054
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / df + g2 / df**2 + g3 / df**3
