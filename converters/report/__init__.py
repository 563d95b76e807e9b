"""What a conversion found, for people and for machines."""

from converters.report.figures import as_json, summary
from converters.report.files import write_reports

__all__ = ["as_json", "summary", "write_reports"]
