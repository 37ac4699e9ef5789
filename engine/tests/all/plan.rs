//! What is refused before anything runs, and what is resolved then.

use std::collections::BTreeMap;

use compress_engine::execute::Mode;
use compress_engine::graph::{Attribute, Graph, Input, Node};
use compress_engine::program::Program;
use compress_engine::value::{Tensor, Value};

fn input(name: &str) -> Input {
    Input { name: name.into(), dims: None, dim_names: Vec::new(), kind: "float" }
}

fn graph(nodes: Vec<Node<f32>>) -> Graph<f32> {
    Graph { inputs: vec![input("x")], outputs: vec!["y".into()], nodes, ..Graph::default() }
}

fn plan(graph: &Graph<f32>) -> Result<Program<f32>, String> {
    Program::new(graph, &["y".into()], &BTreeMap::new()).map_err(|e| e.to_string())
}

fn run(graph: &Graph<f32>, x: Vec<f32>) -> Result<Vec<f32>, String> {
    let program = plan(graph)?;
    let base = program.base(&[], None).map_err(|e| e.to_string())?;
    let inputs = [("x".to_string(), Value::Float(Tensor::vector(x)))];
    let pass = program.forward(&base, &inputs, Mode::default(), None).map_err(|e| e.to_string())?;
    Ok(pass.outputs[0].float().map_err(|e| e.to_string())?.data().to_vec())
}

#[test]
fn what_is_not_supported_is_named_before_anything_runs() {
    let text = |t: &str| Attribute::Text(t.into());
    let cases = [
        (Node::new("Tanhh", &["x"], &["y"]), "operator Tanhh is not supported (did you mean \"Tanh\"?)"),
        (Node::new("Tanh", &["x"], &["y"]).with("speed", Attribute::Int(1)), "attribute \"speed\" is not supported"),
        (
            Node::new("Gelu", &["x"], &["y"]).with("approximate", text("magic")),
            "approximate = \"magic\" is not supported",
        ),
        (Node::new("LSTM", &["x", "x", "x"], &["y"]).with("direction", text("up")), "direction = \"up\""),
        (Node::new("If", &["x"], &["y"]), "its condition depends on the input"),
        (Node::new("Tanh", &["z"], &["y"]), "the graph reads \"z\", which nothing makes"),
    ];
    for (mut node, expected) in cases {
        node.name = "here".into();
        let error = plan(&graph(vec![node])).err().unwrap_or_default();
        assert!(error.contains(expected) && error.contains("node \"here\""), "{error}");
    }
}

#[test]
fn errors_at_run_time_name_the_node_and_its_inputs() {
    let mut g = graph(vec![Node::new("Add", &["x", "c"], &["y"])]);
    g.constants.insert("c".into(), Value::Float(Tensor::vector(vec![1.0, 2.0])));
    assert_eq!(run(&g, vec![1.0, 1.0]).unwrap_or_default(), [2.0, 3.0]);
    let error = run(&g, vec![1.0; 3]).err().unwrap_or_default();
    assert!(error.contains("(Add) with inputs float [3], float [2]: shapes [3] and [2] do not broadcast"), "{error}");
}

#[test]
fn a_branch_with_a_constant_condition_becomes_part_of_the_program() {
    for (condition, expected) in [(true, 2.0), (false, 0.0)] {
        let branch = |op: &str, out: &str| {
            let nodes = vec![Node::new(op, &["x", "x"], &[out])];
            Attribute::Graph(Box::new(Graph { outputs: vec![out.into()], nodes, ..Graph::default() }))
        };
        let node = Node::new("If", &["c"], &["y"])
            .with("then_branch", branch("Add", "a"))
            .with("else_branch", branch("Sub", "b"));
        let mut g = graph(vec![node]);
        g.constants.insert("c".into(), Value::Bool(Tensor::scalar(condition)));
        assert_eq!(run(&g, vec![1.0]).unwrap_or_default(), [expected]);
    }
}

#[test]
fn constants_are_folded_and_what_nothing_needs_is_left_out() {
    let mut g = graph(vec![
        Node::new("Add", &["c", "c"], &["d"]),
        Node::new("Nonsense", &["x"], &["unused"]),
        Node::new("Mul", &["x", "d"], &["y"]),
    ]);
    g.constants.insert("c".into(), Value::Float(Tensor::scalar(1.5)));
    let program = plan(&g).expect("the unused operator does not matter");
    assert_eq!(program.steps.len(), 1);
    assert_eq!(run(&g, vec![2.0]).unwrap_or_default(), [6.0]);
}
