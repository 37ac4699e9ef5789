//! From a graph to a program: everything that can be refused is refused here, before anything runs. Constants are
//! folded, branches with a constant condition resolved, what no output needs is left out, and steps that depend on
//! weights alone come first, so that they run once for many batches.

use std::collections::{BTreeMap, HashMap, HashSet};

use compress_core::error::did_you_mean;
use compress_core::{Error, Result};

use crate::graph::{Graph, Input, Node};
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Run, table};
use crate::real::Real;
use crate::value::{Tensor, Value};

/// One operation of a program. Slots number the values.
pub struct Step<R: Real> {
    pub(crate) run: Run<R>,
    pub(crate) gradient: Gradient,
    /// Operator name.
    pub op: String,
    /// Node name and operator, for messages.
    pub title: String,
    /// Node name, maybe empty.
    pub name: String,
    /// Slots read.
    pub inputs: Vec<Option<usize>>,
    /// Slots written.
    pub outputs: Vec<Option<usize>>,
    /// Inputs (by position) that nobody reads afterwards.
    pub(crate) last: Vec<bool>,
    /// The node that it was made from, where it was.
    pub(crate) node: Option<Node<R>>,
    /// Outputs that nobody reads.
    pub(crate) unread: Vec<bool>,
}

/// A weight that is given at run time.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name in the model.
    pub name: String,
    /// Where it stands in the graph.
    pub slot: usize,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A graph that is ready to run.
pub struct Program<R: Real> {
    /// Operations in order, those that depend on weights alone first.
    pub steps: Vec<Step<R>>,
    /// How many steps depend on weights alone.
    pub derived: usize,
    /// Number of slots.
    pub slots: usize,
    /// Names of the slots' values.
    pub names: Vec<String>,
    /// Weights in the order of their names.
    pub params: Vec<Param>,
    /// What the graph is fed with, and where.
    pub inputs: Vec<(usize, Input)>,
    /// Results, in the order asked for.
    pub outputs: Vec<usize>,
    pub(crate) constants: Vec<(usize, Value<R>)>,
}

/// What a name stands for while the program is built.
#[derive(Clone)]
enum Known<R: Real> {
    Constant(Value<R>),
    Slot(usize),
}

struct Builder<'a, R: Real> {
    table: Vec<Entry<R>>,
    known: HashMap<String, Known<R>>,
    names: Vec<String>,
    constants: Vec<(usize, Value<R>)>,
    steps: Vec<Step<R>>,
    needed: &'a HashSet<String>,
    /// Names that weights stand for: the nodes that make them are left out.
    weights: &'a BTreeMap<String, String>,
}

impl<R: Real> Program<R> {
    /// Plans a graph for some of its outputs. `weights`: value name in the graph → weight's name and shape.
    pub fn new(
        graph: &Graph<R>,
        outputs: &[String],
        weights: &BTreeMap<String, (String, Vec<usize>)>,
    ) -> Result<Program<R>> {
        let by_value: BTreeMap<String, String> = weights.iter().map(|(v, (n, _))| (v.clone(), n.clone())).collect();
        let needed = needed(graph, outputs, &by_value)?;
        let mut b = Builder {
            table: table(),
            known: HashMap::new(),
            names: Vec::new(),
            constants: Vec::new(),
            steps: Vec::new(),
            needed: &needed,
            weights: &by_value,
        };
        let mut params = Vec::new();
        for (value, (name, shape)) in weights.iter().filter(|(v, _)| needed.contains(*v)) {
            let slot = b.slot(value);
            params.push(Param { name: name.clone(), slot, shape: shape.clone() });
            b.known.insert(value.clone(), Known::Slot(slot));
        }
        let mut inputs = Vec::new();
        for input in graph.inputs.iter().filter(|i| needed.contains(&i.name)) {
            let slot = b.slot(&input.name);
            inputs.push((slot, input.clone()));
            b.known.insert(input.name.clone(), Known::Slot(slot));
        }
        b.graph(graph)?;
        let outputs = outputs.iter().map(|name| b.read(name)).collect::<Result<Vec<_>>>()?;
        let mut program = Program {
            derived: 0,
            slots: b.names.len(),
            steps: b.steps,
            names: b.names,
            params,
            inputs,
            outputs,
            constants: b.constants,
        };
        program.order();
        Ok(program)
    }

