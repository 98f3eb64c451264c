"""Who sees whom at one instant: the visible sets of many sites, and the highest satellite of each.

Neighbouring sites form groups, and groups regions, once and for all (`site_array`). A satellite at some radius can
stand above the mask only for sites within some angle of the point below it, its reach, and each satellite has its own:
low and high orbits may be mixed. A region or group further away than reach and circle together costs one dot product,
and none of its pairs is touched. Directions are unit vectors, so poles and the date line are places like any other.

Elevation is geometric, against the WGS84 normal: no refraction. Results do not depend on the number of threads. Over a
long time: twin.overpass for passes, which can be had from here too, and twin.handover for who serves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from twin.geometry import DEGREES, Site, arctan2
from twin.orbit import Ephemeris
from twin.overpass import Pass, Passes, find_passes, passes, sine_of
from twin.parallel import spread
from twin.units import WGS84_FLATTENING, WGS84_RADIUS_M

__all__ = ["Pass", "Passes", "Sites", "Visible", "find_passes", "passes", "site_array", "visible", "visible_from"]

GROUP = 16  # sites of a group at most: fewer touch fewer pairs, more share one look at the satellites
REGION = 16  # groups of a region
ALL_PAIRS_PARTS = 64  # into which the sites fall where nothing is culled
TILE = 32  # pairs tested at once, of which mostly none is visible
ROUNDING_RAD = 1e-7  # added to every reach; in metres on the ground: 0.6


@dataclass(frozen=True, eq=False)
class Sites:
    """Places on the Earth as `visible` wants them, from `site_array`. Reusable: nothing in them depends on time.

    position_m       (3, n_sites)   m    ECEF
    up               (3, n_sites)        the zenith there
    order            (n_sites,)          the sites group by group, the groups region by region
    group_start      (n_groups + 1,)     where in `order` each group begins, and the last ends
    group_cap        (n_groups, 4)       the circle around its sites as seen from the geocentre: x, y, z of the unit
                                         vector to its centre, and its radius in rad
    region_start     (n_regions + 1,)    the same for regions, of groups
    region_cap       (n_regions, 4)
    """

    position_m: np.ndarray
    up: np.ndarray
    order: np.ndarray
    group_start: np.ndarray
    group_cap: np.ndarray
    region_start: np.ndarray
    region_cap: np.ndarray

    def __len__(self) -> int:
        return self.position_m.shape[1]


@dataclass(frozen=True, eq=False)
class Visible:
    """Who stands above the mask of whom at one instant, in compressed rows: a site's satellites side by side.

    offsets             (n_sites + 1,)   the row of site j is offsets[j] to offsets[j + 1]
    satellite_index     (n_visible,)     in the ephemeris; rising within a row
    elevation_deg       (n_visible,)     within 1e-6 deg, from 89.999 deg on
    best_index          (n_sites,)       the highest satellite, the first of equals; -1 where there is none
    best_elevation_deg  (n_sites,)       its elevation, NaN where there is none
    pairs_touched       share of all pairs of a site and a satellite whose elevation was looked at, 0 to 1
    """

    offsets: np.ndarray
    satellite_index: np.ndarray
    elevation_deg: np.ndarray
    best_index: np.ndarray
    best_elevation_deg: np.ndarray
    pairs_touched: float

    @property
    def count(self) -> np.ndarray:
        """How many satellites each site sees, (n_sites,)."""
        return np.diff(self.offsets)

    def of(self, site_index: int) -> tuple[np.ndarray, np.ndarray]:
        """The satellites one site sees and their elevations in degrees."""
        row = slice(self.offsets[site_index], self.offsets[site_index + 1])
        return self.satellite_index[row], self.elevation_deg[row]


def site_array(
    latitude_deg: np.ndarray | float, longitude_deg: np.ndarray | float, altitude_m: np.ndarray | float = 0.0
) -> Sites:
    """Many places, prepared for `visible`.

    latitude_deg   (n_sites,) or ()  deg  geodetic, -90 to 90
    longitude_deg  (n_sites,) or ()  deg  east positive, -180 to 180
    altitude_m     (n_sites,) or ()  m    above the WGS84 ellipsoid, -500 to 50,000

    Raises ValueError naming the first place that is none. Checked by tests/test_visibility.py against Site.
    """
    columns = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, float)) for x in (latitude_deg, longitude_deg, altitude_m))
    )
    if columns[0].ndim != 1:
        raise ValueError(f"sites must be one-dimensional arrays, got shape {columns[0].shape}")
    latitude, longitude, altitude = columns
    on_earth = (np.abs(latitude) <= 90.0) & (np.abs(longitude) <= 180.0) & (altitude >= -500.0) & (altitude <= 50e3)
    if not on_earth.all():
        j = int(np.argmin(on_earth))
        raise ValueError(
            f"no such site: number {j} is at latitude_deg {latitude[j]:g}, longitude_deg {longitude[j]:g}, altitude_m "
            f"{altitude[j]:g}; expected -90 to 90, -180 to 180 and -500 to 50000"
        )
    sin_lat, cos_lat = np.sin(np.radians(latitude)), np.cos(np.radians(latitude))
    up = np.stack([cos_lat * np.cos(np.radians(longitude)), cos_lat * np.sin(np.radians(longitude)), sin_lat])
    flat = (1.0 - WGS84_FLATTENING) ** 2
    normal_m = WGS84_RADIUS_M / np.sqrt(cos_lat**2 + flat * sin_lat**2)
    position_m = (np.stack([normal_m, normal_m, flat * normal_m]) + altitude) * up

    direction = (position_m / np.linalg.norm(position_m, axis=0)).T
    groups = list(_groups(direction, np.arange(len(latitude))))
    order = np.concatenate([np.zeros(0, dtype=np.intp), *groups])
    group_start = np.cumsum([0, *(len(members) for members in groups)])
    region_start = np.append(np.arange(0, len(groups), REGION), len(groups))
    group_cap = _caps(direction[order], group_start)
    region_cap = _caps(direction[order], group_start[region_start])
    return Sites(position_m, up, order, group_start, group_cap, region_start, region_cap)


def _caps(direction: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Circles around the directions (n, 3) from each start to the next: centre and radius in rad, (n_circles, 4)."""
    caps = np.empty((len(start) - 1, 4))
    for cap, first, last in zip(caps, start, start[1:]):
        middle = direction[first:last].mean(axis=0)
        length = np.linalg.norm(middle)  # 0 for places opposite each other: then any of them will do
        cap[:3] = middle / length if length > 1e-9 else direction[first]
        chord = np.linalg.norm(direction[first:last] - cap[:3], axis=1).max()
        cap[3] = 2.0 * np.arcsin(min(0.5 * chord, 1.0))
    return caps


