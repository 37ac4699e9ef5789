//! Follows single elements of a constant expression back to the tensor of the file that holds them.
//!
//! Exporters slice, reorder, join, transpose and reshape weights at run time. Where an element comes from is asked at
//! a few places of a block, and the block's place in the file is what fits the answers ([`Tracer::block`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use compress_core::class::Order;
use compress_core::tensor::TensorId;

use super::flow::{Flow, FlowNode, ValueId};
use crate::list::List;
use crate::model::{Attribute, TensorRef, count_elements};

/// The longest chain of operations that is followed.
const STEPS: usize = 256;
/// Elements that are located in all: more than any honest model asks for.
const BUDGET: u64 = 20_000_000;
/// The longest list of integers that is put together.
const CONCAT: usize = 4096;
/// Places along each side of a block that are asked for.
const PROBES: u64 = 32;

/// A rectangular block of a tensor of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) tensor: TensorId,
    pub(crate) offset: u64,
    pub(crate) order: Order,
}

/// Answers where elements come from.
pub(crate) struct Tracer<'f, 'm> {
    flow: &'f Flow<'m>,
    list: &'f List,
    tensors: &'f [Option<&'m TensorRef>],
    shapes: RefCell<HashMap<ValueId, Option<Vec<u64>>>>,
    integers: RefCell<HashMap<ValueId, Option<Vec<i64>>>>,
    /// How deep the questions stand within each other: shapes may depend on integers, and these on shapes.
    depth: Cell<usize>,
    /// Elements that may still be located.
    budget: Cell<u64>,
}

/// What an operation does to indices.
enum Step {
    /// The element is that of another value.
    To(ValueId, Vec<u64>),
    /// Unknown.
    Lost,
}

