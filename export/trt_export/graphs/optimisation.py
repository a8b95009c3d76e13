"""Simplifying an exported graph: constants folded, rewrites that shorten it, nodes that nobody reads removed."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import RewriteRule
from onnxscript.rewriter.rules import common

ROUNDS = 2
"""Times that folding and rewriting follow each other, at most: each makes work for the other."""

RULES: Sequence[RewriteRule] = (
    common.mul_by_1_rule,
    common.add_0_rule,
    common.sub_0_rule,
    common.div_by_1_rule,
    common.dropout_zero_rule,
    common.dropout_inference_rule,
    common.two_reshapes_matmul_reshape_rule,
    common.one_reshape_matmul_reshape_rule,
    common.cast_constant_of_shape_rule,
    common.cast_constant_of_shape_without_value_rule,
    common.collapse_slice_rule,
    common.collapse_slice2_rule,
    common.materialize_reshape_shape_rule,
    common.cast_cast_rule,
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.flatten_to_reshape_rule,
    common.reshape_reshape_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.unsqueeze_unsqueeze_rule,
    common.squeeze_reshape_1d_rule,
    common.no_op_dynamic_scatter_nd_rule,
    common.no_op_static_scatter_nd_rule,
    common.normalize_pad_format_conv_rule,
    common.fuse_pad_into_conv_rule,
)
"""The rules of onnxscript's own default set that concern what networks are made of, in its order.

Left out on purpose: `slice_split_rule`, which has two outputs and is therefore tried on all pairs of a graph's nodes
(SDXL's denoiser: 314 of 330 s of optimising; no graph of ours has what it looks for), and the fusions of batch
normalisation and bias, which want the values of weights: here weights have none.
"""


def optimise(model: ir.Model) -> None:
    """Simplify a graph in place. What it computes stays the same; values that have no data are left as they are."""
    passes.InlinePass()(model)
    for _ in range(ROUNDS):
        folded = optimizer.fold_constants_ir(model, onnx_shape_inference=True).modified
        rewritten = rewriter.RewritePass(RULES)(model).modified
        passes.RemoveUnusedNodesPass()(model)
        if not folded and not rewritten:
            break
    ir.passes.Sequential(
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)
