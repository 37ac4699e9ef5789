//! The data flow of a model in one list: sub-graphs and local functions unfolded, names replaced by numbers.

use std::collections::HashMap;

use compress_core::tensor::TensorId;

use crate::list::{List, is_constant};
use crate::model::{Attribute, DataType, Function, Graph, Model, Node};

/// Number of a value.
pub(crate) type ValueId = usize;

/// Functions and graphs within each other.
const DEPTH: usize = 64;
/// Calls and nodes after which functions are no longer unfolded: each may call another one twice.
const CALLS: usize = 1 << 16;
const NODES: usize = 1 << 20;

/// All operations in order, and the values between them.
pub(crate) struct Flow<'m> {
    pub(crate) nodes: Vec<FlowNode<'m>>,
    pub(crate) values: Vec<Value<'m>>,
    /// Inputs of the model that are not initialisers, with their element types.
    pub(crate) inputs: Vec<(ValueId, Option<DataType>)>,
    pub(crate) outputs: Vec<ValueId>,
}

/// An operation.
pub(crate) struct FlowNode<'m> {
    pub(crate) node: &'m Node,
    /// Values that it reads. Of If, Loop, Scan the results of their graphs too.
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<ValueId>,
}

/// A value.
#[derive(Default)]
pub(crate) struct Value<'m> {
    pub(crate) name: &'m str,
    /// The operation that makes it.
    pub(crate) producer: Option<usize>,
    /// Which of its outputs.
    pub(crate) output: usize,
    /// Operations that read it, and as which input.
    pub(crate) consumers: Vec<(usize, usize)>,
    /// The tensor of the file that it is.
    pub(crate) tensor: Option<TensorId>,
}

type Scope<'m> = HashMap<&'m str, ValueId>;

impl<'m> Flow<'m> {
    /// Unfolds a model.
    pub(crate) fn of(model: &'m Model, list: &List) -> Flow<'m> {
        let (nodes, values) = (Vec::new(), Vec::new());
        let flow = Flow { nodes, values, inputs: Vec::new(), outputs: Vec::new() };
        let functions = model.functions.iter().map(|f| ((f.domain.as_str(), f.name.as_str()), f)).collect();
        let mut build = Build { flow, list, functions, scopes: Vec::new(), depth: 0, calls: 0 };
        let outputs = build.graph(&model.graph, &[]);
        build.flow.outputs = outputs;
        let mut flow = build.flow;
        for (n, node) in flow.nodes.iter().enumerate() {
            for (i, input) in node.inputs.iter().enumerate() {
                if let Some(value) = input {
                    flow.values[*value].consumers.push((n, i));
                }
            }
        }
        flow
    }

    /// The operation that makes a value.
    pub(crate) fn producer(&self, value: ValueId) -> Option<&FlowNode<'m>> {
        self.values[value].producer.map(|n| &self.nodes[n])
    }
}

impl FlowNode<'_> {
    /// The operator, if it is of the standard set or of ONNX Runtime's own.
    pub(crate) fn op(&self) -> &str {
        let known = self.node.is_standard() || self.node.domain == "com.microsoft";
        if known { &self.node.op_type } else { "" }
    }

    /// Input `i`.
    pub(crate) fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
}

struct Build<'m, 'l> {
    flow: Flow<'m>,
    list: &'l List,
    functions: HashMap<(&'m str, &'m str), &'m Function>,
    /// From the outermost to the innermost; a function's body sees only its own.
    scopes: Vec<Scope<'m>>,
    depth: usize,
    calls: usize,
}