impl<'f, 'm> Tracer<'f, 'm> {
    /// `tensors` are the tensors of the list that can be read.
    pub(crate) fn new(flow: &'f Flow<'m>, list: &'f List, tensors: &'f [Option<&'m TensorRef>]) -> Self {
        let (shapes, integers) = Default::default();
        Tracer { flow, list, tensors, shapes, integers, depth: Cell::new(0), budget: Cell::new(BUDGET) }
    }

    /// Asks a question unless too many stand open.
    fn ask<T>(&self, question: impl FnOnce() -> Option<T>) -> Option<T> {
        self.depth.set(self.depth.get() + 1);
        let answer = if self.depth.get() > STEPS { None } else { question() };
        self.depth.set(self.depth.get() - 1);
        answer
    }

    /// The shape of a constant expression.
    pub(crate) fn shape(&self, value: ValueId) -> Option<Vec<u64>> {
        if let Some(tensor) = self.flow.values[value].tensor {
            return Some(self.list.infos[tensor].shape.clone());
        }
        if let Some(known) = self.shapes.borrow().get(&value) {
            return known.clone();
        }
        let node = self.flow.producer(value)?;
        let shape = self.ask(|| self.shape_of(value, node)).filter(|s| count_elements(s).is_some());
        self.shapes.borrow_mut().insert(value, shape.clone());
        shape
    }

    fn shape_of(&self, value: ValueId, node: &FlowNode<'m>) -> Option<Vec<u64>> {
        let data = self.shape(node.input(0)?);
        match node.op() {
            "Identity" | "Cast" | "CastLike" | "Dropout" | "QuantizeLinear" | "DequantizeLinear" => data,
            "Mul" | "Div" | "Add" | "Sub" => broadcast(&data?, &self.shape(node.input(1)?)?),
            "Transpose" => {
                let data = data?;
                permutation(node, data.len())?.iter().map(|axis| data.get(*axis).copied()).collect()
            }
            "Unsqueeze" => {
                let (data, axes) = (data?, self.axes(node)?);
                let rank = data.len() + axes.len();
                let axes: Vec<usize> = axes.iter().map(|a| axis(*a, rank)).collect::<Option<_>>()?;
                let mut rest = data.into_iter();
                (0..rank).map(|i| if axes.contains(&i) { Some(1) } else { rest.next() }).collect()
            }
            "Squeeze" => {
                let data = data?;
                let removed = self.squeezed(node, &data)?;
                Some((0..data.len()).filter(|i| !removed.contains(i)).map(|i| data[i]).collect())
            }
            "Reshape" => self.reshaped(node, &data?),
            "Flatten" => {
                let data = data?;
                let at = match node.node.int("axis").unwrap_or(1) {
                    a if a == data.len() as i64 => data.len(),
                    a => axis(a, data.len())?,
                };
                Some(vec![data[..at].iter().product(), data[at..].iter().product()])
            }
            "Slice" => {
                let mut data = data?;
                for (axis, start, end, step) in self.slices(node, &data)? {
                    data[axis] = if step > 0 { (end - start).max(0) as u64 } else { (start - end).max(0) as u64 };
                    data[axis] = data[axis].div_ceil(step.unsigned_abs());
                }
                Some(data)
            }
            "Split" => {
                let mut data = data?;
                let (axis, _, size) = self.split(node, &data, self.flow.values[value].output)?;
                data[axis] = size;
                Some(data)
            }
            "Concat" => {
                let mut first = data?;
                let at = axis(node.node.int("axis")?, first.len())?;
                first[at] = 0;
                for input in &node.inputs {
                    first[at] = first[at].checked_add(*self.shape((*input)?)?.get(at)?)?;
                }
                Some(first)
            }
            "Gather" => {
                let data = data?;
                let at = axis(node.node.int("axis").unwrap_or(0), data.len())?;
                let indices = self.shape(node.input(1)?)?;
                Some([&data[..at], &indices, &data[at + 1..]].concat())
            }
            _ => None,
        }
    }

    /// Where one element of a constant expression lies: tensor and flat index.
    pub(crate) fn locate(&self, value: ValueId, index: Vec<u64>) -> Option<(TensorId, u64)> {
        let (mut value, mut index) = (value, index);
        self.budget.set(self.budget.get().checked_sub(1)?);
        for _ in 0..STEPS {
            if let Some(tensor) = self.flow.values[value].tensor {
                return Some((tensor, flat(&self.list.infos[tensor].shape, &index)?));
            }
            match self.step(value, self.flow.producer(value)?, index)? {
                Step::To(v, i) => (value, index) = (v, i),
                Step::Lost => return None,
            }
        }
        None
    }

    fn step(&self, value: ValueId, node: &FlowNode<'m>, mut index: Vec<u64>) -> Option<Step> {
        let from = node.input(0)?;
        Some(match node.op() {
            "Identity" | "Cast" | "CastLike" | "Dropout" | "QuantizeLinear" | "DequantizeLinear" => {
                Step::To(from, index)
            }
            "Mul" | "Div" | "Add" | "Sub" => {
                // The operand of the result's own shape is the weight; of two such, the one that is not a mask.
                let whole = self.shape(value)?;
                let same = |v: &ValueId| self.shape(*v).is_some_and(|s| s == whole);
                let is_mask = |v: &ValueId| self.flow.values[*v].name.ends_with("_mask");
                let mut operands = [from, node.input(1)?].into_iter().filter(same).collect::<Vec<_>>();
                operands.sort_by_key(is_mask);
                Step::To(*operands.first()?, index)
            }
            "Transpose" => {
                let order = permutation(node, index.len())?;
                let mut back = vec![0; index.len()];
                for (to, from) in order.iter().enumerate() {
                    *back.get_mut(*from)? = index[to];
                }
                Step::To(from, back)
            }
            "Unsqueeze" => {
                let axes: Vec<_> = self.axes(node)?.iter().map(|a| axis(*a, index.len())).collect::<Option<_>>()?;
                let kept = (0..index.len()).filter(|i| !axes.contains(i)).map(|i| index[i]).collect();
                Step::To(from, kept)
            }
            "Squeeze" => {
                let shape = self.shape(from)?;
                let removed = self.squeezed(node, &shape)?;
                let mut rest = index.into_iter();
                let full = (0..shape.len()).map(|i| if removed.contains(&i) { Some(0) } else { rest.next() });
                Step::To(from, full.collect::<Option<_>>()?)
            }
            "Reshape" | "Flatten" => {
                let position = flat(&self.shape(value)?, &index)?;
                Step::To(from, unflat(&self.shape(from)?, position)?)
            }
            "Slice" => {
                for (axis, start, _, step) in self.slices(node, &self.shape(from)?)? {
                    let at = step.checked_mul(index[axis] as i64)?.checked_add(start)?;
                    index[axis] = u64::try_from(at).ok()?;
                }
                Step::To(from, index)
            }
            "Split" => {
                let (axis, start, _) = self.split(node, &self.shape(from)?, self.flow.values[value].output)?;
                index[axis] = index[axis].checked_add(start)?;
                Step::To(from, index)
            }
            "Concat" => {
                let at = axis(node.node.int("axis")?, index.len())?;
                for input in &node.inputs {
                    let bytes = *self.shape((*input)?)?.get(at)?;
                    if index[at] < bytes {
                        return Some(Step::To((*input)?, index));
                    }
                    index[at] -= bytes;
                }
                Step::Lost
            }
            "Gather" => {
                let data = self.shape(from)?;
                let at = axis(node.node.int("axis").unwrap_or(0), data.len())?;
                let (shape, indices) = (self.shape(node.input(1)?)?, self.ints(node.input(1)?)?);
                let which = flat(&shape, index.get(at..at + shape.len())?)?;
                let chosen = *indices.get(which as usize)?;
                let chosen = if chosen < 0 { chosen + data[at] as i64 } else { chosen };
                let chosen = u64::try_from(chosen).ok()?;
                Step::To(from, [&index[..at], &[chosen], &index[at + shape.len()..]].concat())
            }
            _ => Step::Lost,
        })
    }

    /// The block of the file that holds the elements `at(row, column)` of a value, if they lie in one block.
    pub(crate) fn block(
        &self,
        value: ValueId,
        rows: u64,
        cols: u64,
        at: impl Fn(u64, u64) -> Vec<u64>,
    ) -> Option<Block> {
        let place = |r, c| self.locate(value, at(r, c));
        let (tensor, offset) = place(0, 0)?;
        let step = |other: Option<(TensorId, u64)>| other.map(|(_, i)| i.wrapping_sub(offset));
        let down = if rows > 1 { step(place(1, 0)) } else { None };
        let right = if cols > 1 { step(place(0, 1)) } else { None };
        let order = if right.is_none_or(|s| s == 1) && down.is_none_or(|s| s == cols) {
            Order::RowMajor
        } else if down.is_none_or(|s| s == 1) && right.is_none_or(|s| s == rows) {
            Order::ColumnMajor
        } else {
            return None;
        };
        let expected = |r: u64, c: u64| match order {
            Order::RowMajor => (tensor, offset + r * cols + c),
            Order::ColumnMajor => (tensor, offset + c * rows + r),
        };
        let fits = |r, c| place(r, c) == Some(expected(r, c));
        let along = |n: u64| (0..=PROBES).map(move |i| (u128::from(n - 1) * u128::from(i) / u128::from(PROBES)) as u64);
        let edges = along(rows).all(|r| fits(r, 0) && fits(r, cols - 1));
        (edges && along(cols).all(|c| fits(0, c) && fits(rows - 1, c))).then_some(Block { tensor, offset, order })
    }

    /// Integers that are known: shapes, axes, indices.
    pub(crate) fn ints(&self, value: ValueId) -> Option<Vec<i64>> {
        if let Some(known) = self.integers.borrow().get(&value) {
            return known.clone();
        }
        let ints = match self.flow.values[value].tensor {
            Some(tensor) => self.tensors[tensor]?.read_i64s().ok()?,
            None => self.ask(|| self.ints_of(self.flow.producer(value)?)),
        };
        self.integers.borrow_mut().insert(value, ints.clone());
        ints
    }

    fn ints_of(&self, node: &FlowNode<'m>) -> Option<Vec<i64>> {
        let input = |i| node.input(i).and_then(|v| self.ints(v));
        match node.op() {
            "Constant" => match node.node.attributes.first()? {
                (_, Attribute::Int(i)) => Some(vec![*i]),
                (_, Attribute::Ints(i)) => Some(i.clone()),
                _ => None,
            },
            "Identity" | "Cast" | "Unsqueeze" | "Squeeze" | "Reshape" => input(0),
            "Concat" => {
                let mut all = Vec::new();
                for i in 0..node.inputs.len() {
                    all.extend(input(i)?);
                    if all.len() > CONCAT {
                        return None;
                    }
                }
                Some(all)
            }
            "Shape" => Some(self.shape(node.input(0)?)?.iter().map(|d| *d as i64).collect()),
            _ => None,
        }
    }

    /// Axes of Squeeze and Unsqueeze: an attribute before opset 13, then an input.
    fn axes(&self, node: &FlowNode<'m>) -> Option<Vec<i64>> {
        match node.node.ints("axes") {
            Some(axes) => Some(axes.to_vec()),
            None => self.ints(node.input(1)?),
        }
    }

    fn squeezed(&self, node: &FlowNode<'m>, shape: &[u64]) -> Option<Vec<usize>> {
        if node.node.ints("axes").is_none() && node.input(1).is_none() {
            return Some((0..shape.len()).filter(|i| shape[*i] == 1).collect());
        }
        self.axes(node)?.iter().map(|a| axis(*a, shape.len())).collect()
    }

    fn reshaped(&self, node: &FlowNode<'m>, data: &[u64]) -> Option<Vec<u64>> {
        let wanted = match node.node.ints("shape") {
            Some(shape) => shape.to_vec(),
            None => self.ints(node.input(1)?)?,
        };
        let total: u64 = data.iter().product();
        let copy_zero = node.node.int("allowzero").unwrap_or(0) == 0;
        let mut shape: Vec<u64> = Vec::with_capacity(wanted.len());
        for (i, d) in wanted.iter().enumerate() {
            shape.push(match *d {
                0 if copy_zero => *data.get(i)?,
                -1 => 1,
                d => u64::try_from(d).ok()?,
            });
        }
        let known = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        if let Some(open) = wanted.iter().position(|d| *d == -1) {
            shape[open] = total.checked_div(known)?;
        }
        (shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))? == total).then_some(shape)
    }

    /// Axis, start, end, step of each sliced axis: attributes before opset 10, then inputs.
    fn slices(&self, node: &FlowNode<'m>, shape: &[u64]) -> Option<Vec<(usize, i64, i64, i64)>> {
        let get = |name: &str, i: usize| match node.node.ints(name) {
            Some(list) => Some(list.to_vec()),
            None => self.ints(node.input(i)?),
        };
        let (starts, ends) = (get("starts", 1)?, get("ends", 2)?);
        let given = node.node.ints("axes").is_some() || node.input(3).is_some();
        let axes = if given { get("axes", 3)? } else { (0..starts.len() as i64).collect() };
        let steps = if node.input(4).is_some() { get("steps", 4)? } else { vec![1; starts.len()] };
        let mut out = Vec::new();
        for (i, a) in axes.iter().enumerate() {
            let at = axis(*a, shape.len())?;
            let (size, step) = (shape[at] as i64, *steps.get(i)?);
            if size == 0 {
                return None;
            }
            let clamp = |v: i64, low: i64, high: i64| (if v < 0 { v.saturating_add(size) } else { v }).clamp(low, high);
            let (start, end) = match step {
                1.. => (clamp(*starts.get(i)?, 0, size), clamp(*ends.get(i)?, 0, size)),
                0 => return None,
                _ => (clamp(*starts.get(i)?, 0, size - 1), clamp(*ends.get(i)?, -1, size - 1)),
            };
            out.push((at, start, end, step));
        }
        Some(out)
    }

    /// Axis, start and size of one output of Split.
    fn split(&self, node: &FlowNode<'m>, shape: &[u64], output: usize) -> Option<(usize, u64, u64)> {
        let at = axis(node.node.int("axis").unwrap_or(0), shape.len())?;
        let sizes = match node.node.ints("split") {
            Some(sizes) => Some(sizes.to_vec()),
            None => node.input(1).and_then(|v| self.ints(v)),
        };
        let Some(sizes) = sizes else {
            if node.input(1).is_some() {
                return None;
            }
            let size = shape[at].div_ceil(node.outputs.len().max(1) as u64);
            let start = size * output as u64;
            return Some((at, start, size.min(shape[at].checked_sub(start)?)));
        };
        let start = sizes.iter().take(output).try_fold(0i64, |n, s| n.checked_add(*s))?;
        Some((at, u64::try_from(start).ok()?, u64::try_from(*sizes.get(output)?).ok()?))
    }
}

fn axis(a: i64, rank: usize) -> Option<usize> {
    let a = if a < 0 { a.checked_add(rank as i64)? } else { a };
    usize::try_from(a).ok().filter(|a| *a < rank)
}

fn permutation(node: &FlowNode<'_>, rank: usize) -> Option<Vec<usize>> {
    match node.node.ints("perm") {
        Some(perm) if perm.len() == rank => perm.iter().map(|a| axis(*a, rank)).collect(),
        Some(_) => None,
        None => Some((0..rank).rev().collect()),
    }
}

fn broadcast(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let rank = a.len().max(b.len());
    let dim = |s: &[u64], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

fn flat(shape: &[u64], index: &[u64]) -> Option<u64> {
    if shape.len() != index.len() || index.iter().zip(shape).any(|(i, d)| i >= d) {
        return None;
    }
    Some(index.iter().zip(shape).fold(0, |n, (i, d)| n * d + i))
}

fn unflat(shape: &[u64], mut position: u64) -> Option<Vec<u64>> {
    let mut index = vec![0; shape.len()];
    for (i, d) in index.iter_mut().zip(shape).rev() {
        *i = position.checked_rem(*d)?;
        position /= d;
    }
    (position == 0).then_some(index)
}
