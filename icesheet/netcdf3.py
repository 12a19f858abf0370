"""icesheet.netcdf3."""

import math


def expected_netcdf3_size(path):
    """Bytes that a NetCDF-3 file must have by its own header; 0 of any other file.

    The header is that of the classic format (CDF-1, CDF-2, CDF-5), big-endian. Raises EOFError,
    KeyError or IndexError where it is cut short or damaged.
    """
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}  # of the types
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF":
            return 0
        wide = 8 if magic[3] == 5 else 4

        def number(size=wide):
            part = file.read(size)
            if len(part) < size:
                raise EOFError("the header ends too soon")
            return int.from_bytes(part, "big")

        def skip(size):
            file.seek(size + -size % 4, 1)

        def skip_attributes():
            number(4)
            for _ in range(number()):
                skip(number())
                kind = number(4)
                skip(number() * sizes[kind])

        records, lengths, parts = number(), [], []
        if records == 256**wide - 1:  # still being written: how many is not said
            records = 0
        number(4)
        for _ in range(number()):
            skip(number())
            lengths.append(number())
        skip_attributes()
        number(4)
        for _ in range(number()):
            skip(number())
            shape = [lengths[number()] for _ in range(number())]
            skip_attributes()
            size = sizes[number(4)]
            number()  # its size, as the file says it, wrong beyond 4 GB
            start = number(4 if magic[3] == 1 else 8)
            parts.append((start, size * math.prod(shape[1:] if 0 in shape[:1] else shape),
                          0 in shape[:1]))
        moving = [size for _, size, moves in parts if moves]
        step = moving[0] if len(moving) == 1 else sum(size + -size % 4 for size in moving)
        return max([file.tell(), *(start + size + (step * (records - 1) if moves else 0)
                                   for start, size, moves in parts if records or not moves)])
