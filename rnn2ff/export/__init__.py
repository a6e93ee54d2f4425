"""An approximator on its way out of Python, and back: one module a route."""

from rnn2ff.export.archive import load as load
from rnn2ff.export.archive import save as save
from rnn2ff.export.onnx import quantize_onnx as quantize_onnx
from rnn2ff.export.onnx import run_onnx as run_onnx
from rnn2ff.export.onnx import to_onnx as to_onnx
from rnn2ff.export.c import footprint, to_c
from rnn2ff.export.fixed_point import quantize
