"""Padding: the sizes that things have for whoever only sees how large they are.

Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files", 2019): a size costs at most 12 % more, and of
it only the order of magnitude and a few bits show.
"""


def padme(size: int) -> int:
    """`size` (at least 2) rounded up so that its binary form ends in zeros but for its log2(log2(size)) + 1 leading
    digits."""
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask
