//! LSTM, GRU and RNN: the directions, layouts and initial states around the kernels of one direction.

use std::sync::Arc;

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::activation::Activation;
use crate::kernels::lstm::{Gradients, Upstream};
use crate::kernels::sequence::Sequence;
use crate::kernels::view::{View, read};
use crate::kernels::{gru, lstm, rnn};
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run};
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

/// What one direction computes.
#[derive(Clone, Debug)]
enum Cell {
    Lstm(lstm::Cell),
    Gru(gru::Cell),
    Rnn(Activation, Option<f64>),
}

impl Cell {
    /// Gates that W, R and B hold.
    fn gates(&self) -> usize {
        match self {
            Cell::Lstm(_) => 4,
            Cell::Gru(_) => 3,
            Cell::Rnn(..) => 1,
        }
    }
}

/// The attributes of a recurrent node.
#[derive(Debug)]
struct Layer {
    /// One a direction.
    cells: Vec<Cell>,
    /// Which of them run backwards.
    reverse: Vec<bool>,
    hidden: Option<usize>,
    /// [batch, time, ·] instead of [time, batch, ·].
    batch_first: bool,
}

/// Input numbers.
const X: usize = 0;
const W: usize = 1;
const R_: usize = 2;
const B: usize = 3;
const LENGTHS: usize = 4;
const H0: usize = 5;
const C0: usize = 6;
const P: usize = 7;

fn layer<R: Real>(a: &Attributes<R>) -> Result<Layer> {
    let direction = a.word("direction", "forward", &["forward", "reverse", "bidirectional"])?;
    let reverse = match direction.as_str() {
        "forward" => vec![false],
        "reverse" => vec![true],
        _ => vec![false, true],
    };
    let defaults: &[&str] = match a.op() {
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    let names = match a.words("activations")? {
        Some(list) => list,
        None => defaults.iter().cycle().take(defaults.len() * reverse.len()).map(|s| s.to_string()).collect(),
    };
    if names.len() != defaults.len() * reverse.len() {
        return Err(Error::failed(format!("{} activations for {} directions", names.len(), reverse.len())));
    }
    let mut alphas = a.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = a.floats("activation_beta")?.unwrap_or_default().into_iter();
    let all = names.iter().map(|n| Activation::parse(n, &mut alphas, &mut betas)).collect::<Result<Vec<_>>>()?;
    let clip = a.float("clip")?;
    let coupled = a.op() == "LSTM" && a.int_or("input_forget", 0)? != 0;
    let linear_before_reset = a.op() == "GRU" && a.int_or("linear_before_reset", 0)? != 0;
    let cells = all.chunks(defaults.len()).map(|c| match *c {
        [f, g, h] => Cell::Lstm(lstm::Cell { activations: [f, g, h], clip, coupled }),
        [f, g] => Cell::Gru(gru::Cell { activations: [f, g], clip, linear_before_reset }),
        _ => Cell::Rnn(c[0], clip),
    });
    Ok(Layer {
        cells: cells.collect(),
        reverse,
        hidden: a.int("hidden_size")?.map(|h| h.max(0) as usize),
        batch_first: a.int_or("layout", 0)? != 0,
    })
}

/// The inputs of a node, checked and time-major.
struct Bound<R: Real> {
    inputs: Vec<Option<Tensor<R>>>,
    sequences: Vec<Sequence>,
    width: usize,
}

/// First two dimensions swapped.
fn swapped<R: Real>(t: &Tensor<R>) -> Tensor<R> {
    let mut view = View::of(t.shape());
    view.shape.swap(0, 1);
    view.strides.swap(0, 1);
    let mut out = Buf::stale(t.len());
    read(&view, t.data(), &mut out);
    Tensor::new(view.shape, out)
}

fn bind<R: Real>(layer: &Layer, inputs: &Inputs<R>) -> Result<Bound<R>> {
    let mut list: Vec<Option<Tensor<R>>> = Vec::new();
    for i in 0..8 {
        list.push(if i == LENGTHS { None } else { inputs.float_if(i)?.cloned() });
    }
    if layer.batch_first {
        for i in [X, H0, C0] {
            list[i] = list[i].as_ref().map(swapped);
        }
    }
    let x = list[X].as_ref().ok_or_else(|| Error::failed("input 0 is missing"))?;
    let r = list[R_].as_ref().ok_or_else(|| Error::failed("input 2 is missing"))?;
    let &[time, batch, width] = x.shape() else {
        return Err(Error::failed(format!(
            "the input has shape {}, three dimensions are needed",
            shape_text(x.shape())
        )));
    };
    let hidden = layer.hidden.unwrap_or(r.shape().last().copied().unwrap_or(0));
    let (d, g) = (layer.cells.len(), layer.cells[0].gates());
    let expected: [(usize, &str, Vec<usize>); 6] = [
        (W, "W", vec![d, g * hidden, width]),
        (R_, "R", vec![d, g * hidden, hidden]),
        (B, "B", vec![d, 2 * g * hidden]),
        (H0, "initial_h", vec![d, batch, hidden]),
        (C0, "initial_c", vec![d, batch, hidden]),
        (P, "P", vec![d, 3 * hidden]),
    ];
    for (i, name, shape) in expected {
        if let Some(t) = &list[i]
            && t.shape() != shape
        {
            return Err(Error::failed(format!(
                "{name} has shape {}, expected {}",
                shape_text(t.shape()),
                shape_text(&shape)
            )));
        }
    }
    let lengths = match inputs.ints_if(LENGTHS)? {
        None => None,
        Some(l) if l.len() == batch && l.iter().all(|n| (0..=time as i64).contains(n)) => {
            Some(l.iter().map(|n| *n as usize).collect::<Vec<_>>()).filter(|l| l.iter().any(|n| *n != time))
        }
        Some(l) => {
            return Err(Error::failed(format!("sequence_lens {l:?} do not fit {batch} sequences of {time} steps")));
        }
    };
    let sequences = layer
        .reverse
        .iter()
        .map(|&reverse| Sequence { time, batch, hidden, reverse, lengths: lengths.clone() })
        .collect();
    Ok(Bound { inputs: list, sequences, width })
}

impl<R: Real> Bound<R> {
    /// Direction `d` of input `i`.
    fn part(&self, i: usize, d: usize) -> Option<&[R]> {
        let t = self.inputs[i].as_ref()?;
        let n = t.len() / self.sequences.len();
        Some(&t.data()[d * n..(d + 1) * n])
    }

    fn weights(&self, d: usize) -> lstm::Weights<'_, R> {
        lstm::Weights {
            w: self.part(W, d).unwrap_or(&[]),
            r: self.part(R_, d).unwrap_or(&[]),
            bias: self.part(B, d),
            peephole: self.part(P, d),
        }
    }

    fn simple(&self, d: usize) -> rnn::Weights<'_, R> {
        let w = self.weights(d);
        rnn::Weights { w: w.w, r: w.r, bias: w.bias }
    }

    fn x(&self) -> &[R] {
        self.inputs[X].as_ref().map_or(&[], |t| t.data())
    }
}

