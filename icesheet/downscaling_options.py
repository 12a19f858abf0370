"""The command line of downscale.py: its options and their checks."""

import re

from icesheet import command_line, map_layout
from icesheet.command_line import InputError
from icesheet.settings import SCALES, SELF_ENSEMBLE_MEMBERS


def make_downscaling_parser(doc):
    """Return the parser of the options; doc: description of the command, for --help."""
    parser = command_line.make_argument_parser(doc)
    parser.add_argument("map", metavar="MAP.nc",
                        help="input map; its thickness values are taken as cell means")
    parser.add_argument("--run", metavar="NAME", required=True, help="trained run")
    parser.add_argument("--output", metavar="FINE.nc", help="file for the finer map")
    parser.add_argument("--reconstruct", action="store_true", help="test the run on this map "
                        "instead of downscaling it: coarsen, reconstruct, compare")
    parser.add_argument("--bed", metavar="BED.nc", help="high-resolution bed (default: the map's)")
    parser.add_argument("--scale", type=int, choices=SCALES,
                        help="factor of refinement, at most the run's (default: the run's)")
    parser.add_argument("--time", metavar="N|N:M|all", default="-1", help="time index of MAP.nc, "
                        "counted from 0 (default: last); N:M excludes M; 'all' for every time")
    parser.add_argument("--bed-time", type=int, metavar="N",
                        help="time index of BED.nc, or its index along another dimension, of an "
                        "ensemble of beds; counted from 0 (default: last)")
    parser.add_argument("--reference-bed", metavar="REF.nc", help="the model's own bed when it was "
                        "that of BED.nc; what MAP.nc's bed differs from it is added to BED.nc's "
                        "(default: that of the first time of MAP.nc)")
    parser.add_argument("--reference-time", type=int, metavar="N",
                        help="time index of REF.nc, counted from 0 (default: first)")
    parser.add_argument("--self-ensemble", type=int, choices=tuple(SELF_ENSEMBLE_MEMBERS),
                        help="number of flipped and rotated copies to average (test-time "
                             "augmentation; default: the run's setting, usually 8)")
    parser.add_argument("--strip", metavar="K/N", help="compute only strip K of N; the N strips "
                        "together equal the undivided result bit for bit")
    parser.add_argument("--fill-missing", action="store_true", help="write no NaN: 0 m of ice "
                        "where the map has no data, the nearest known bed where there is none")
    parser.add_argument("--coarse-output", metavar="COARSE.nc", help="also write sub-grid fields "
                        "on the cells of MAP.nc: area fractions of ice, grounded and floating ice "
                        "and pinning points, mean and standard deviation of thickness and bed")
    parser.add_argument("--members", type=int, metavar="N", help="also write N realisations of the "
                        "thickness, as uncertain as its intervals say (thk_member)")
    parser.add_argument("--member", type=int, metavar="K", help="write only member K of N")
    parser.add_argument("--seed", type=int, help="random seed of the members (default 0)")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--show", action="store_true", help="also show the figure on screen")
    return parser


def parse_downscaling_arguments(doc, argv=None):
    """Return the checked arguments; `time` is an index (int) or a range, `strip` is (K, N).

    Raises InputError for what does not fit together.
    """
    args = make_downscaling_parser(doc).parse_args(argv)
    if args.reconstruct == (args.output is not None):
        raise InputError("expected either --output FINE.nc, to downscale the map, or "
                         "--reconstruct, to test the run on it")
    for option in ("fill_missing", "coarse_output", "members"):
        if args.reconstruct and getattr(args, option):
            raise InputError(f"--{option.replace('_', '-')} is about the file of --output; leave "
                             "it out here")
    if args.bed_time is not None and args.bed is None:
        raise InputError("--bed-time selects a time of the bed file; add --bed BED.nc")
    if args.reference_bed is not None and args.bed is None:
        raise InputError("--reference-bed shifts the bed of another file; add --bed BED.nc")
    if args.reference_time is not None and args.reference_bed is None:
        raise InputError("--reference-time selects a time of the reference bed; add "
                         "--reference-bed REF.nc")
    args.reference = args.reference_bed and (args.reference_bed, args.reference_time or 0)
    command_line.check_run_name(args.run)
    # At most 9 digits: int() of a longer text may be no index of any array.
    is_index = re.fullmatch(r"-?\d{1,9}", args.time)
    if not is_index and (args.reconstruct or not re.fullmatch(
            r"all|(-?\d{1,9})?:(-?\d{1,9})?", args.time)):
        raise InputError(f"--time {args.time[:20]}: expected a time index"
                         + ("" if args.reconstruct else ", a range N:M, or all"))
    args.time = int(args.time) if is_index else args.time
    strip = re.fullmatch(r"0*([1-9]\d*)/0*([1-9]\d*)", args.strip or "1/1")
    strip = strip and tuple(map(int, strip.groups()))
    if not strip or strip[0] > strip[1] or (args.strip and args.reconstruct):
        raise InputError(f"--strip {args.strip}: expected K/N with K from 1 to N, and --output")
    args.strip = strip
    args.drawn = check_members(args)
    return args


def check_members(args):
    """Return the members to draw, {"numbers": [int], "seed": int}, or None for none."""
    if args.members is None:
        for name in ("member", "seed"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} is about members; add --members N")
        return None
    if not 1 <= args.members < 10**6:
        raise InputError(f"--members {args.members}: expected a number of members, 1 or more")
    if args.member is not None and not 1 <= args.member <= args.members:
        raise InputError(f"--member {args.member}: expected K from 1 to {args.members} (--members)")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise InputError(f"--seed {args.seed}: expected 0 or more, below 2^63")
    numbers = range(1, args.members + 1) if args.member is None else [args.member]
    return {"numbers": list(numbers), "seed": args.seed or 0}
