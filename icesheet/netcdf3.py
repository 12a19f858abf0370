"""The size that a NetCDF-3 file must have by its own header, to recognise truncated files.

Format: https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
"""

import math

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def expected_netcdf3_size(path):
    """Return the bytes that a NetCDF-3 file must have by its header; 0 for any other file.

    Raises EOFError, KeyError or IndexError if the header is truncated or damaged.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF":
            return 0
        word_bytes = 8 if magic[3] == 5 else 4  # CDF-5 or CDF-1, CDF-2
        n_records = read_integer(file, word_bytes)
        if n_records == 256**word_bytes - 1:  # still being written: the number is not stored
            n_records = 0
        variables = read_variables(file, word_bytes, 4 if magic[3] == 1 else 8)
        header_bytes = file.tell()
    record_sizes = [size for _, size, is_record in variables if is_record]
    # a single record variable is not padded to 4 bytes
    record_bytes = record_sizes[0] if len(record_sizes) == 1 else sum(
        size + -size % 4 for size in record_sizes)
    return max([header_bytes, *(
        start + size + (record_bytes * (n_records - 1) if is_record else 0)
        for start, size, is_record in variables if n_records or not is_record)])


def read_variables(file, word_bytes, offset_bytes):
    """Read the lists of a header: (start, bytes, has records) of every variable or its record."""
    lengths, variables = [], []
    for _ in range(read_list_length(file, word_bytes)):  # dimensions
        skip(file, read_integer(file, word_bytes))
        lengths.append(read_integer(file, word_bytes))
    skip_attributes(file, word_bytes)
    for _ in range(read_list_length(file, word_bytes)):
        skip(file, read_integer(file, word_bytes))
        shape = [lengths[read_integer(file, word_bytes)]
                 for _ in range(read_integer(file, word_bytes))]
        skip_attributes(file, word_bytes)
        value_bytes = TYPE_BYTES[read_integer(file, 4)]
        read_integer(file, word_bytes)  # its size as stored, which is wrong above 4 GB
        start, is_record = read_integer(file, offset_bytes), 0 in shape[:1]
        variables.append((start, value_bytes * math.prod(shape[is_record:]), is_record))
    return variables


def skip_attributes(file, word_bytes):
    """Skip a list of attributes."""
    for _ in range(read_list_length(file, word_bytes)):
        skip(file, read_integer(file, word_bytes))
        value_bytes = TYPE_BYTES[read_integer(file, 4)]
        skip(file, read_integer(file, word_bytes) * value_bytes)


def read_list_length(file, word_bytes):
    """Read the tag and the length of a list."""
    read_integer(file, 4)
    return read_integer(file, word_bytes)


def read_integer(file, size):
    """Read an unsigned integer of `size` bytes; EOFError if the file ends before."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError("the header ends too soon")
    return int.from_bytes(data, "big")


def skip(file, size):
    """Skip `size` bytes, padded to a multiple of 4."""
    file.seek(size + -size % 4, 1)