/// What a direction leaves behind.
enum Trace<R: Real> {
    Lstm(lstm::Trace<R>),
    Gru(gru::Trace<R>),
    Rnn(Buf<R>),
}

impl<R: Real> Trace<R> {
    fn h(&self) -> &[R] {
        match self {
            Trace::Lstm(t) => &t.h,
            Trace::Gru(t) => &t.h,
            Trace::Rnn(h) => h,
        }
    }
}

fn run<R: Real>(layer: Arc<Layer>, cx: &Context, inputs: Inputs<R>) -> Result<Out<R>> {
    let bound = bind(&layer, &inputs)?;
    let dirs = bound.sequences.len();
    let traces: Vec<Trace<R>> = (0..dirs)
        .map(|d| {
            let (seq, h0) = (&bound.sequences[d], bound.part(H0, d));
            match &layer.cells[d] {
                Cell::Lstm(c) => {
                    let c0 = bound.part(C0, d);
                    Trace::Lstm(lstm::forward(seq, c, bound.weights(d), bound.x(), bound.width, h0, c0))
                }
                Cell::Gru(c) => Trace::Gru(gru::forward(seq, c, bound.simple(d), bound.x(), bound.width, h0)),
                Cell::Rnn(f, clip) => {
                    Trace::Rnn(rnn::forward(seq, *f, *clip, bound.simple(d), bound.x(), bound.width, h0))
                }
            }
        })
        .collect();
    let values = outputs(&layer, &bound, &traces, cx.outputs);
    if !cx.any() {
        return Ok(Out { values, back: None });
    }
    let wants: Vec<bool> = (0..8).map(|i| cx.wants(i)).collect();
    let back = move |grads| backward(&layer, &bound, traces, grads, &wants);
    Ok(Out { values, back: Some(Box::new(back)) })
}

/// Y [time, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden]; batch first in the other layout.
fn outputs<R: Real>(layer: &Layer, bound: &Bound<R>, traces: &[Trace<R>], count: usize) -> Vec<Value<R>> {
    let s = &bound.sequences[0];
    let (dirs, block) = (traces.len(), s.block());
    let mut y = Buf::stale(s.time * dirs * block);
    for (d, trace) in traces.iter().enumerate() {
        let seq = &bound.sequences[d];
        for t in 0..s.time {
            let out = &mut y[(t * dirs + d) * block..][..block];
            out.copy_from_slice(seq.after(trace.h(), t));
            for b in (0..s.batch).filter(|b| !seq.active(t, *b)) {
                out[b * s.hidden..(b + 1) * s.hidden].fill(R::ZERO);
            }
        }
    }
    let mut y = Tensor::new([s.time, dirs, s.batch, s.hidden], y);
    let last = |states: &dyn Fn(&Trace<R>) -> Vec<R>| {
        let all = (0..dirs).flat_map(|d| bound.sequences[d].last(&states(&traces[d])).to_vec()).collect::<Vec<R>>();
        let t = Tensor::new([dirs, s.batch, s.hidden], all);
        Value::Float(if layer.batch_first { swapped(&t) } else { t })
    };
    let mut values = Vec::new();
    if count > 1 {
        values.push(last(&|t| t.h().to_vec()));
    }
    if count > 2 {
        values.push(last(&|t| match t {
            Trace::Lstm(l) => l.c.to_vec(),
            t => t.h().to_vec(),
        }));
    }
    if layer.batch_first {
        // [time, dirs, batch, hidden] → [batch, time, dirs, hidden]
        let full = View::of(y.shape());
        let view = View {
            shape: vec![s.batch, s.time, dirs, s.hidden],
            strides: vec![full.strides[2], full.strides[0], full.strides[1], 1],
            offset: 0,
        };
        let mut out = Buf::stale(y.len());
        read(&view, y.data(), &mut out);
        y = Tensor::new(view.shape, out);
    }
    values.insert(0, Value::Float(y));
    values
}

