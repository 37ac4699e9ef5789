//! An ONNX model as a [`Graph`]: names of sub-graphs made unique, local functions inlined, constants read into memory.

use std::collections::{BTreeMap, HashMap};

use compress_core::convert::to_f32;
use compress_core::tensor::Dtype;
use compress_core::{Error, Result};
use compress_onnx::model::{self, Model, TensorRef};

use crate::graph::{Attribute, Graph, Input, Node};
use crate::real::Real;
use crate::value::{IntKind, Tensor, Value};

/// Reads a model. Initialisers for which `skip` says so are left out: their values come at run time.
pub fn import<R: Real>(model: &Model, skip: &dyn Fn(&str) -> bool) -> Result<Graph<R>> {
    let mut import = Import { model, skip, calls: 0 };
    let mut out = Graph { outputs: names(&model.graph.outputs), ..Graph::default() };
    let scope = Scope::default();
    import.graph(&model.graph, "", &scope, &mut out)?;
    for input in &model.graph.inputs {
        if out.constants.contains_key(&input.name) || skip(&input.name) {
            continue; // files of IR version 3 list initialisers as inputs
        }
        let kind = match input.data_type.map(|t| t.0) {
            Some(1 | 10 | 11 | 16) | None => "float",
            Some(9) => "boolean",
            Some(_) => "integer",
        };
        let dims = input.dims.as_ref().map(|dims| {
            let size = |d: &model::Dim| match d {
                model::Dim::Value(n) => Some(*n as usize),
                _ => None,
            };
            dims.iter().map(size).collect()
        });
        out.inputs.push(Input { name: input.name.clone(), dims, dim_names: dim_names(input), kind });
    }
    out.output_dim_names = model.graph.outputs.iter().map(|o| (o.name.clone(), dim_names(o))).collect();
    Ok(out)
}

fn dim_names(info: &model::ValueInfo) -> Vec<Option<String>> {
    let name = |d: &model::Dim| match d {
        model::Dim::Name(n) if !n.is_empty() => Some(n.clone()),
        _ => None,
    };
    info.dims.iter().flatten().map(name).collect()
}

fn names(list: &[model::ValueInfo]) -> Vec<String> {
    list.iter().map(|v| v.name.clone()).collect()
}

/// New names of values, and the attributes of the call within a function.
#[derive(Clone, Default)]
struct Scope {
    names: HashMap<String, String>,
    arguments: HashMap<String, model::Attribute>,
    opsets: Option<Vec<(String, i64)>>,
}

impl Scope {
    fn name(&self, name: &str) -> String {
        self.names.get(name).cloned().unwrap_or_else(|| name.to_string())
    }
}

struct Import<'a> {
    model: &'a Model,
    skip: &'a dyn Fn(&str) -> bool,
    calls: usize,
}

impl Import<'_> {
    /// Adds a graph's constants and nodes; `prefix` goes before the names that it defines.
    fn graph<R: Real>(&mut self, g: &model::Graph, prefix: &str, outer: &Scope, out: &mut Graph<R>) -> Result<Scope> {
        let mut scope = outer.clone();
        if !prefix.is_empty() {
            let made = g.nodes.iter().flat_map(|n| &n.outputs).filter(|o| !o.is_empty());
            let own = g
                .initializers
                .iter()
                .map(|t| &t.name)
                .chain(made)
                .chain(g.sparse_initializers.iter().map(|s| &s.values.name));
            scope.names.extend(own.map(|n| (n.clone(), format!("{prefix}{n}"))));
        }
        for t in &g.initializers {
            let name = scope.name(&t.name);
            if !(self.skip)(&name) {
                out.constants.insert(name, read(t)?);
            }
        }
        if let Some(s) = g.sparse_initializers.first() {
            return Err(Error::failed(format!(
                "sparse initialiser \"{}\" is not supported by the engine; run `compress decompress` on the model first",
                s.values.name
            )));
        }
        self.nodes(&g.nodes, prefix, &scope, out)?;
        Ok(scope)
    }

    fn nodes<R: Real>(&mut self, nodes: &[model::Node], prefix: &str, scope: &Scope, out: &mut Graph<R>) -> Result<()> {
        for node in nodes {
            if let Some(f) = self.model.function(node) {
                self.call(node, f, scope, out)?;
                continue;
            }
            let node = self.node(node, prefix, scope)?;
            out.nodes.push(node);
        }
        Ok(())
    }

    /// A local function's nodes, with its formal names replaced by those of the call.
    fn call<R: Real>(
        &mut self,
        node: &model::Node,
        f: &model::Function,
        outer: &Scope,
        out: &mut Graph<R>,
    ) -> Result<()> {
        self.calls += 1;
        if self.calls > 10_000 {
            return Err(Error::failed("the model's functions call each other without end"));
        }
        let prefix = format!("{}#{}/", f.name, self.calls);
        let mut scope = Scope { opsets: Some(f.opsets.clone()), ..Scope::default() };
        for made in f.nodes.iter().flat_map(|n| &n.outputs).filter(|o| !o.is_empty()) {
            scope.names.insert(made.clone(), format!("{prefix}{made}"));
        }
        for (i, formal) in f.inputs.iter().enumerate() {
            let actual = node.inputs.get(i).map_or(String::new(), |n| outer.name(n));
            scope.names.insert(formal.clone(), actual);
        }
        for (formal, actual) in f.outputs.iter().zip(&node.outputs) {
            scope.names.insert(formal.clone(), outer.name(actual));
        }
        scope.arguments = node.attributes.iter().cloned().collect();
        self.nodes(&f.nodes, &prefix, &scope, out)
    }

    fn node<R: Real>(&mut self, node: &model::Node, prefix: &str, scope: &Scope) -> Result<Node<R>> {
        let label = if node.name.is_empty() {
            node.outputs.iter().find(|o| !o.is_empty()).map_or("", String::as_str)
        } else {
            &node.name
        };
        let mut attributes = Vec::new();
        for (name, value) in &node.attributes {
            let value = match value {
                model::Attribute::Reference(r) => match scope.arguments.get(r) {
                    Some(v) => v,
                    None => continue,
                },
                v => v,
            };
            let place = format!("{prefix}{label}/{name}/");
            attributes.push((name.clone(), self.attribute(value, &place, scope)?));
        }
        let domain = if node.is_standard() { String::new() } else { node.domain.clone() };
        let opset = match &scope.opsets {
            Some(list) => {
                list.iter().find(|(d, _)| d == &domain || (domain.is_empty() && d == "ai.onnx")).map(|(_, v)| *v)
            }
            None => self.model.opset(&domain),
        };
        Ok(Node {
            name: format!("{prefix}{}", node.name).trim_end_matches('/').to_string(),
            op: node.op_type.clone(),
            domain,
            inputs: node.inputs.iter().map(|n| if n.is_empty() { String::new() } else { scope.name(n) }).collect(),
            outputs: node.outputs.iter().map(|n| if n.is_empty() { String::new() } else { scope.name(n) }).collect(),
            attributes,
            opset: opset.unwrap_or(1),
        })
    }

    fn attribute<R: Real>(&mut self, value: &model::Attribute, prefix: &str, scope: &Scope) -> Result<Attribute<R>> {
        use model::Attribute as A;
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Ok(match value {
            A::Float(f) => Attribute::Float(f64::from(*f)),
            A::Int(i) => Attribute::Int(*i),
            A::String(s) => Attribute::Text(text(s)),
            A::Floats(v) => Attribute::Floats(v.iter().map(|f| f64::from(*f)).collect()),
            A::Ints(v) => Attribute::Ints(v.clone()),
            A::Strings(v) => Attribute::Texts(v.iter().map(|s| text(s)).collect()),
            A::Tensor(t) if t.is_readable() => Attribute::Tensor(read(t)?),
            A::Graph(g) => {
                let mut inner = Graph { outputs: Vec::new(), ..Graph::default() };
                let names_inside = self.graph(g, prefix, scope, &mut inner)?;
                inner.outputs = g.outputs.iter().map(|o| names_inside.name(&o.name)).collect();
                Attribute::Graph(Box::new(inner))
            }
            _ => Attribute::Other,
        })
    }
}

