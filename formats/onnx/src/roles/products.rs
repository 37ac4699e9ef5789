//! Operations that multiply data by a weight: MatMul, Gemm, Einsum, convolutions.

use compress_core::class::{Kind, Order};
use compress_core::tensor::TensorId;

use super::facts::Facts;
use super::flow::{Flow, FlowNode, ValueId};
use super::trace::Tracer;

/// Matrices of a batched product that are listed one by one; more are one part.
const BATCH: u64 = 4096;

/// A product of data with a weight.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    /// The operation.
    pub(crate) node: usize,
    /// The weight, or what is made of it.
    pub(crate) weight: ValueId,
    /// What it is multiplied with.
    pub(crate) data: ValueId,
    /// The result.
    pub(crate) out: ValueId,
    /// What each of the weight's dimensions is.
    form: Form,
    /// Whether it is a convolution.
    pub(crate) is_conv: bool,
    groups: u64,
}

/// How a weight of rows (outputs) × cols (inputs) is indexed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Form {
    /// […, inputs, outputs].
    InOut,
    /// […, outputs, inputs].
    OutIn,
    /// The first dimension is the rows, all others the columns.
    FirstOut,
    /// The first `n` dimensions are the inputs, the others the outputs.
    FirstIn(usize),
    /// The first `n` dimensions are the outputs, the others the inputs.
    LastIn(usize),
    /// Unknown.
    Any,
}

/// A part of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) tensor: TensorId,
    pub(crate) offset: u64,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    pub(crate) order: Order,
    pub(crate) kind: Kind,
    pub(crate) groups: u64,
}

impl Product {
    /// The product that an operation is, if it is one.
    pub(crate) fn of(flow: &Flow<'_>, facts: &Facts, n: usize) -> Option<Product> {
        let node = &flow.nodes[n];
        let (a, b) = (node.input(0)?, node.input(1)?);
        let out = *node.outputs.first()?;
        let product = |weight, data, form| Product { node: n, weight, data, out, form, is_conv: false, groups: 1 };
        let (a_fixed, b_fixed) = (facts.constant[a], facts.constant[b]);
        if a_fixed == b_fixed {
            return None;
        }
        let flag = |name| node.node.int(name).unwrap_or(0) != 0;
        Some(match node.op() {
            "MatMul" | "Gemm" | "FusedMatMul" | "FusedGemm" | "TransposeMatMul" | "GemmFastGelu" if b_fixed => {
                product(b, a, if flag("transB") { Form::OutIn } else { Form::InOut })
            }
            "MatMul" | "Gemm" | "FusedMatMul" | "FusedGemm" | "TransposeMatMul" => {
                product(a, b, if flag("transA") { Form::InOut } else { Form::OutIn })
            }
            "Attention" | "PackedAttention" if b_fixed && node.node.domain == "com.microsoft" => {
                product(b, a, Form::InOut)
            }
            "Einsum" if node.inputs.len() == 2 => {
                let (weight, data) = if b_fixed { (b, a) } else { (a, b) };
                product(weight, data, einsum(node, b_fixed).unwrap_or(Form::Any))
            }
            "Conv" | "FusedConv" | "NhwcConv" | "ConvTranspose" if b_fixed => {
                let groups = node.node.int("group").and_then(|g| u64::try_from(g).ok()).filter(|g| *g > 0).unwrap_or(1);
                Product { is_conv: true, groups, ..product(b, a, Form::FirstOut) }
            }
            _ => return None,
        })
    }

    /// The parts of the file that the weight is; none where that cannot be told.
    pub(crate) fn places(&self, tracer: &Tracer<'_, '_>) -> Vec<Place> {
        self.try_places(tracer).unwrap_or_default()
    }

    fn try_places(&self, tracer: &Tracer<'_, '_>) -> Option<Vec<Place>> {
        let shape = tracer.shape(self.weight).filter(|s| !s.contains(&0))?;
        let kind = if self.is_conv { Kind::Conv } else { Kind::Linear };
        let one = |rows, cols, at: &dyn Fn(u64, u64) -> Vec<u64>| {
            let block = tracer.block(self.weight, rows, cols, at)?;
            let (tensor, offset, order) = (block.tensor, block.offset, block.order);
            let groups = if rows % self.groups == 0 { self.groups } else { 1 };
            Some(Place { tensor, offset, rows, cols, order, kind, groups })
        };
        let joined = |dims: &[u64]| dims.iter().product::<u64>();
        match self.form {
            Form::InOut | Form::OutIn if shape.len() >= 2 => {
                let (batch, matrix) = shape.split_at(shape.len() - 2);
                let matrices = Some(joined(batch)).filter(|b| *b <= BATCH)?;
                let transposed = self.form == Form::InOut;
                let (rows, cols) = if transposed { (matrix[1], matrix[0]) } else { (matrix[0], matrix[1]) };
                (0..matrices)
                    .map(|b| {
                        one(rows, cols, &|r, c| {
                            let mut index = unflat(batch, b);
                            index.extend(if transposed { [c, r] } else { [r, c] });
                            index
                        })
                    })
                    .collect()
            }
            Form::FirstOut if shape.len() >= 2 => self.split_at(&shape, 1, false, &one),
            Form::FirstIn(n) if n > 0 && n < shape.len() => self.split_at(&shape, n, true, &one),
            Form::LastIn(n) if n > 0 && n < shape.len() => self.split_at(&shape, n, false, &one),
            _ => None,
        }
    }

    /// One matrix: the first `n` dimensions on one side, the others on the other.
    #[allow(clippy::type_complexity)]
    fn split_at(
        &self,
        shape: &[u64],
        n: usize,
        inputs_first: bool,
        one: &dyn Fn(u64, u64, &dyn Fn(u64, u64) -> Vec<u64>) -> Option<Place>,
    ) -> Option<Vec<Place>> {
        let (first, rest) = shape.split_at(n);
        let (a, b) = (first.iter().product(), rest.iter().product());
        let (rows, cols) = if inputs_first { (b, a) } else { (a, b) };
        let place = one(rows, cols, &|r, c| {
            let (i, j) = if inputs_first { (c, r) } else { (r, c) };
            let mut index = unflat(first, i);
            index.extend(unflat(rest, j));
            index
        })?;
        Some(vec![place])
    }
}

/// Which of the weight's dimensions an Einsum sums over, where they come first or last.
fn einsum(node: &FlowNode<'_>, weight_is_second: bool) -> Option<Form> {
    let equation: String = node.node.string("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = equation.split_once("->")?;
    let (a, b) = inputs.split_once(',')?;
    let weight: Vec<char> = if weight_is_second { b } else { a }.chars().collect();
    if weight.contains(&'.') {
        return None;
    }
    let summed: Vec<bool> = weight.iter().map(|c| !output.contains(*c)).collect();
    let first = summed.iter().take_while(|s| **s).count();
    let last = summed.iter().rev().take_while(|s| **s).count();
    let count = summed.iter().filter(|s| **s).count();
    if first == count && first > 0 {
        Some(Form::FirstIn(first))
    } else if last == count && last > 0 {
        Some(Form::LastIn(weight.len() - last))
    } else {
        None
    }
}

fn unflat(shape: &[u64], mut position: u64) -> Vec<u64> {
    let mut index = vec![0; shape.len()];
    for (i, d) in index.iter_mut().zip(shape).rev() {
        *i = position % d.max(&1);
        position /= d.max(&1);
    }
    index
}