    /// Puts steps that depend on weights alone first and marks last uses.
    pub(crate) fn order(&mut self) {
        let mut fixed = vec![false; self.slots];
        self.constants.iter().for_each(|(s, _)| fixed[*s] = true);
        self.params.iter().for_each(|p| fixed[p.slot] = true);
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for step in std::mem::take(&mut self.steps) {
            // Random steps have no inputs that say so: they are never fixed.
            if step.op != "dropout" && step.inputs.iter().flatten().all(|s| fixed[*s]) {
                step.outputs.iter().flatten().for_each(|s| fixed[*s] = true);
                first.push(step);
            } else {
                later.push(step);
            }
        }
        self.derived = first.len();
        first.extend(later);
        self.steps = first;
        let mut read: HashSet<usize> = self.outputs.iter().copied().collect();
        for step in self.steps.iter_mut().rev() {
            step.unread = step.outputs.iter().map(|o| o.is_none_or(|o| !read.contains(&o))).collect();
            let mut seen = HashSet::new();
            step.last = vec![false; step.inputs.len()];
            for i in (0..step.inputs.len()).rev() {
                if let Some(slot) = step.inputs[i] {
                    step.last[i] = !read.contains(&slot) && seen.insert(slot);
                }
            }
            read.extend(step.inputs.iter().flatten());
        }
    }

    /// Puts the steps that these inputs reach behind all others; gives how many of the others there are.
    pub fn put_last(&mut self, late: &[&str]) -> usize {
        let mut reached = vec![false; self.slots];
        for (slot, input) in &self.inputs {
            reached[*slot] = late.contains(&input.name.as_str());
        }
        let rest = self.steps.split_off(self.derived);
        let (mut early, mut later) = (Vec::new(), Vec::new());
        for step in rest {
            if step.inputs.iter().flatten().any(|s| reached[*s]) {
                step.outputs.iter().flatten().for_each(|s| reached[*s] = true);
                later.push(step);
            } else {
                early.push(step);
            }
        }
        let count = early.len();
        self.steps.extend(early);
        self.steps.extend(later);
        self.order();
        count
    }

    /// Which slots carry gradients when the params named by `trained` do. Refuses operators that would lose them.
    pub fn carriers(&self, trained: impl Fn(&str) -> bool) -> Result<Vec<bool>> {
        let mut carries = vec![false; self.slots];
        for p in &self.params {
            carries[p.slot] = trained(&p.name);
        }
        for step in &self.steps {
            if !step.inputs.iter().flatten().any(|s| carries[*s]) {
                continue;
            }
            match step.gradient {
                Gradient::Zero => {}
                Gradient::Yes => step.outputs.iter().flatten().for_each(|s| carries[*s] = true),
                Gradient::Missing => {
                    return Err(Error::failed(format!(
                        "{}: gradients through {} are not supported; freeze the weights before it or retrain by a command",
                        step.title, step.op
                    )));
                }
            }
        }
        Ok(carries)
    }
}

