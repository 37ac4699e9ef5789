//! What `hessian_diag` and `fisher_diag` are, against their definitions on a model small enough to work out: logits x·W.

use std::collections::BTreeMap;

use compress_engine::graph::{Graph, Input, Node};
use compress_engine::program::Program;
use compress_engine::step::{Labels, Objective, gradients};
use compress_engine::value::{Tensor, Value};

const ROWS: usize = 6;
const INPUTS: usize = 2;
const CLASSES: usize = 3;
/// The last target does not count.
const IGNORE: i64 = -100;

fn setting() -> (Program<f64>, Vec<Tensor<f64>>, Vec<(String, Value<f64>)>) {
    let input = Input { name: "x".into(), dims: None, dim_names: Vec::new(), kind: "float" };
    let nodes = vec![Node::new("MatMul", &["x", "w"], &["y"])];
    let graph = Graph::<f64> { inputs: vec![input], outputs: vec!["y".into()], nodes, ..Graph::default() };
    let names = BTreeMap::from([("w".to_string(), ("w".to_string(), vec![INPUTS, CLASSES]))]);
    let program = Program::new(&graph, &graph.outputs, &names).unwrap();
    let w = Tensor::new([INPUTS, CLASSES], vec![0.5, -0.3, 0.1, -0.2, 0.7, 0.4]);
    let x: Vec<f64> = (0..ROWS * INPUTS).map(|i| ((i * 7 + 3) % 11) as f64 / 4.0 - 1.0).collect();
    let target = Value::ints(Tensor::vector(vec![0, 2, 1, 1, 0, IGNORE]));
    let batch = vec![("x".into(), Value::Float(Tensor::new([ROWS, INPUTS], x))), ("t".into(), target)];
    (program, vec![w], batch)
}

/// (x, softmax(x·w)) of each row that counts.
fn rows(w: &Tensor<f64>, batch: &[(String, Value<f64>)]) -> Vec<(Vec<f64>, Vec<f64>)> {
    let x = batch[0].1.float().unwrap().data();
    let row = |r: usize| {
        let x = &x[r * INPUTS..][..INPUTS];
        let logit = |c: usize| (0..INPUTS).map(|i| x[i] * w.data()[i * CLASSES + c]).sum::<f64>();
        let e: Vec<f64> = (0..CLASSES).map(|c| logit(c).exp()).collect();
        let sum: f64 = e.iter().sum();
        (x.to_vec(), e.iter().map(|v| v / sum).collect())
    };
    (0..ROWS - 1).map(row).collect()
}

/// The mean over draws of N·ĝ² is the diagonal of the Gauss–Newton matrix of the mean loss, (1/N)·Σ x²·p·(1 − p): not that
/// of the squared gradients, and whether or not the batch is cut and its rows are compacted.
#[test]
fn drawn_labels_give_the_diagonal_of_the_gauss_newton_matrix() {
    const DRAWS: u64 = 4000;
    let (mut program, weights, batch) = setting();
    let rows = rows(&weights[0], &batch);
    let n = rows.len() as f64;
    let expected: Vec<f64> = (0..INPUTS * CLASSES)
        .map(|k| {
            rows.iter().map(|(x, p)| x[k / CLASSES].powi(2) * p[k % CLASSES] * (1.0 - p[k % CLASSES])).sum::<f64>() / n
        })
        .collect();
    for (compact, slices) in [(false, 1), (true, 2)] {
        let compact = compact && program.compact();
        let carriers = program.carriers(|_| true).unwrap();
        let objective = Objective { target: "t".into(), ignore: Some(IGNORE), compact, slices };
        let mut mean = vec![0.0; expected.len()];
        for key in 0..DRAWS {
            let labels = Labels::Drawn(key * 77 + 5);
            let got = gradients(&program, &weights, &carriers, &objective, &batch, None, labels).unwrap();
            assert_eq!(got.tally.counted as f64, n);
            let g = got.params[0].as_ref().unwrap().data();
            mean.iter_mut().zip(g).for_each(|(m, g)| *m += n * g * g / DRAWS as f64);
        }
        for (m, e) in mean.iter().zip(&expected) {
            assert!((m / e - 1.0).abs() < 0.1, "{mean:?} {expected:?}");
        }
    }
}

/// With the labels of the data: the gradient of the mean loss over counted targets, (1/N)·Σ x·(p − y), whatever the slices.
#[test]
fn given_labels_give_the_gradient_of_the_mean_over_counted_targets() {
    let (program, weights, batch) = setting();
    let rows = rows(&weights[0], &batch);
    let carriers = program.carriers(|_| true).unwrap();
    let labels = batch[1].1.int().unwrap().data().to_vec();
    for slices in [1, 2, 5] {
        let objective = Objective { target: "t".into(), ignore: Some(IGNORE), compact: false, slices };
        let got = gradients(&program, &weights, &carriers, &objective, &batch, None, Labels::Given).unwrap();
        for (k, g) in got.params[0].as_ref().unwrap().data().iter().enumerate() {
            let (i, c) = (k / CLASSES, k % CLASSES);
            let each = rows.iter().zip(&labels).map(|((x, p), t)| x[i] * (p[c] - f64::from(u8::from(*t == c as i64))));
            let e = each.sum::<f64>() / rows.len() as f64;
            assert!((g - e).abs() < 1e-14, "{g} {e}");
        }
    }
}
