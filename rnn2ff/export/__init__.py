"""File formats for trained approximators, written and read: one module each."""

from rnn2ff.export.archive import load, save
from rnn2ff.export.bound import bound_to_c
from rnn2ff.export.c import Footprint, check_name, footprint, to_c
from rnn2ff.export.card import familiarity, model_card
from rnn2ff.export.exported import Exported, read_exported
from rnn2ff.export.fixed_point import IntegerModel, quantize
from rnn2ff.export.matlab import write_mat
from rnn2ff.export.nir import write_nir
from rnn2ff.export.onnx import named_onnx, quantize_onnx, run_onnx, to_onnx
from rnn2ff.export.page import Scene, write_page
from rnn2ff.export.plain import dtype_of
from rnn2ff.export.report import write_evaluation, write_report
from rnn2ff.export.stablehlo import load_stablehlo, to_stablehlo
from rnn2ff.export.torch import to_torch_state_dict, write_torch

__all__ = [
    "Exported",
    "Footprint",
    "IntegerModel",
    "Scene",
    "bound_to_c",
    "check_name",
    "dtype_of",
    "familiarity",
    "footprint",
    "load",
    "load_stablehlo",
    "model_card",
    "named_onnx",
    "quantize",
    "quantize_onnx",
    "read_exported",
    "run_onnx",
    "save",
    "to_c",
    "to_onnx",
    "to_stablehlo",
    "to_torch_state_dict",
    "write_evaluation",
    "write_mat",
    "write_nir",
    "write_page",
    "write_report",
    "write_torch",
]
