"""Ordinary single files of one width, for tools that know nothing of widths."""

from slimmable.export.standalone.formats import FORMATS, Format, FormatName
from slimmable.export.standalone.tensors import load_tensors
from slimmable.export.standalone.writing import write

__all__ = ["FORMATS", "Format", "FormatName", "load_tensors", "write"]
