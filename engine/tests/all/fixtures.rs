//! Small models by both of PyTorch's exporters (`make_fixtures.py`): what they give is what ONNX Runtime gives, and their
//! gradients are those of PyTorch in f64.

use std::collections::BTreeMap;
use std::path::PathBuf;

use compress_core::stfile::StFile;
use compress_engine::execute::Mode;
use compress_engine::graph::Graph;
use compress_engine::import::import;
use compress_engine::program::{Program, bind};
use compress_engine::real::Real;
use compress_engine::step::{Gradients, Labels, Objective, gradients};
use compress_onnx::model::Model;

use crate::common::{Tensors, distance, repository, tensors};

/// The models, how many of their weights PyTorch's gradients are compared for, and how near they are in f64: where a file
/// has rounded ε of a norm or a scale to f32 (and folded a norm into a kernel in f32), no nearer than that.
const MODELS: &[(&str, usize, f64)] = &[
    ("digits-dynamo-20", 9, 1e-6),
    ("digits-legacy-17", 9, 1e-6),
    ("gated-dynamo-20", 13, 1e-9),
    ("gated-legacy-17", 12, 1e-9),
    ("transformer-legacy-20", 72, 1e-6),
    ("transformer-legacy-17", 72, 1e-6),
    ("translation-dynamo-20", 19, 1e-9),
    ("translation-legacy-17", 19, 1e-9),
];

struct Fixture {
    model: Model,
    io: StFile,
}

fn open(name: &str) -> Fixture {
    let path = |end: &str| -> PathBuf { repository(&format!("engine/tests/fixtures/{name}{end}")) };
    Fixture {
        model: Model::open(&path(".onnx"), &Default::default()).unwrap(),
        io: StFile::open(&path(".io.safetensors")).unwrap(),
    }
}

impl Fixture {
    fn number(&self, key: &str) -> f64 {
        self.io.metadata().iter().find(|(k, _)| k == key).unwrap().1.parse().unwrap()
    }

    /// The graph as the file has it, everything constant but its inputs.
    fn graph<R: Real>(&self) -> Graph<R> {
        import::<R>(&self.model, &|_| false).unwrap()
    }

    /// Gradients of the mean cross-entropy, with the layers behind the counted rows cut down to them where they can be.
    fn gradients<R: Real>(&self, expected: &Tensors<f64>, compact: bool) -> (f64, Gradients<R>) {
        let mut graph = self.graph::<R>();
        let (mut names, mut values) = (BTreeMap::new(), BTreeMap::new());
        for (name, _) in expected {
            let t = graph.constants.remove(name).unwrap().float().unwrap().clone();
            names.insert(name.clone(), (name.clone(), t.shape().to_vec()));
            values.insert(name.clone(), t);
        }
        let mut program = Program::new(&graph, &graph.outputs, &names).unwrap();
        let compact = compact && program.compact();
        let params = bind(&program, &values).unwrap();
        let carriers = program.carriers(|_| true).unwrap();
        let mut batch = tensors::<R>(&self.io, "in");
        let target = self.io.entry("target").unwrap();
        batch.push(("target".into(), crate::common::read(&self.io, target)));
        let fixed = program.inputs.iter().any(|(_, i)| i.dims.iter().flatten().next().copied().flatten().is_some());
        let slices = if fixed { 1 } else { 2 };
        let objective = Objective { target: "target".into(), ignore: Some(0), compact, slices };
        let got = gradients(&program, &params, &carriers, &objective, &batch, None, Labels::Given).unwrap();
        let order = program.params.iter().map(|p| &p.name);
        let errors = order.zip(&got.params).map(|(name, g)| {
            let (_, e) = expected.iter().find(|(n, _)| n == name).unwrap();
            let g = g.as_ref().unwrap_or_else(|| panic!("{name} has no gradient"));
            assert_eq!(g.shape(), e.shape(), "{name}");
            distance(g.data().iter().map(|v| v.f64()), e.float().unwrap().data().iter().copied())
        });
        (errors.fold(0.0, f64::max), got)
    }
}

#[test]
fn outputs_are_those_of_onnx_runtime() {
    for (name, _, _) in MODELS {
        let fixture = open(name);
        let graph = fixture.graph::<f32>();
        let program = Program::new(&graph, &graph.outputs, &BTreeMap::new()).unwrap();
        let base = program.base(&[], None).unwrap();
        let pass = program.forward(&base, &tensors(&fixture.io, "in"), Mode::default(), None).unwrap();
        let expected = tensors::<f32>(&fixture.io, "out");
        let (got, expected) = (pass.outputs[0].float().unwrap(), expected[0].1.float().unwrap());
        assert_eq!(got.shape(), expected.shape(), "{name}");
        let pairs = got.data().iter().zip(expected.data());
        let worst = pairs.map(|(a, b)| f64::from((a - b).abs() / (1.0 + b.abs()))).fold(0.0, f64::max);
        eprintln!("{name}: {worst:.1e}");
        assert!(worst < 1e-5, "{name}: off by {worst}");
    }
}

/// f64 to 1e-9 of PyTorch's f64 where the file allows it; f32 to 1e-4 and at most three times PyTorch's own f32 error.
#[test]
fn gradients_of_whole_models_are_those_of_pytorch() {
    for (name, count, near) in MODELS {
        let fixture = open(name);
        let expected = tensors::<f64>(&fixture.io, "grad");
        assert_eq!(expected.len(), *count, "{name}");
        let torch = fixture.number("f32_worst");
        for compact in [false, true] {
            let (double, got) = fixture.gradients::<f64>(&expected, compact);
            let (single, _) = fixture.gradients::<f32>(&expected, compact);
            eprintln!("{name}: f64 {double:.1e}, f32 {single:.1e}, PyTorch's f32 {torch:.1e}");
            assert!((got.tally.mean() - fixture.number("loss")).abs() < *near, "{name}");
            assert!(double < *near, "{name}: f64 off by {double:.1e}");
            assert!(single < 1e-4 && single < 3.0 * torch.max(1e-6), "{name}: f32 off by {single:.1e}");
        }
    }
}
