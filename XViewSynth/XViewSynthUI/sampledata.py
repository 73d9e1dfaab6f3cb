"""Register the bundled scans in Slicer's Sample Data module."""

import logging
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parents[1]
SAMPLE_CATEGORY = "XViewSynth"
# Name, file below Resources/SampleData, SHA-256.
SAMPLES = (
    (
        "ChestCTThick",
        "ChestCTThick.nrrd",
        "a0e18af7fb0b91588c334b09958475978f6c4eb9221a97d4f34dc0b637385b76",
    ),
    (
        "ChestCTThin",
        "ChestCT.nrrd",
        "432b8d77c7179d7c4d738cfba6c48e43005faa7b152401d633655613d28b2db9",
    ),
)


def registerSampleData():
    """Register the bundled scans in the Sample Data module; they need no network."""
    import SampleData

    folder = sampleDataFolder()
    if folder is None:
        logging.warning("XViewSynth was installed without its sample data.")
        return
    for name, fileName, checksum in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=SAMPLE_CATEGORY,
            sampleName=name,
            thumbnailFileName=str(MODULE_FOLDER / "Resources" / "Icons" / f"{name}.png"),
            uris=(folder / fileName).as_uri(),
            fileNames=fileName,
            checksums=f"SHA256:{checksum}",
            nodeNames=name,
        )


def sampleDataFolder():
    """Folder of the bundled scans: above the module in the repository, beside it when installed; None without one."""
    places = [folder / "Resources" / "SampleData" for folder in (MODULE_FOLDER.parent, MODULE_FOLDER)]
    return next((place for place in places if place.is_dir()), None)
