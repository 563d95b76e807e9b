"""What a conversion found, for people and for machines."""

from converters.report.files import write_reports
from converters.report.figures import as_json, summary

__all__ = ["as_json", "summary", "write_reports"]