impl<'m> Build<'m, '_> {
    fn value(&mut self, name: &'m str) -> ValueId {
        self.flow.values.push(Value { name, ..Value::default() });
        self.flow.values.len() - 1
    }

    /// The value of a name; a new one where nobody made it.
    fn lookup(&mut self, name: &'m str) -> Option<ValueId> {
        if name.is_empty() {
            return None;
        }
        if let Some(value) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return Some(*value);
        }
        let value = self.value(name);
        self.bind(name, value);
        Some(value)
    }

    fn bind(&mut self, name: &'m str, value: ValueId) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    /// Unfolds a graph whose inputs are bound to `given`; the values of its outputs.
    fn graph(&mut self, graph: &'m Graph, given: &[Option<ValueId>]) -> Vec<ValueId> {
        self.scopes.push(Scope::new());
        let top = self.depth == 0;
        self.depth += 1;
        for (i, input) in graph.inputs.iter().enumerate() {
            let value = given.get(i).copied().flatten().unwrap_or_else(|| self.value(&input.name));
            self.bind(&input.name, value);
            if top {
                self.flow.inputs.push((value, input.data_type));
            }
        }
        let dense = graph.initializers.iter().map(|t| (t.name.as_str(), t.message));
        let sparse = graph.sparse_initializers.iter().map(|s| (s.values.name.as_str(), s.message));
        for (name, message) in dense.chain(sparse) {
            let value = self.value(name);
            self.flow.values[value].tensor = self.list.by_message.get(&message).copied();
            self.bind(name, value);
        }
        if top {
            // Files of IR version 3 list initialisers as inputs as well.
            let scope = &self.scopes[0];
            let (flow, values) = (&mut self.flow.inputs, &self.flow.values);
            flow.retain(|(value, _)| scope.get(values[*value].name) == Some(value));
        }
        self.nodes(&graph.nodes);
        let outputs = graph.outputs.iter().filter_map(|o| self.lookup(&o.name)).collect();
        self.depth -= 1;
        self.scopes.pop();
        outputs
    }

    fn nodes(&mut self, nodes: &'m [Node]) {
        for node in nodes {
            let mut inputs: Vec<_> = node.inputs.iter().map(|name| self.lookup(name)).collect();
            let function = self.functions.get(&(node.domain.as_str(), node.op_type.as_str())).copied();
            if let Some(function) = function.filter(|_| self.may_unfold()) {
                self.call(function, node, &inputs);
                continue;
            }
            for (_, attribute) in &node.attributes {
                let graphs = match attribute {
                    Attribute::Graph(graph) => std::slice::from_ref(&**graph),
                    Attribute::Graphs(graphs) => graphs,
                    _ => continue,
                };
                for graph in graphs {
                    // Bodies of Loop and Scan have the inputs of their node, one for one; branches of If have none.
                    let given = inputs[..node.inputs.len()].to_vec();
                    let results = self.graph(graph, &given);
                    inputs.extend(results.into_iter().map(Some));
                }
            }
            let n = self.flow.nodes.len();
            let mut outputs = Vec::with_capacity(node.outputs.len());
            for (i, name) in node.outputs.iter().enumerate() {
                let value = self.value(name);
                let made = &mut self.flow.values[value];
                (made.producer, made.output) = (Some(n), i);
                if let (true, Some(Attribute::Tensor(t))) = (is_constant(node), node.attribute("value")) {
                    made.tensor = self.list.by_message.get(&t.message).copied();
                }
                self.bind(name, value);
                outputs.push(value);
            }
            self.flow.nodes.push(FlowNode { node, inputs, outputs });
        }
    }

    fn may_unfold(&mut self) -> bool {
        self.calls += 1;
        self.depth < DEPTH && self.calls < CALLS && self.flow.nodes.len() < NODES
    }

    fn call(&mut self, function: &'m Function, node: &'m Node, inputs: &[Option<ValueId>]) {
        let outer = std::mem::replace(&mut self.scopes, vec![Scope::new()]);
        self.depth += 1;
        for (name, value) in function.inputs.iter().zip(inputs) {
            if let Some(value) = value {
                self.bind(name, *value);
            }
        }
        self.nodes(&function.nodes);
        let results: Vec<_> = function.outputs.iter().map(|name| self.lookup(name)).collect();
        self.depth -= 1;
        self.scopes = outer;
        for (name, value) in node.outputs.iter().zip(results) {
            if let Some(value) = value {
                self.bind(name, value);
            }
        }
    }
}
