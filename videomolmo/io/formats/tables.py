"""GeoJSON and CSV: outlines and tracks for whoever plots, maps or counts."""

from __future__ import annotations

import json
from pathlib import Path

from videomolmo.io.formats.labels import VOID, Labels, Losses, edge_rings, place_of
from videomolmo.io.tables import write_csv


def write_geojson(labels: Labels, path: Path) -> Losses:
    """Write a feature for each object and frame: its outline along the edges of pixels, holes included.

    Coordinates are pixels, x to the right and y downwards from the frame's top left corner, as QuPath and napari have
    them. Differs: GeoJSON means degrees on the Earth (RFC 7946), and outlines that touch themselves at a corner of a
    pixel are not simple.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        first = True
        for t in range(labels.frames):
            shapes = [(n, labels.ids[n - 1], labels.names[n - 1], mask) for n, mask in labels.shapes(t)]
            if (void := labels.void_at(t)) is not None:
                shapes.append((0, VOID, VOID, void))
            for n, own, name, mask in shapes:
                parts = [[ring.tolist() for ring in part] for part in edge_rings(mask)]
                about = {"frame": t, "time_s": round(float(labels.times_s[t]), 6), "object": own, "name": name}
                if (score := labels.score(t, n)) is not None:
                    about["score"] = score
                feature = {"type": "Feature", "properties": about,
                           "geometry": {"type": "MultiPolygon", "coordinates": parts}}  # fmt: skip
                file.write(("\n" if first else ",\n") + json.dumps(feature, ensure_ascii=False))
                first = False
        file.write("]}\n")
    return Losses()


def write_table(labels: Labels, path: Path) -> Losses:
    """Write a row for each object and frame: place, area and box, and what else is known."""
    import pandas as pd

    rows = []
    for t in range(labels.frames):
        for n, mask in labels.shapes(t):
            x, y, area, box = place_of(mask)
            row = {"frame": t, "time_s": round(float(labels.times_s[t]), 4), "object": labels.ids[n - 1],
                   "name": labels.names[n - 1], "x_px": x, "y_px": y, "area_px": area, "box": box}  # fmt: skip
            if labels.scores:
                row["score"] = labels.score(t, n)
            rows.append(row | labels.columns(t, n))
    columns = ["frame", "time_s", "object", "name", "x_px", "y_px", "area_px", "box"]
    write_csv(pd.DataFrame(rows, columns=None if rows else columns), path)
    return labels.losses("void") + Losses({"masks: centres, areas and boxes only": 1})
