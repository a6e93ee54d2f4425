"""An approximator on its way out of Python, and back: one module a route."""

from rnn2ff.export.archive import load as load
from rnn2ff.export.archive import save as save
from rnn2ff.export.c import Footprint as Footprint
from rnn2ff.export.c import footprint as footprint
from rnn2ff.export.c import to_c as to_c
from rnn2ff.export.card import model_card as model_card
from rnn2ff.export.fixed_point import IntegerModel as IntegerModel
from rnn2ff.export.fixed_point import quantize as quantize
from rnn2ff.export.nir import write_nir as write_nir
from rnn2ff.export.onnx import quantize_onnx as quantize_onnx
from rnn2ff.export.onnx import run_onnx as run_onnx
from rnn2ff.export.onnx import to_onnx as to_onnx
from rnn2ff.export.page import Scene as Scene
from rnn2ff.export.page import write_page as write_page
from rnn2ff.export.stablehlo import load_stablehlo as load_stablehlo
from rnn2ff.export.stablehlo import to_stablehlo as to_stablehlo
from rnn2ff.export.torch import to_torch_state_dict as to_torch_state_dict
from rnn2ff.export.torch import write_torch as write_torch