def _groups(direction: np.ndarray, members: np.ndarray) -> Iterator[np.ndarray]:
    """Neighbours in groups, by halving across the longest side until they are small enough."""
    if len(members) > GROUP:
        along = np.ptp(direction[members], axis=0).argmax()
        members = members[np.argsort(direction[members, along], kind="stable")]
        yield from _groups(direction, members[: len(members) // 2])
        yield from _groups(direction, members[len(members) // 2 :])
    elif len(members):
        yield members


def visible(
    sky: Ephemeris,
    sites: Sites | Sequence[Site],
    t_s: float,
    mask_deg: float = 10.0,
    *,
    all_pairs: bool = False,
    threads: int | None = None,
) -> Visible:
    """Which satellites stand above the mask of which sites at one instant, and the highest of each site.

    sites      n_sites  from site_array; Site objects too, which are converted at every call
    t_s        ()  s    after the ephemeris' start
    mask_deg   ()  deg  elevation from which a satellite counts, -90 to 90
    all_pairs           look at every pair: the same answer, for comparison
    threads             None: as many as there are processors

    Returns a Visible, of 12 bytes a visible pair, and takes twice that meanwhile: 2 GB where 10,000 sites see all of
    8,000. Satellites that SGP4 could not propagate are in no row. Raises ValueError for a mask or time out of range.
    Checked by tests/test_visibility.py against look and against all pairs.
    """
    sine_mask = sine_of(mask_deg)
    if not isinstance(sites, Sites):
        sites = site_array(*np.array([(s.latitude_deg, s.longitude_deg, s.altitude_m) for s in sites]).reshape(-1, 3).T)
    return visible_from(sky.state(float(t_s))[0], sites, sine_mask, all_pairs=all_pairs, threads=threads)


def visible_from(
    position_m: np.ndarray, sites: Sites, sine_mask: float, *, all_pairs: bool = False, threads: int | None = None
) -> Visible:
    """`visible` for given positions.

    position_m  (n_satellites, 3)  m  ECEF; NaN for one that does not fly
    sine_mask   ()                    sine of the mask
    """
    satellite_m = np.asarray(position_m, dtype=float).T
    n_satellites, n_sites = satellite_m.shape[1], len(sites)
    if all_pairs:
        edges = np.linspace(0, n_sites, min(n_sites, ALL_PAIRS_PARTS) + 1).astype(np.int64)
        anywhere = np.tile([0.0, 0.0, 1.0, np.pi], (len(edges) - 1, 1))
        tree = edges, anywhere, np.arange(len(edges)), anywhere
    else:
        tree = sites.group_start, sites.group_cap, sites.region_start, sites.region_cap
    reach_rad, radius_m = _reach(satellite_m, sites, sine_mask), np.sqrt((satellite_m**2).sum(axis=0))
    sky = np.stack([*satellite_m, radius_m * np.cos(reach_rad), radius_m * np.sin(reach_rad), reach_rad])
    there = np.concatenate([sites.position_m, sites.up])[:, sites.order]
    count, best = np.zeros(n_sites, dtype=np.int64), np.full(n_sites, -1, dtype=np.int32)
    best_deg = np.full(n_sites, np.nan)
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by region
    touched = np.zeros(len(tree[2]) - 1, dtype=np.int64)

    def look(first: int, last: int) -> None:
        for region in range(first, last):  # one at a time, so that what the kernel works with stays in the cache
            *rows[region], touched[region] = rows_of_region(sky, there, *tree, region, sine_mask, count, best, best_deg)

    def arrange(first: int, last: int) -> None:
        for region in range(first, last):
            members = slice(*tree[0][tree[2][region : region + 2]])
            put_rows(*rows[region], count[members], offsets[sites.order[members]], index, elevation_deg)

    spread(look, len(touched), threads)
    offsets = np.zeros(n_sites + 1, dtype=np.int64)
    offsets[1:][sites.order] = count
    np.cumsum(offsets, out=offsets)
    index, elevation_deg = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1])
    spread(arrange, len(touched), threads)
    best_index, best_elevation_deg = np.empty(n_sites, dtype=np.int32), np.empty(n_sites)
    best_index[sites.order], best_elevation_deg[sites.order] = best, best_deg
    share = float(touched.sum()) / max(n_satellites * n_sites, 1)
    return Visible(offsets, index, elevation_deg, best_index, best_elevation_deg, share)


def _reach(satellite_m: np.ndarray, sites: Sites, sine_mask: float) -> np.ndarray:
    """How far from the point below it a satellite can be seen by any of the sites, rad at the geocentre.

    With a site at s from the geocentre and a satellite at r > s, elevation e above the plane square to the site's own
    radius means the angle arccos(s cos e / r) - e between them, which falls as e or s grows. The plane of the true
    horizon is tilted against that one by 0.2 deg at most; the tilt of the sites at hand is taken off the mask.
    """
    if not len(sites):
        return np.zeros(satellite_m.shape[1])
    site_m = np.linalg.norm(sites.position_m, axis=0)
    tilt_rad = np.linalg.norm(sites.position_m / site_m - sites.up, axis=0).max() * 1.001
    lowest_rad = max(np.arcsin(sine_mask) - tilt_rad, -0.5 * np.pi)
    radius_m = np.sqrt((satellite_m**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        reach = np.arccos(site_m.min() * np.cos(lowest_rad) / radius_m) - lowest_rad + ROUNDING_RAD
    return np.where(radius_m <= site_m.max() + 1.0, np.pi, reach)  # below a site: anywhere; NaN stays NaN


@njit(cache=True, nogil=True, error_model="numpy")
def rows_of_region(
    sky, there, group_start, group_cap, region_start, region_cap, region, sine_mask, count, best, best_deg
):
    """Kernel: the visible satellites of every site of one region, one row after the other.

    sky              (6, n_satellites)  x, y, z (m); the radius times cosine and sine of the reach (m), the reach (rad)
    there            (6, n_sites)       x, y, z (m) and zenith of the sites, in the order of the groups
    group_start ...                     as in Sites
    count, best, best_deg  (n_sites,)   filled for the region: satellites above the mask; the highest one and its
                                        elevation, left alone where there is none

    Returns satellite_index and elevation_deg, (n_visible,) each, and the number of pairs touched.
    """
    n_satellites = sky.shape[1]
    # Above the mask is up >= sine * range; squared, with signs, it needs no root. Nothing is below -90 deg.
    square_mask = sine_mask * abs(sine_mask) if sine_mask > -1.0 else -2.0
    everybody = np.arange(n_satellites).astype(np.int32)
    far, far_index = np.empty_like(sky), np.empty_like(everybody)
    near, near_index = np.empty_like(sky), np.empty_like(everybody)
    hit = np.empty(n_satellites, dtype=np.int64)
    index, sine = np.empty(8 * n_satellites, dtype=np.int32), np.empty(8 * n_satellites)
    first, last = group_start[region_start[region]], group_start[region_start[region + 1]]
    best_at = np.full(last - first, -1)
    n_found, touched = 0, 0
    n_far = keep(sky, everybody, n_satellites, region_cap[region], hit, far, far_index)
    for group in range(region_start[region], region_start[region + 1]):
        n_near = keep(far, far_index, n_far, group_cap[group], hit, near, near_index)
        for j in range(group_start[group], group_start[group + 1]):
            if n_found + n_near > len(index):
                longer, longer_sine = np.empty(2 * len(index), dtype=np.int32), np.empty(2 * len(index))
                for k in range(n_found):  # one by one: numba takes a second to compile the assignment of a slice
                    longer[k], longer_sine[k] = index[k], sine[k]
                index, sine = longer, longer_sine
            count[j], highest = row_of_site(
                near, near_index, n_near, there[:, j], square_mask, index[n_found:], sine[n_found:]
            )
            if count[j] > 0:
                best_at[j - first] = n_found + highest
            n_found += count[j]
            touched += n_near
    elevation_deg = arcsine_deg(sine[:n_found])
    for j in range(first, last):
        at = best_at[j - first]
        if at >= 0:
            best[j], best_deg[j] = index[at], elevation_deg[at]
    return index[:n_found].copy(), elevation_deg, touched


@njit(cache=True, nogil=True, error_model="numpy")
def row_of_site(sky, sky_index, n, site, square_mask, index, sine):
    """Kernel: who of the first n columns of `sky` a site sees, put into index and sine; how many; where the best."""
    site_x, site_y, site_z, up_x, up_y, up_z = site
    x, y, z = sky[0], sky[1], sky[2]
    up, square, hit = np.empty(TILE), np.empty(TILE), np.empty(TILE, dtype=np.int64)
    n_found, highest, best_at = 0, -2.0, 0
    for tile in range(0, n, TILE):
        size, hits = min(TILE, n - tile), 0
        for q in range(size):
            dx, dy, dz = x[tile + q] - site_x, y[tile + q] - site_y, z[tile + q] - site_z
            up[q], square[q] = up_x * dx + up_y * dy + up_z * dz, dx * dx + dy * dy + dz * dz
            hit[q] = up[q] * abs(up[q]) >= square_mask * square[q]
            hits += hit[q]
        if hits == 0:
            continue
        for q in range(size):
            up[q] = min(max(up[q] / np.sqrt(square[q]), -1.0), 1.0)
        for q in range(size):
            index[n_found], sine[n_found] = sky_index[tile + q], up[q]
            n_found += hit[q]
    for q in range(n_found):
        if sine[q] > highest:
            highest, best_at = sine[q], q
    return n_found, best_at


@njit(cache=True, nogil=True, error_model="numpy")
def keep(sky, index, n, cap, hit, kept, kept_index):
    """Kernel: copy to `kept` those of the first n columns of `sky` that are within their reach of a cap; how many."""
    x, y, z, cosine, sine, anywhere_rad = cap[0], cap[1], cap[2], np.cos(cap[3]), np.sin(cap[3]), np.pi - cap[3]
    for i in range(n):
        along_m = x * sky[0, i] + y * sky[1, i] + z * sky[2, i]
        hit[i] = (along_m >= sky[3, i] * cosine - sky[4, i] * sine) | (sky[5, i] >= anywhere_rad)
    n_kept = 0
    for i in range(n):
        kept_index[n_kept] = i
        n_kept += hit[i]
    for row in range(len(sky)):
        for q in range(n_kept):
            kept[row, q] = sky[row, kept_index[q]]
    for q in range(n_kept):
        kept_index[q] = index[kept_index[q]]
    return n_kept


@njit(cache=True, nogil=True, error_model="numpy")
def arcsine_deg(sine):
    """Kernel: angles in degrees of sines from -1 to 1, (n,)."""
    angle_deg = np.empty_like(sine)
    for i in range(len(sine)):
        angle_deg[i] = arctan2(sine[i], np.sqrt((1.0 - sine[i]) * (1.0 + sine[i]))) * DEGREES
    return angle_deg


@njit(cache=True, nogil=True)
def put_rows(found, found_deg, count, to, index, elevation_deg):
    """Kernel: rows, one after the other in found (n,) and found_deg (n,), each of length `count`, put where they go."""
    begin = 0
    for j in range(len(count)):
        for q in range(count[j]):
            index[to[j] + q] = found[begin + q]
        for q in range(count[j]):
            elevation_deg[to[j] + q] = found_deg[begin + q]
        begin += count[j]