impl<R: Real> Builder<'_, R> {
    fn slot(&mut self, name: &str) -> usize {
        self.names.push(name.to_string());
        self.names.len() - 1
    }

    /// The slot of a value; constants get one when they are first read by a step.
    fn read(&mut self, name: &str) -> Result<usize> {
        match self.known.get(name).cloned() {
            Some(Known::Slot(s)) => Ok(s),
            Some(Known::Constant(v)) => {
                let slot = self.slot(name);
                self.constants.push((slot, v));
                self.known.insert(name.to_string(), Known::Slot(slot));
                Ok(slot)
            }
            None => Err(Error::failed(format!("the graph reads \"{name}\", which nothing makes; the file is broken"))),
        }
    }

    fn constant(&self, name: &str) -> Option<Value<R>> {
        match self.known.get(name)? {
            Known::Constant(v) => Some(v.clone()),
            Known::Slot(s) => self.constants.iter().find(|(c, _)| c == s).map(|(_, v)| v.clone()),
        }
    }

    fn graph(&mut self, graph: &Graph<R>) -> Result<()> {
        for (name, value) in &graph.constants {
            if !self.weights.contains_key(name) {
                self.known.insert(name.clone(), Known::Constant(value.clone()));
            }
        }
        for node in &graph.nodes {
            let wanted = |o: &String| self.needed.contains(o) && !self.weights.contains_key(o);
            if node.outputs.iter().any(wanted) {
                self.node(node).map_err(|e| {
                    if matches!(&e, Error::Failed(t) if t.starts_with("node ")) { e } else { e.at(node.title()) }
                })?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &Node<R>) -> Result<()> {
        if node.op == "If" && node.domain.is_empty() {
            return self.branch(node);
        }
        let full = if node.domain.is_empty() { node.op.clone() } else { format!("{}::{}", node.domain, node.op) };
        let attributes = Attributes::new(node);
        let Some(entry) = self.table.iter().find(|e| e.name == full) else {
            let hint = did_you_mean(&full, self.table.iter().map(|e| e.name));
            return Err(Error::failed(format!(
                "operator {full} is not supported{hint}; evaluate and retrain this model by a command instead"
            )));
        };
        let gradient = entry.gradient;
        let run = (entry.build)(&attributes)?;
        attributes.finish()?;
        let constants: Option<Vec<Option<Value<R>>>> =
            node.inputs.iter().map(|i| if i.is_empty() { Some(None) } else { self.constant(i).map(Some) }).collect();
        if let Some(inputs) = constants {
            let cx = Context { grad: vec![false; inputs.len()], outputs: node.outputs.len(), noise: None };
            let out = run(&cx, Inputs(inputs))?;
            for (name, value) in node.outputs.iter().zip(out.values) {
                if !self.weights.contains_key(name) {
                    self.known.insert(name.clone(), Known::Constant(value));
                }
            }
            return Ok(());
        }
        let inputs = node.inputs.iter().map(|i| if i.is_empty() { Ok(None) } else { self.read(i).map(Some) });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let mut outputs = Vec::new();
        for name in &node.outputs {
            if name.is_empty() || self.weights.contains_key(name) {
                outputs.push(None);
            } else {
                let slot = self.slot(name);
                self.known.insert(name.clone(), Known::Slot(slot));
                outputs.push(Some(slot));
            }
        }
        self.steps.push(Step {
            run,
            gradient,
            op: node.op.clone(),
            title: node.title(),
            name: node.name.clone(),
            inputs,
            outputs,
            last: Vec::new(),
            unread: Vec::new(),
            node: Some(node.clone()),
        });
        Ok(())
    }

    /// If: the branch that a constant condition takes becomes part of the program.
    fn branch(&mut self, node: &Node<R>) -> Result<()> {
        let attributes = Attributes::new(node);
        let condition = node.inputs.first().and_then(|c| self.constant(c));
        let Some(condition) = condition else {
            return Err(Error::failed(
                "its condition depends on the input; only conditions that are constant are supported: export the model with fixed control flow",
            ));
        };
        let taken = condition.bool()?.data().first().copied().unwrap_or(false);
        let name = if taken { "then_branch" } else { "else_branch" };
        let graph = attributes.graph(name)?.ok_or_else(|| Error::failed(format!("it has no {name}")))?;
        self.graph(graph)?;
        for (inner, outer) in graph.outputs.iter().zip(&node.outputs) {
            if let Some(k) = self.known.get(inner).cloned() {
                self.known.insert(outer.clone(), k);
            }
        }
        Ok(())
    }
}

/// Names that the outputs depend on; a weight's makers are not among them.
fn needed<R: Real>(
    graph: &Graph<R>,
    outputs: &[String],
    weights: &BTreeMap<String, String>,
) -> Result<HashSet<String>> {
    let known: Vec<&str> = graph.nodes.iter().flat_map(|n| &n.outputs).map(String::as_str).collect();
    for out in outputs {
        let is_input = graph.inputs.iter().any(|i| i.name == *out) || graph.constants.contains_key(out);
        if !known.contains(&out.as_str()) && !is_input {
            let hint = did_you_mean(out, graph.outputs.iter().map(String::as_str));
            return Err(Error::failed(format!("the graph has no output \"{out}\"{hint}")));
        }
    }
    let mut all: HashSet<String> = outputs.iter().cloned().collect();
    mark(graph, &mut all, weights);
    Ok(all)
}

fn mark<R: Real>(graph: &Graph<R>, all: &mut HashSet<String>, weights: &BTreeMap<String, String>) {
    for node in graph.nodes.iter().rev() {
        if !node.outputs.iter().any(|o| all.contains(o) && !weights.contains_key(o)) {
            continue;
        }
        all.extend(node.inputs.iter().filter(|i| !i.is_empty()).cloned());
        for (_, attribute) in &node.attributes {
            if let crate::graph::Attribute::Graph(g) = attribute {
                all.extend(g.outputs.iter().cloned());
                mark(g, all, weights);
            }
        }
    }
}

/// The initial values of a program's weights from a table by name.
pub fn bind<R: Real>(program: &Program<R>, values: &BTreeMap<String, Tensor<R>>) -> Result<Vec<Tensor<R>>> {
    program
        .params
        .iter()
        .map(|p| {
            let t = values.get(&p.name).ok_or_else(|| Error::failed(format!("weight \"{}\" is missing", p.name)))?;
            if t.shape() != p.shape {
                return Err(Error::failed(format!(
                    "weight \"{}\" has shape {:?}, expected {:?}",
                    p.name,
                    t.shape(),
                    p.shape
                )));
            }
            Ok(t.clone())
        })
        .collect()
}