fn backward<R: Real>(
    layer: &Layer,
    bound: &Bound<R>,
    traces: Vec<Trace<R>>,
    grads: Vec<Option<Tensor<R>>>,
    wants: &[bool],
) -> Result<Vec<Option<Tensor<R>>>> {
    let s = &bound.sequences[0];
    let (dirs, block) = (traces.len(), s.block());
    let mut grads = grads.into_iter();
    let (gy, gh, gc) = (grads.next().flatten(), grads.next().flatten(), grads.next().flatten());
    let turn = |t: Option<Tensor<R>>| if layer.batch_first { t.as_ref().map(swapped) } else { t };
    let (gh, gc) = (turn(gh), turn(gc));
    let mut out: Vec<Option<Tensor<R>>> = (0..8)
        .map(|i| match &bound.inputs[i] {
            Some(t) if wants[i] => Some(Tensor::zeros(t.shape())),
            _ => None,
        })
        .collect();
    for (d, trace) in traces.into_iter().enumerate() {
        let y = gy.as_ref().map(|g| direction_grad(g, layer.batch_first, s, dirs, d));
        let state = |g: &Option<Tensor<R>>| {
            g.as_ref().map_or_else(|| vec![R::ZERO; block], |g| g.data()[d * block..][..block].to_vec())
        };
        let (mut dh, mut dc) = (state(&gh), state(&gc));
        let mut parts = out.iter_mut().enumerate().map(|(i, t)| {
            t.as_mut().map(|t| {
                let n = t.len() / dirs;
                if i == X { t.data_mut() } else { &mut t.data_mut()[d * n..(d + 1) * n] }
            })
        });
        let mut next = || parts.next().flatten();
        let gradients = Gradients { x: next(), w: next(), r: next(), bias: next(), peephole: None };
        let (_, h0, c0, p) = (next(), next(), next(), next());
        let gradients = Gradients { peephole: p, ..gradients };
        let (seq, x) = (&bound.sequences[d], bound.x());
        match (trace, &layer.cells[d]) {
            (Trace::Lstm(mut t), Cell::Lstm(c)) => {
                let up = Upstream { y: y.as_deref(), h: &mut dh, c: &mut dc };
                lstm::backward(seq, c, bound.weights(d), x, bound.width, &mut t, up, gradients);
            }
            (Trace::Gru(mut t), Cell::Gru(c)) => {
                gru::backward(seq, c, bound.simple(d), x, bound.width, &mut t, y.as_deref(), &mut dh, gradients);
            }
            (Trace::Rnn(h), Cell::Rnn(f, clip)) => {
                rnn::backward(seq, *f, *clip, bound.simple(d), x, bound.width, &h, y.as_deref(), &mut dh, gradients);
            }
            _ => {}
        }
        if let Some(h0) = h0 {
            h0.copy_from_slice(&dh);
        }
        if let Some(c0) = c0 {
            c0.copy_from_slice(&dc);
        }
    }
    if layer.batch_first {
        for i in [X, H0, C0] {
            out[i] = out[i].as_ref().map(swapped);
        }
    }
    Ok(out)
}

/// The part of Y's gradient that belongs to one direction, [time, batch, hidden].
fn direction_grad<R: Real>(g: &Tensor<R>, batch_first: bool, s: &Sequence, dirs: usize, d: usize) -> Buf<R> {
    let (time, batch, hidden) = (s.time as isize, s.batch as isize, s.hidden as isize);
    let dirs = dirs as isize;
    let strides =
        if batch_first { vec![dirs * hidden, time * dirs * hidden, 1] } else { vec![dirs * batch * hidden, hidden, 1] };
    let offset = if batch_first { d as isize * hidden } else { d as isize * batch * hidden };
    let view = View { shape: vec![s.time, s.batch, s.hidden], strides, offset };
    let mut out = Buf::stale(s.time * s.block());
    read(&view, g.data(), &mut out);
    out
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    let build: fn(&Attributes<R>) -> Result<Run<R>> = |a| {
        let layer = Arc::new(layer(a)?);
        Ok(Box::new(move |cx, inputs| run(layer.clone(), cx, inputs)))
    };
    ["LSTM", "GRU", "RNN"].map(|name| Entry::new(name, Gradient::Yes, build)).into()
}
