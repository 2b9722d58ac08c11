"""`rsp info`: a scene's facts and what predicting on it would take."""

from __future__ import annotations

from rsprompter_cli.cli.options import (
    AllowVrtOption,
    BandsOption,
    GsdOption,
    JsonOption,
    MaxBlockOption,
    MaxWindowsOption,
    ModelOption,
    NativeOption,
    NodataOption,
    OverlapOption,
    PageOption,
    RemoteOption,
    ScaleOption,
    SceneArgument,
    SceneCrsOption,
    parse_bands,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_table
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES, MAX_WINDOWS, OVERLAP


def info_command(
    scene: SceneArgument,
    model: ModelOption = None,
    gsd: GsdOption = None,
    native: NativeOption = False,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    page: PageOption = None,
    scene_crs: SceneCrsOption = None,
    nodata: NodataOption = None,
    overlap: OverlapOption = OVERLAP,
    max_block: MaxBlockOption = MAX_BLOCK_BYTES >> 20,
    max_windows: MaxWindowsOption = MAX_WINDOWS,
    allow_vrt: AllowVrtOption = False,
    remote: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Describe a scene and the cost of predicting on it.

    Shows the properties of the file, the resolution it is read at, and the windows, time and memory of a prediction.

    Examples:
        rsp info scene.tif
        rsp info scene.tif --model my-model --json
    """
    with show_progress("opening the scene"):
        from rsprompter_cli.predict.options import Reading
        from rsprompter_cli.predict.plan import scene_info

        reading = Reading(
            gsd=gsd,
            native=native,
            bands=parse_bands(bands),
            scale=scale,
            page=page,
            scene_crs=scene_crs,
            nodata=nodata,
            overlap=overlap,
            max_block=max_block << 20,
            max_windows=max_windows,
            allow_vrt=allow_vrt,
            remote=remote,
        )
        info = scene_info(scene, reading, model=model)
    if as_json:
        print_json(info.as_dict())
    else:
        print_table(["property", "value"], info.rows())
