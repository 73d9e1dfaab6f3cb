"""Names of files in a run folder. Imports nothing, so that a panel can show runs without PyTorch."""

#: The settings. A folder with this file is a run.
CONFIG_FILE = "config.json"
#: The paths of the scans: the only file that may name a patient.
SCANS_FILE = "scans.json"
LOG_FILE = "log.jsonl"
#: Exists while a process trains, and after one was killed.
LOCK_FILE = "run.lock"
CHECKPOINT_FILE = "checkpoint.safetensors"
PREVIEW_FOLDER = "preview"
MODEL_FOLDER = "model"
#: Written at the end: a run with these files is finished.
REPORT_FILE, REPORT_PAGE = "report.json", "report.html"