/// A stored tensor as a value.
pub fn read<R: Real>(t: &TensorRef) -> Result<Value<R>> {
    let bytes = t.read_bytes()?;
    let shape: Vec<usize> = t.dims.iter().map(|d| *d as usize).collect();
    value(&t.data_type.dtype(), &bytes, shape).ok_or_else(|| {
        Error::failed(format!("tensor \"{}\" of type {} cannot be computed with", t.name, t.data_type.name()))
    })
}

/// Little-endian bytes of a type as a value.
pub fn value<R: Real>(dtype: &Dtype, bytes: &[u8], shape: Vec<usize>) -> Option<Value<R>> {
    fn ints<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        bytes.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
    }
    Some(match dtype {
        Dtype::F64 => {
            let v = bytes.as_chunks::<8>().0.iter().map(|c| R::of(f64::from_le_bytes(*c))).collect::<Vec<_>>();
            Value::Float(Tensor::new(shape, v))
        }
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => {
            let mut narrow = vec![0f32; shape.iter().product()];
            to_f32(dtype, bytes, &mut narrow);
            Value::Float(Tensor::new(shape, narrow.into_iter().map(|v| R::of(f64::from(v))).collect::<Vec<_>>()))
        }
        Dtype::Other(name, _) => {
            let (kind, list) = match name.as_str() {
                "I64" => (IntKind::I64, ints(bytes, i64::from_le_bytes)),
                "I32" => (IntKind::I32, ints(bytes, |b| i64::from(i32::from_le_bytes(b)))),
                "I16" => (IntKind::I16, ints(bytes, |b| i64::from(i16::from_le_bytes(b)))),
                "I8" => (IntKind::I8, ints(bytes, |b| i64::from(i8::from_le_bytes(b)))),
                "U64" => (IntKind::U64, ints(bytes, |b| u64::from_le_bytes(b) as i64)),
                "U32" => (IntKind::U32, ints(bytes, |b| i64::from(u32::from_le_bytes(b)))),
                "U16" => (IntKind::U16, ints(bytes, |b| i64::from(u16::from_le_bytes(b)))),
                "U8" => (IntKind::U8, ints(bytes, |b: [u8; 1]| i64::from(b[0]))),
                "BOOL" => {
                    return Some(Value::Bool(Tensor::new(shape, bytes.iter().map(|b| *b != 0).collect::<Vec<_>>())));
                }
                _ => return None,
            };
            Value::Int(Tensor::new(shape, list), kind)
        }
    })
}

/// Weights by value name in the graph: those of `names` that the graph has under that name.
pub fn weight_values<R: Real>(
    graph: &Graph<R>,
    names: &[(String, Vec<usize>)],
) -> BTreeMap<String, (String, Vec<usize>)> {
    let mut out = BTreeMap::new();
    for (name, shape) in names {
        // X of `X_orig · X_mask` (torch.nn.utils.prune) is what the product gives.
        let (orig, mask) = (format!("{name}_orig"), format!("{name}_mask"));
        let product =
            graph.nodes.iter().find(|n| n.op == "Mul" && n.inputs.contains(&orig) && n.inputs.contains(&mask));
        let value = product.and_then(|n| n.outputs.first()).unwrap_or(name);
        out.insert(value.clone(), (name.clone(), shape.clone()));
    }
    out
}
