"""What lies where in a run folder. Imports nothing, so that a desktop may look at runs without PyTorch."""

#: The settings; where they are, there is a run.
CONFIG_FILE = "config.json"
#: The paths of the scans: the only file that may name a patient.
SCANS_FILE = "scans.json"
LOG_FILE = "log.jsonl"
#: There while a process trains, and left by one that was killed.
LOCK_FILE = "run.lock"
CHECKPOINT_FILE = "checkpoint.safetensors"
PREVIEW_FOLDER = "preview"
MODEL_FOLDER = "model"
#: Written at the end: where they are, the run is finished.
REPORT_FILE, REPORT_PAGE = "report.json", "report.html"
